package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// tokenScopes are the scopes of management tokens. "*" includes all others; no other scope
// includes another.
var tokenScopes = []string{
	management.AllScopes, "tenants:read", "tenants:write", "keys:read", "keys:write", "credits:write", "usage:read", "audit:read",
	"webhooks:read", "webhooks:write", "tokens:read", "tokens:write", "events:write", "verify", "act", "portal",
}

// TokenScopes returns the scopes that a management token may have. The caller may keep
// and change the result.
func TokenScopes() []string { return slices.Clone(tokenScopes) }

// TokenFields holds the fields of a request for a new token.
type TokenFields struct {
	// Name is 1 to 100 characters. Required.
	Name management.Optional[string]
	// Scopes are some of TokenScopes, at least one. A token can't give what it does not have itself.
	Scopes management.Optional[[]string]
	// Tenant is the slug of the only tenant that the token can see. Default and null: the
	// creator's tenant; for an operator, none.
	Tenant management.Optional[string]
	// ExpiresAt is in the future, and not after the expiry of the token that creates this one.
	// Default: that expiry. Null: never.
	ExpiresAt management.Optional[time.Time]
}

// TokenRecord is a token as the API shows it.
type TokenRecord struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	// Tenant is the tenant that the token is confined to; null for none.
	Tenant      *string        `json:"tenant"`
	Keyspace    string         `json:"keyspace"`
	TokenPrefix string         `json:"token_prefix"`
	LastFour    string         `json:"last_four"`
	Status      gateway.Status `json:"status"`
	CreatedAt   time.Time      `json:"created_at"`
	CreatedBy   string         `json:"created_by"`
	// CreatedByToken is the id of the token that created this one, which ends with it.
	CreatedByToken *string    `json:"created_by_token"`
	ExpiresAt      *time.Time `json:"expires_at"`
	// LastUsedAt is exact to about a minute.
	LastUsedAt *time.Time `json:"last_used_at"`
	LastUsedIP *string    `json:"last_used_ip"`
	RevokedAt  *time.Time `json:"revoked_at"`
}

// IssuedToken is a token's record with the full token, which is not stored.
type IssuedToken struct {
	TokenRecord
	Token string `json:"token"`
}

func tokenRecord(t *management.Token, now time.Time) TokenRecord {
	return TokenRecord{
		ID: t.ID, Name: t.Name, Scopes: management.OrEmpty(t.Scopes), Tenant: management.OrNull(t.Tenant), Keyspace: t.Keyspace,
		TokenPrefix: t.Prefix, LastFour: t.LastFour, Status: t.StatusAt(now),
		CreatedAt: t.CreatedAt.UTC(), CreatedBy: t.CreatedBy, CreatedByToken: management.OrNull(t.CreatedByToken),
		ExpiresAt: management.TimeOrNull(t.ExpiresAt), LastUsedAt: management.TimeOrNull(t.LastUsedAt), LastUsedIP: management.OrNull(t.LastUsedIP),
		RevokedAt: management.TimeOrNull(t.RevokedAt),
	}
}

// CreateToken creates a management token and returns it with the full token, which can't be read
// again. A token that is created with another one has no right beyond it: no other scope, tenant
// or keyspace, and no later expiry. It ends with that token.
func (auth *Authority) CreateToken(ctx context.Context, a management.Actor, keyspace string, in TokenFields) (r IssuedToken, err error) {
	err = auth.write(ctx, a, keyspace, func(c *call) error {
		issuer, err := c.Issuer()
		if err != nil {
			return err
		}
		t := &management.Token{
			ID: c.NewID(management.TokenIDPrefix), Keyspace: c.Keyspace.Name, Name: in.Name.Value,
			CreatedAt: c.Now, CreatedBy: a.Name, CreatedByToken: a.Token,
		}
		var f management.Faults
		management.CheckName(&f, "name", t.Name, management.MaxKeyName)
		t.Scopes = checkTokenScopes(&f, in.Scopes.Value, issuer)
		if t.Tenant, err = c.tokenTenant(&f, in.Tenant); err != nil {
			return err
		}
		t.ExpiresAt = c.tokenExpiry(&f, in.ExpiresAt, issuer)
		if err := f.Err(); err != nil {
			return err
		}
		if r.Token, err = management.TokenGrammar.Generate(""); err != nil {
			return err
		}
		digest := c.View.Hasher.Primary(r.Token)
		t.Digest, t.Algorithm = digest[:], c.View.Hasher.PrimaryAlgorithm()
		t.Prefix, t.LastFour = management.TokenGrammar.Shown(r.Token)
		if err := c.InsertToken(t); err != nil {
			return err
		}
		c.AddChange(gateway.ChangeToken, t.ID)
		c.Event = &audit.Event{Action: "token.created", Target: t.ID, Tenant: t.Tenant, After: management.TokenFieldsOf(t)}
		r.TokenRecord = tokenRecord(t, c.Now)
		return nil
	})
	if err != nil {
		return IssuedToken{}, err
	}
	return r, nil
}

// checkTokenScopes adds a fault for each unknown scope, and for each that issuer, where it is not
// nil, does not have. It returns the known scopes, each once, in the order of tokenScopes.
func checkTokenScopes(f *management.Faults, list []string, issuer *management.Token) []string {
	if len(list) == 0 {
		f.Invalid("scopes", "must be stated; the scopes are %s", strings.Join(tokenScopes, ", "))
	}
	for i, s := range list {
		switch {
		case !slices.Contains(tokenScopes, s):
			f.Invalid(management.Indexed("scopes", i), "is not a scope; the scopes are %s", strings.Join(tokenScopes, ", "))
		case issuer != nil && !management.HasScope(issuer.Scopes, s):
			f.Add(management.CodeScopeNotAllowed, management.Indexed("scopes", i), "a token can't give what it does not have itself: %s", strings.Join(issuer.Scopes, ", "))
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

// tokenTenant returns the slug of the tenant that a new token is confined to, "" for none.
func (c *call) tokenTenant(f *management.Faults, in management.Optional[string]) (string, error) {
	if !in.Set || in.Null {
		return c.Actor.Tenant, nil
	}
	t, err := c.FindTenant(in.Value, false)
	if management.IsNotFound(err) {
		f.Invalid("tenant", "there is no such tenant")
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return t.Slug, nil
}

// tokenExpiry returns when a new token expires; zero for never.
func (c *call) tokenExpiry(f *management.Faults, in management.Optional[time.Time], issuer *management.Token) time.Time {
	var end time.Time
	if issuer != nil {
		end = issuer.ExpiresAt
	}
	if !in.Set {
		return end
	}
	at := management.CheckExpiry(f, "expires_at", in, c.Now)
	if !end.IsZero() && (at.IsZero() || at.After(end)) {
		f.Invalid("expires_at", "must not be after %s, when the token that creates it expires", end.Format(time.RFC3339))
	}
	return at
}

// TokenFilter selects tokens, newest first.
type TokenFilter struct {
	// Tenant is the slug of the tenant whose tokens are listed; "" lists the tokens of all.
	Tenant string
	management.PageQuery
}

// Tokens lists tokens, including revoked and expired ones.
func (auth *Authority) Tokens(ctx context.Context, a management.Actor, keyspace string, q TokenFilter) (management.Page[TokenRecord], error) {
	limit, last, err := q.After("m")
	if err != nil {
		return management.Page[TokenRecord]{}, err
	}
	if q.Tenant == "" {
		q.Tenant = a.Tenant
	}
	var out []TokenRecord
	err = auth.read(ctx, a, keyspace, func(c *call) error {
		out = nil
		if q.Tenant != "" {
			t, err := c.FindTenant(q.Tenant, false)
			if management.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			q.Tenant = t.Slug
		}
		if last != "" {
			// A cursor must not disclose that a token exists which the actor can't see.
			if _, err := c.FindToken(last); management.IsNotFound(err) {
				return management.ErrCursor
			} else if err != nil {
				return err
			}
		}
		rows, err := c.Tx.Tokens(TokenQuery{Keyspace: c.Keyspace.Name, Tenant: q.Tenant, Before: last, Limit: limit + 1})
		for _, t := range rows {
			out = append(out, tokenRecord(t, c.Now))
		}
		return err
	})
	if err != nil {
		return management.Page[TokenRecord]{}, err
	}
	return management.CutPage(out, limit, func(r TokenRecord) string { return management.CursorOf("m", r.ID) }), nil
}

// Token returns one token.
func (auth *Authority) Token(ctx context.Context, a management.Actor, keyspace, id string) (r TokenRecord, err error) {
	err = auth.read(ctx, a, keyspace, func(c *call) error {
		t, err := c.FindToken(id)
		if err != nil {
			return err
		}
		r = tokenRecord(t, c.Now)
		return nil
	})
	return r, err
}
