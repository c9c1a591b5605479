package management

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// AllScopes is the scope that stands for every other.
const AllScopes = "*"

// tokenScopes are what a management token may be allowed to do. None includes another, but "*" all.
var tokenScopes = []string{
	AllScopes, "tenants:read", "tenants:write", "keys:read", "keys:write", "credits:write", "usage:read", "audit:read",
	"webhooks:read", "webhooks:write", "tokens:read", "tokens:write", "events:write", "verify", "act", "portal",
}

// TokenScopes returns the scopes that a management token may have. The caller may keep
// and change the result.
func TokenScopes() []string { return slices.Clone(tokenScopes) }

// tokenGrammar is the shape of management tokens: kgm_, 32 random base62 characters, and their checksum.
var tokenGrammar = func() *apikey.Grammar {
	g, err := apikey.NewGrammar([]apikey.Prefix{{Value: "kgm_", Environment: "management"}}, apikey.Format{Length: 32 + 6, Checksum: apikey.CRC32}, nil)
	if err != nil {
		panic(err)
	}
	return g
}()

// CleanTokens returns s with every management token in it, whole or truncated, written as
// its shown prefix and "…"; s itself where there is none. See apikey.Grammar.Clean.
func CleanTokens(s string) string { return tokenGrammar.Clean(s) }

// TokenCleaner returns what CleanTokens cleans by, to be joined with that of keys.
func TokenCleaner() *apikey.Cleaner { return tokenCleaner }

var tokenCleaner = apikey.NewCleaner(tokenGrammar)

// TokenFields is what may be stated of a new token.
type TokenFields struct {
	// Name is 1 to 100 characters, and needed.
	Name Optional[string]
	// Scopes are some of TokenScopes, at least one. A token can't give what it does not have itself.
	Scopes Optional[[]string]
	// Tenant is the slug of the one tenant that exists for the token. Default and null:
	// the maker's, so for an operator none in particular.
	Tenant Optional[string]
	// ExpiresAt is in the future, and not after the end of the token that makes it.
	// Default: that end. Null: never.
	ExpiresAt Optional[time.Time]
}

// TokenRecord is a token as the API shows it.
type TokenRecord struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	// Tenant it is confined to; null for none.
	Tenant      *string        `json:"tenant"`
	Keyspace    string         `json:"keyspace"`
	TokenPrefix string         `json:"token_prefix"`
	LastFour    string         `json:"last_four"`
	Status      gateway.Status `json:"status"`
	CreatedAt   time.Time      `json:"created_at"`
	CreatedBy   string         `json:"created_by"`
	// CreatedByToken is the id of the token that made it, and with which it ends.
	CreatedByToken *string    `json:"created_by_token"`
	ExpiresAt      *time.Time `json:"expires_at"`
	// LastUsedAt is right to about a minute.
	LastUsedAt *time.Time `json:"last_used_at"`
	LastUsedIP *string    `json:"last_used_ip"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

// IssuedToken is a token's record with the full token, which exists nowhere else.
type IssuedToken struct {
	TokenRecord
	Token string `json:"token"`
}

func (t *Token) statusAt(now time.Time) gateway.Status {
	switch {
	case !t.RevokedAt.IsZero():
		return gateway.StatusRevoked
	case !t.ExpiresAt.IsZero() && !t.ExpiresAt.After(now):
		return gateway.StatusExpired
	}
	return gateway.StatusActive
}

func tokenRecord(t *Token, now time.Time) TokenRecord {
	return TokenRecord{
		ID: t.ID, Name: t.Name, Scopes: nonNil(t.Scopes), Tenant: optional(t.Tenant), Keyspace: t.Keyspace,
		TokenPrefix: t.Prefix, LastFour: t.LastFour, Status: t.statusAt(now),
		CreatedAt: t.CreatedAt.UTC(), CreatedBy: t.CreatedBy, CreatedByToken: optional(t.CreatedByToken),
		ExpiresAt: optionalTime(t.ExpiresAt), LastUsedAt: optionalTime(t.LastUsedAt), LastUsedIP: optional(t.LastUsedIP),
		RevokedAt: optionalTime(t.RevokedAt),
	}
}

// tokenFields is what events show of a token.
func tokenFields(t *Token) audit.Fields {
	return audit.Fields{
		"name": t.Name, "scopes": nonNil(t.Scopes), "tenant": optional(t.Tenant), "expires_at": optionalTime(t.ExpiresAt),
		"revoked_at": optionalTime(t.RevokedAt), "token_prefix": t.Prefix, "last_four": t.LastFour,
		"created_by_token": optional(t.CreatedByToken),
	}
}

// Matches says whether a token with these scopes may do what asks for scope.
func hasScope(scopes []string, scope string) bool {
	return slices.Contains(scopes, scope) || slices.Contains(scopes, AllScopes)
}

// CreateToken makes a management token and returns it with the full token, which can't
// be had again. It gives nothing beyond the token by which it is made: no other scope,
// tenant or keyspace, and no longer life; and it ends with that one.
func (m *Manager) CreateToken(ctx context.Context, a Actor, keyspace string, in TokenFields) (r IssuedToken, err error) {
	err = m.write(ctx, a, keyspace, func(c *call) error {
		maker, err := c.issuer()
		if err != nil {
			return err
		}
		t := &Token{
			ID: m.ids.next(tokenIDPrefix, c.now), Keyspace: c.ks.Name, Name: in.Name.Value,
			CreatedAt: c.now, CreatedBy: a.Name, CreatedByToken: a.Token,
		}
		var f faults
		checkName(&f, "name", t.Name, MaxKeyName)
		t.Scopes = checkTokenScopes(&f, in.Scopes.Value, maker)
		if t.Tenant, err = c.tokenTenant(&f, in.Tenant); err != nil {
			return err
		}
		t.ExpiresAt = c.tokenExpiry(&f, in.ExpiresAt, maker)
		if err := f.err(); err != nil {
			return err
		}
		if r.Token, err = tokenGrammar.Generate(""); err != nil {
			return err
		}
		digest := c.view.Hasher.Primary(r.Token)
		t.Digest, t.Algorithm = digest[:], c.view.Hasher.PrimaryAlgorithm()
		t.Prefix, t.LastFour = tokenGrammar.Shown(r.Token)
		if err := c.InsertToken(t); err != nil {
			return err
		}
		c.addChange(gateway.ChangeToken, t.ID)
		c.event = &audit.Event{Action: "token.created", Target: t.ID, Tenant: t.Tenant, After: tokenFields(t)}
		r.TokenRecord = tokenRecord(t, c.now)
		return nil
	})
	if err != nil {
		return IssuedToken{}, err
	}
	return r, nil
}

// issuer returns the token that the actor acts by, nil where it is none, and keeps it
// from being revoked before the transaction ends. Of who is bounded otherwise it is one with
// those bounds.
func (c *call) issuer() (*Token, error) {
	if c.actor.Scopes != nil {
		return &Token{Scopes: c.actor.Scopes, Tenant: c.actor.Tenant}, nil
	}
	if c.actor.Token == "" {
		return nil, nil
	}
	t, err := c.LockToken(c.ks.Name, c.actor.Token)
	if errors.Is(err, gateway.ErrNotFound) {
		return nil, ErrUnknownToken
	}
	if err != nil {
		return nil, err
	}
	return t, t.rejectedAt(c.now)
}

// needScope refuses, with 403, to do what takes a scope that the token lacks by which the actor acts. field is the
// one that asks for it.
func (c *call) needScope(scope, field, doing string) error {
	maker, err := c.issuer()
	if maker == nil || err != nil || hasScope(maker.Scopes, scope) {
		return err
	}
	return &Error{
		Status: http.StatusForbidden, Code: CodeInsufficientScope,
		Detail: "The token lacks the scope " + scope + ", which it takes to " + doing + ".",
		Fields: []FieldError{{Pointer: "/" + field, Detail: "needs the scope " + scope}},
	}
}

// checkMayEnd refuses, with 403, to end a token or a session with scopes that the token lacks by which the actor acts: a
// token has no power over what it could not have made.
func (c *call) checkMayEnd(scopes []string) error {
	maker, err := c.issuer()
	if maker == nil || err != nil {
		return err
	}
	for _, s := range scopes {
		if !hasScope(maker.Scopes, s) {
			return reject(http.StatusForbidden, CodeInsufficientScope, "The token lacks the scope %s, which the one to be ended has. A token ends only what it could have made.", s)
		}
	}
	return nil
}

// checkTokenScopes notes scopes that there are not or that maker, where there is one,
// can't give, and returns them, each once, in the order of tokenScopes.
func checkTokenScopes(f *faults, list []string, maker *Token) []string {
	if len(list) == 0 {
		f.invalid("scopes", "must be stated; the scopes are %s", strings.Join(tokenScopes, ", "))
	}
	for i, s := range list {
		switch {
		case !slices.Contains(tokenScopes, s):
			f.invalid(indexed("scopes", i), "is not a scope; the scopes are %s", strings.Join(tokenScopes, ", "))
		case maker != nil && !hasScope(maker.Scopes, s):
			f.add(CodeScopeNotAllowed, indexed("scopes", i), "a token can't give what it does not have itself: %s", strings.Join(maker.Scopes, ", "))
		}
	}
	var out []string
	for _, s := range tokenScopes {
		if slices.Contains(list, s) {
			out = append(out, s)
		}
	}
	return out
}

// tokenTenant returns the tenant that a new token is confined to.
func (c *call) tokenTenant(f *faults, in Optional[string]) (string, error) {
	if !in.Set || in.Null {
		return c.actor.Tenant, nil
	}
	t, err := c.tenant(in.Value, false)
	if isNotFound(err) {
		f.invalid("tenant", "there is no such tenant")
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return t.Slug, nil
}

// tokenExpiry returns when a new token ends; zero for never.
func (c *call) tokenExpiry(f *faults, in Optional[time.Time], maker *Token) time.Time {
	var end time.Time
	if maker != nil {
		end = maker.ExpiresAt
	}
	if !in.Set {
		return end
	}
	at := checkExpiry(f, "expires_at", in, c.now)
	if !end.IsZero() && (at.IsZero() || at.After(end)) {
		f.invalid("expires_at", "must not be after %s, when the token ends by which it is made", end.Format(time.RFC3339))
	}
	return at
}

// RevokeToken ends a token for good, and with it all that it made: each is refused from
// when this returns. Revoking a revoked token changes nothing and is no error.
func (m *Manager) RevokeToken(ctx context.Context, a Actor, keyspace, id string) error {
	return m.write(ctx, a, keyspace, func(c *call) error {
		t, err := c.token(id)
		if err != nil {
			return err
		}
		if t.ID != c.actor.Token {
			if err := c.checkMayEnd(t.Scopes); err != nil {
				return err
			}
		}
		ended, err := c.RevokeTokens(c.ks.Name, t.ID, c.now)
		if err != nil {
			return err
		}
		for _, t := range ended {
			// An event for each, so that a tenant's own audit tells of its tokens.
			if c.event != nil {
				if err := c.appendEvent(); err != nil {
					return err
				}
			}
			before, after := tokenFields(t), tokenFields(t)
			before["revoked_at"] = nil
			audit.Diff(before, after)
			c.addChange(gateway.ChangeToken, t.ID)
			c.event = &audit.Event{Action: "token.revoked", Target: t.ID, Tenant: t.Tenant, Before: before, After: after}
			if t.ID != id {
				after["because_of"] = id
			}
		}
		return nil
	})
}

// token reads a token that exists for the actor.
func (c *call) token(id string) (*Token, error) {
	const what = "token"
	if !isID(id, tokenIDPrefix) {
		return nil, notFound(what)
	}
	t, err := c.Tx.Token(c.ks.Name, id)
	if err != nil {
		return nil, orNotFound(err, what)
	}
	if c.actor.Tenant != "" && t.Tenant != c.actor.Tenant {
		return nil, notFound(what)
	}
	return t, nil
}

// TokenFilter selects tokens, newest first.
type TokenFilter struct {
	// Tenant is a slug; "" for all.
	Tenant string
	PageQuery
}

// Tokens lists tokens, revoked and expired ones too.
func (m *Manager) Tokens(ctx context.Context, a Actor, keyspace string, q TokenFilter) (Page[TokenRecord], error) {
	limit, last, err := q.after("m")
	if err != nil {
		return Page[TokenRecord]{}, err
	}
	if q.Tenant == "" {
		q.Tenant = a.Tenant
	}
	var out []TokenRecord
	err = m.read(ctx, a, keyspace, func(c *call) error {
		out = nil
		if q.Tenant != "" {
			t, err := c.tenant(q.Tenant, false)
			if isNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			q.Tenant = t.Slug
		}
		if last != "" {
			// A cursor tells nothing of what does not exist for the actor.
			if _, err := c.token(last); isNotFound(err) {
				return errCursor
			} else if err != nil {
				return err
			}
		}
		rows, err := c.Tx.Tokens(TokenQuery{Keyspace: c.ks.Name, Tenant: q.Tenant, Before: last, Limit: limit + 1})
		for _, t := range rows {
			out = append(out, tokenRecord(t, c.now))
		}
		return err
	})
	if err != nil {
		return Page[TokenRecord]{}, err
	}
	return pageOf(out, limit, func(r TokenRecord) string { return cursorOf("m", r.ID) }), nil
}
