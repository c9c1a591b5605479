package console

import (
	"crypto/rand"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// tokensPage is the page that lists management tokens.
type tokensPage struct {
	List  []auth.TokenRecord
	Next  string
	First bool
}

func (c *call) listTokens() error {
	list, err := c.h.auth.Tokens(c.ctx, c.actor, c.h.opts.Keyspace, auth.TokenFilter{PageQuery: c.page()})
	if err != nil {
		return err
	}
	return c.render(http.StatusOK, "tokens", "Management tokens", tokensPage{list.Data, c.next(list.NextCursor), c.r.URL.Query().Get("cursor") == ""})
}

// tokenForm is the page that creates a management token.
type tokenForm struct {
	Form   *form
	Scopes []tokenScope
	Once   string
}

// tokenScope is a scope of management tokens with its description.
type tokenScope struct{ Name, Text string }

// scopeTexts describes the scopes of management tokens.
var scopeTexts = map[string]string{
	"*":              "everything",
	"tenants:read":   "see tenants and plans",
	"tenants:write":  "create, change and delete tenants",
	"keys:read":      "see keys",
	"keys:write":     "create, change and revoke keys",
	"credits:write":  "add and spend credits",
	"usage:read":     "see usage, last requests and the gateway's state",
	"audit:read":     "see the audit log",
	"webhooks:read":  "see webhooks and deliveries",
	"webhooks:write": "create and change webhooks",
	"tokens:read":    "see tokens and sessions",
	"tokens:write":   "create and revoke tokens, and end sessions, within its own scopes",
	"events:write":   "post the product's own events",
	"verify":         "check whether a key allows a request",
	"act":            "act under a person's name",
	"portal":         "let people sign in to the console of each tenant that the token sees, as viewer or editor",
}

func tokenScopes() (out []tokenScope) {
	for _, s := range auth.TokenScopes() {
		out = append(out, tokenScope{s, scopeTexts[s]})
	}
	return out
}

func (c *call) showNewToken() error {
	f := newForm(nil)
	f.Set("expires", "365")
	return c.render(http.StatusOK, "token-new", "Create a management token", tokenForm{f, tokenScopes(), rand.Text()})
}

// shownToken is the page that shows a full token. It is shown only once.
type shownToken struct{ Token auth.IssuedToken }

func (c *call) createToken() error {
	f := newForm(c.r.PostForm)
	in := auth.TokenFields{Name: f.text("name"), Scopes: management.Some(append([]string{}, f.values["scopes"]...))}
	if tenant := f.text("tenant"); tenant.Value != "" {
		in.Tenant = tenant
	}
	if f.Value("expires") != "default" {
		in.ExpiresAt = f.expiry("expires", "expires_on", time.Now())
	}
	again := func(status int) error {
		return c.render(status, "token-new", "Create a management token", tokenForm{f, tokenScopes(), f.Value("once")})
	}
	if f.Failed() {
		return again(http.StatusUnprocessableEntity)
	}
	return c.showOnce("new token", func(c *call) error {
		t, err := c.h.auth.CreateToken(c.ctx, c.actor, c.h.opts.Keyspace, in)
		if err != nil {
			e, err := f.reject(err)
			if err != nil {
				return err
			}
			return again(e.Status)
		}
		return c.show("token-shown", "Your new token", shownToken{t})
	})
}

func (c *call) confirmRevokeToken() error {
	t, err := c.h.auth.Token(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	p := confirmPage{
		Title: "Revoke “" + t.Name + "”?", Subject: t.Name, Detail: t.TokenPrefix + "…" + t.LastFour, Verb: "Revoke permanently", Grave: true,
		Effects: []string{
			"Requests with the token are rejected from the next one on.",
			"The tokens that it issued, its portal links and its sessions end too.",
			"This can't be undone.",
		},
		Action: c.to("/tokens/", t.ID, "/revoke"), Cancel: c.path("/tokens"),
	}
	if t.ID == c.grant.Token {
		p.Effects = append([]string{"You are signed in with this token: your own session ends too."}, p.Effects...)
	}
	return c.render(http.StatusOK, "token-confirm", "Revoke "+t.Name, p)
}

func (c *call) revokeToken() error {
	if err := c.h.manager.RevokeToken(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id")); err != nil {
		return err
	}
	return c.redirect("/tokens", "token-revoked")
}
