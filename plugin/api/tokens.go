package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// issuedToken is a new management token in full. Only the response that creates it shows the full
// token.
type issuedToken struct {
	auth.IssuedToken
	secretNote
}

var (
	_ = document("GET /v1/tokens", doc{
		Summary: "Lists management tokens, newest first, including revoked and expired ones.",
		Answers: map[int]any{http.StatusOK: management.Page[auth.TokenRecord]{}},
	})
	_ = document("POST /v1/tokens", doc{
		Summary: "Creates a management token.",
		Description: "The full token is only in this response. It has no right (scope, tenant, keyspace, expiry) that its issuing token lacks, " +
			"and ends with that token. A scope allows its own routes and no others: the README lists them. " +
			"portal signs people in to the console of every tenant that the token sees, as viewer or editor. act sets the name in the audit log, and gives no further right.",
		Body: fields{
			"name":       aText("For people.").with("minLength", 1).with("maxLength", management.MaxKeyName),
			"scopes":     aListOf(oneOf("", auth.TokenScopes()...), "What the token may do. No scope includes another, except * all."),
			"tenant":     aText("The slug of the only tenant that exists for the token. Default and null: the issuing token's, or no bound.").orNull(),
			"expires_at": aTime("Default: when the issuing token ends. Null: never.").orNull(),
		},
		Required: []string{"name", "scopes"},
		Answers:  map[int]any{http.StatusCreated: issuedToken{}},
		Errors:   map[int][]string{http.StatusUnprocessableEntity: {management.CodeScopeNotAllowed}},
	})
	_ = document("DELETE /v1/tokens/{id}", doc{
		Summary:     "Revokes a management token, and those that it issued.",
		Description: "A token can revoke itself, and tokens whose scopes it has.",
		Answers:     map[int]any{http.StatusNoContent: nil},
	})
)

func (c *call) listTokens() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.auth.Tokens(c.ctx, c.actor, c.keyspace, auth.TokenFilter{Tenant: c.query("tenant"), PageQuery: page})
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
	in := auth.TokenFields{
		Name: o.string("name"), Scopes: o.strings("scopes"), Tenant: o.string("tenant"), ExpiresAt: o.time("expires_at"),
	}
	if err := o.done(); err != nil {
		return err
	}
	t, err := c.h.auth.CreateToken(c.ctx, c.actor, c.keyspace, in)
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
