package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

// issuedToken is a new management token: shown in this answer, and never again.
type issuedToken struct {
	management.IssuedToken
	secretNote
}

var (
	_ = document("GET /v1/tokens", doc{
		Summary: "Lists management tokens, newest first, revoked and expired ones too.",
		Answers: map[int]any{http.StatusOK: management.Page[management.TokenRecord]{}},
	})
	_ = document("POST /v1/tokens", doc{
		Summary: "Makes a management token.",
		Description: "The full token is in this answer, and nowhere else. It gives nothing beyond the token by which it is made " +
			"(scope, tenant, keyspace, expiry), and ends with that one. A scope gives its own routes and no others: the README lists them. " +
			"portal lets people into the console of every tenant that the token sees, as viewer or editor. act gives a name in the audit log and no further right.",
		Body: fields{
			"name":       aText("For people.").with("minLength", 1).with("maxLength", management.MaxKeyName),
			"scopes":     aListOf(oneOf("", management.TokenScopes()...), "What it may do; none includes another, but * all."),
			"tenant":     aText("The slug of the one tenant that exists for it. Default and null: no such bound, or the maker's.").orNull(),
			"expires_at": aMoment("Default: when the token ends by which it is made. Null: never.").orNull(),
		},
		Required: []string{"name", "scopes"},
		Answers:  map[int]any{http.StatusCreated: issuedToken{}},
		Refusals: map[int][]string{http.StatusUnprocessableEntity: {management.CodeScopeNotAllowed}},
	})
	_ = document("DELETE /v1/tokens/{id}", doc{
		Summary:     "Revokes a management token, and with it all that it made.",
		Description: "A token can revoke itself, and tokens whose scopes it has itself.",
		Answers:     map[int]any{http.StatusNoContent: nil},
	})
)

func (c *call) listTokens() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Tokens(c.ctx, c.actor, c.keyspace, management.TokenFilter{Tenant: c.query("tenant"), PageQuery: page})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) createToken() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := management.TokenFields{
		Name: o.string("name"), Scopes: o.strings("scopes"), Tenant: o.string("tenant"), ExpiresAt: o.time("expires_at"),
	}
	if err := o.done(); err != nil {
		return err
	}
	t, err := c.h.manager.CreateToken(c.ctx, c.actor, c.keyspace, in)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, issuedToken{IssuedToken: t})
}

func (c *call) revokeToken() error {
	if err := c.h.manager.RevokeToken(c.ctx, c.actor, c.keyspace, c.r.PathValue("id")); err != nil {
		return err
	}
	return c.noContent()
}
