package management

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// AllScopes is the scope that includes every other.
const AllScopes = "*"

// Token is a management token as stored.
type Token struct {
	ID       string
	Keyspace string
	Name     string
	// Scopes are the scopes given in the request, sorted in the order of auth.TokenScopes.
	Scopes []string
	// Tenant is the slug of the only tenant that exists for the token; "" for all tenants of the
	// keyspace.
	Tenant string
	// Digest and Algorithm are those of the full token, as in a key's secret.
	Digest           []byte
	Algorithm        apikey.Algorithm
	Prefix, LastFour string
	CreatedAt        time.Time
	CreatedBy        string
	// CreatedByToken is the id of the token that issued this one; "" for none.
	CreatedByToken string
	// ExpiresAt, LastUsedAt and RevokedAt are zero for never.
	ExpiresAt  time.Time
	LastUsedAt time.Time
	LastUsedIP string
	RevokedAt  time.Time
}

func (t *Token) StatusAt(now time.Time) gateway.Status {
	switch {
	case !t.RevokedAt.IsZero():
		return gateway.StatusRevoked
	case !t.ExpiresAt.IsZero() && !t.ExpiresAt.After(now):
		return gateway.StatusExpired
	}
	return gateway.StatusActive
}

// TokenFieldsOf returns the fields of a token that audit events show.
func TokenFieldsOf(t *Token) audit.Fields {
	return audit.Fields{
		"name": t.Name, "scopes": OrEmpty(t.Scopes), "tenant": OrNull(t.Tenant), "expires_at": TimeOrNull(t.ExpiresAt),
		"revoked_at": TimeOrNull(t.RevokedAt), "token_prefix": t.Prefix, "last_four": t.LastFour,
		"created_by_token": OrNull(t.CreatedByToken),
	}
}

// HasScope reports whether scopes include scope.
func HasScope(scopes []string, scope string) bool {
	return slices.Contains(scopes, scope) || slices.Contains(scopes, AllScopes)
}

// Issuer returns the actor's token, and locks it, so that it is not revoked before the transaction
// ends. For an actor with Scopes it returns a token with those scopes. It returns nil for an actor
// without bounds.
func (c *Call) Issuer() (*Token, error) {
	if c.Actor.Scopes != nil {
		return &Token{Scopes: c.Actor.Scopes, Tenant: c.Actor.Tenant}, nil
	}
	if c.Actor.Token == "" {
		return nil, nil
	}
	t, err := c.LockToken(c.Keyspace.Name, c.Actor.Token)
	if errors.Is(err, gateway.ErrNotFound) {
		return nil, ErrUnknownToken
	}
	if err != nil {
		return nil, err
	}
	return t, t.RejectedAt(c.Now)
}

// needScope returns 403 if the actor's token lacks the scope. field is the field of the request
// that needs the scope, and doing says what it is for.
func (c *Call) needScope(scope, field, doing string) error {
	issuer, err := c.Issuer()
	if issuer == nil || err != nil || HasScope(issuer.Scopes, scope) {
		return err
	}
	return &Error{
		Status: http.StatusForbidden, Code: CodeInsufficientScope,
		Detail: "The token lacks the scope " + scope + ", which it takes to " + doing + ".",
		Fields: []FieldError{{Pointer: "/" + field, Detail: "needs the scope " + scope}},
	}
}

// CheckMayEnd returns 403 if the actor's token lacks one of scopes, which are those of a token or
// a session to be ended. A token ends only what it could have issued.
func (c *Call) CheckMayEnd(scopes []string) error {
	issuer, err := c.Issuer()
	if issuer == nil || err != nil {
		return err
	}
	for _, s := range scopes {
		if !HasScope(issuer.Scopes, s) {
			return Reject(http.StatusForbidden, CodeInsufficientScope, "The token lacks the scope %s, which the one to be ended has. A token ends only what it could have made.", s)
		}
	}
	return nil
}

// RevokeToken revokes a token and all tokens that it issued, for good. When it returns, this node
// rejects each of them. Revoking a revoked token changes nothing and is no error.
func (m *Manager) RevokeToken(ctx context.Context, a Actor, keyspace, id string) error {
	return m.Write(ctx, a, keyspace, func(c *Call) error {
		t, err := c.FindToken(id)
		if err != nil {
			return err
		}
		if t.ID != c.Actor.Token {
			if err := c.CheckMayEnd(t.Scopes); err != nil {
				return err
			}
		}
		ended, err := c.RevokeTokens(c.Keyspace.Name, t.ID, c.Now)
		if err != nil {
			return err
		}
		for _, t := range ended {
			// Each token has its own event, so that a tenant's audit events include its tokens.
			if c.Event != nil {
				if err := c.AppendEvent(); err != nil {
					return err
				}
			}
			before, after := TokenFieldsOf(t), TokenFieldsOf(t)
			before["revoked_at"] = nil
			audit.Diff(before, after)
			c.AddChange(gateway.ChangeToken, t.ID)
			c.Event = &audit.Event{Action: "token.revoked", Target: t.ID, Tenant: t.Tenant, Before: before, After: after}
			if t.ID != id {
				after["because_of"] = id
			}
		}
		return nil
	})
}

// FindToken returns a token that exists for the actor.
func (c *Call) FindToken(id string) (*Token, error) {
	const what = "token"
	if !HasIDForm(id, TokenIDPrefix) {
		return nil, NotFound(what)
	}
	t, err := c.Tx.Token(c.Keyspace.Name, id)
	if err != nil {
		return nil, OrNotFound(err, what)
	}
	if c.Actor.Tenant != "" && t.Tenant != c.Actor.Tenant {
		return nil, NotFound(what)
	}
	return t, nil
}

// RejectedAt returns the reason why the token is not accepted; nil if it is accepted.
func (t *Token) RejectedAt(now time.Time) error {
	switch t.StatusAt(now) {
	case gateway.StatusRevoked:
		return errTokenRevoked
	case gateway.StatusExpired:
		return errTokenExpired
	}
	return nil
}

// These are the codes of errors for management tokens.
const (
	CodeMissingToken = "missing_token"
	CodeInvalidToken = "invalid_token"
)

// ErrMalformedToken rejects a text that does not have the shape of a management token.
// ErrUnknownToken rejects a text that has the shape: only this one may be an attempt to guess a
// token.
var (
	ErrMalformedToken = Reject(http.StatusUnauthorized, CodeInvalidToken, "This is not a management token: those begin with kgm_ and end in a checksum.")
	ErrUnknownToken   = Reject(http.StatusUnauthorized, CodeInvalidToken, "There is no such management token.")
	errTokenRevoked   = Reject(http.StatusUnauthorized, CodeInvalidToken, "The management token is revoked.")
	errTokenExpired   = Reject(http.StatusUnauthorized, CodeInvalidToken, "The management token has expired.")
)

// TokenGrammar is the shape of management tokens: kgm_, 32 random base62 characters, and their checksum.
var TokenGrammar = func() *apikey.Grammar {
	g, err := apikey.NewGrammar([]apikey.Prefix{{Value: "kgm_", Environment: "management"}}, apikey.Format{Length: 32 + 6, Checksum: apikey.CRC32}, nil)
	if err != nil {
		panic(err)
	}
	return g
}()

// CleanTokens returns s with every management token in it, whole or truncated, replaced by its
// visible prefix and "…". It returns s itself where there is none. See apikey.Grammar.Clean.
func CleanTokens(s string) string { return TokenGrammar.Clean(s) }

// TokenCleaner returns the Cleaner of management tokens, which can be joined with that of a
// keyspace's keys.
func TokenCleaner() *apikey.Cleaner { return tokenCleaner }

var tokenCleaner = apikey.NewCleaner(TokenGrammar)
