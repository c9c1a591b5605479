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

// AllScopes is the scope that stands for every other.
const AllScopes = "*"

// Token is a management token as stored.
type Token struct {
	ID       string
	Keyspace string
	Name     string
	// Scopes as chosen, in the order of TokenScopes.
	Scopes []string
	// Tenant is the slug of the one tenant it sees; "" for all of the keyspace's.
	Tenant string
	// Digest and Algorithm as a key's secret has them.
	Digest           []byte
	Algorithm        apikey.Algorithm
	Prefix, LastFour string
	CreatedAt        time.Time
	CreatedBy        string
	// CreatedByToken is the id of the token that made it; "" where none did.
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

// TokenFieldsOf is what events show of a token.
func TokenFieldsOf(t *Token) audit.Fields {
	return audit.Fields{
		"name": t.Name, "scopes": OrEmpty(t.Scopes), "tenant": OrNull(t.Tenant), "expires_at": TimeOrNull(t.ExpiresAt),
		"revoked_at": TimeOrNull(t.RevokedAt), "token_prefix": t.Prefix, "last_four": t.LastFour,
		"created_by_token": OrNull(t.CreatedByToken),
	}
}

// HasScope reports whether a token with these scopes may do what needs scope.
func HasScope(scopes []string, scope string) bool {
	return slices.Contains(scopes, scope) || slices.Contains(scopes, AllScopes)
}

// Issuer returns the token that the actor acts by, nil where it is none, and keeps it
// from being revoked before the transaction ends. Of who is bounded otherwise it is one with
// those bounds.
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

// needScope refuses, with 403, to do what takes a scope that the token lacks by which the actor acts. field is the
// one that asks for it.
func (c *Call) needScope(scope, field, doing string) error {
	maker, err := c.Issuer()
	if maker == nil || err != nil || HasScope(maker.Scopes, scope) {
		return err
	}
	return &Error{
		Status: http.StatusForbidden, Code: CodeInsufficientScope,
		Detail: "The token lacks the scope " + scope + ", which it takes to " + doing + ".",
		Fields: []FieldError{{Pointer: "/" + field, Detail: "needs the scope " + scope}},
	}
}

// CheckMayEnd refuses, with 403, to end a token or a session with scopes that the token lacks by which the actor acts: a
// token has no power over what it could not have made.
func (c *Call) CheckMayEnd(scopes []string) error {
	maker, err := c.Issuer()
	if maker == nil || err != nil {
		return err
	}
	for _, s := range scopes {
		if !HasScope(maker.Scopes, s) {
			return Reject(http.StatusForbidden, CodeInsufficientScope, "The token lacks the scope %s, which the one to be ended has. A token ends only what it could have made.", s)
		}
	}
	return nil
}

// RevokeToken ends a token for good, and with it all that it made: each is refused from
// when this returns. Revoking a revoked token changes nothing and is no error.
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
			// An event for each, so that a tenant's own audit tells of its tokens.
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

// FindToken reads a token that exists for the actor.
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

// RejectedAt returns why the token gives nothing, nil while it does.
func (t *Token) RejectedAt(now time.Time) error {
	switch t.StatusAt(now) {
	case gateway.StatusRevoked:
		return errTokenRevoked
	case gateway.StatusExpired:
		return errTokenExpired
	}
	return nil
}

// Codes of rejected management tokens.
const (
	CodeMissingToken = "missing_token"
	CodeInvalidToken = "invalid_token"
)

// ErrMalformedToken says that a text is no management token, ErrUnknownToken that one
// has the shape of a token and is none: only the latter may be a guess.
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

// CleanTokens returns s with every management token in it, whole or truncated, written as
// its shown prefix and "…"; s itself where there is none. See apikey.Grammar.Clean.
func CleanTokens(s string) string { return TokenGrammar.Clean(s) }

// TokenCleaner returns what CleanTokens cleans by, to be joined with that of keys.
func TokenCleaner() *apikey.Cleaner { return tokenCleaner }

var tokenCleaner = apikey.NewCleaner(TokenGrammar)
