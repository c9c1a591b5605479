package auth

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Grant holds the rights of a management token.
type Grant struct {
	// ID and Name identify the token.
	ID, Name string
	Keyspace string
	// Tenant is the slug of the only tenant that the holder can see; "" for all of the keyspace.
	Tenant string
	scopes []string
}

// Allows reports whether the token has a scope such as "keys:write".
func (g *Grant) Allows(scope string) bool { return management.HasScope(g.scopes, scope) }

// Actor returns the actor for what the token's holder does from the address ip.
func (g *Grant) Actor(ip string) management.Actor {
	return management.Actor{Name: g.Name + " (" + g.ID + ")", IP: ip, Via: "api", Tenant: g.Tenant, Token: g.ID}
}

// usageInterval is the least time between two updates of the stored last use of a token or
// session.
const usageInterval = time.Minute

// tokenCache holds the tokens in use, by their primary digests.
type tokenCache struct {
	mu sync.Mutex
	// changes is the engine's count of token changes when the cached tokens were read.
	changes uint64
	tokens  map[apikey.Digest]*cachedToken
}

type cachedToken struct {
	management.Token
	grant  Grant
	usedAt time.Time
}

// CheckToken returns the rights of a full management token. It caches tokens. A revocation takes
// effect when the engine knows of it, an expiry at its time. ip is stored as the address of the
// token's last use. An invalid token is an error of status 401: ErrMalformedToken,
// ErrUnknownToken, or another for a token that was revoked or has expired.
func (auth *Authority) CheckToken(ctx context.Context, full, ip string) (*Grant, error) {
	if management.TokenGrammar.Match(full) == nil {
		return nil, management.ErrMalformedToken
	}
	v := auth.manager.View()
	if v == nil {
		return nil, errors.Join(gateway.ErrStore, errors.New("no configuration is running"))
	}
	now := auth.manager.Clock()
	digest := v.Hasher.Primary(full)
	// The count is read before the store: a change during the read raises it, so that the cached
	// token is not used again.
	changes := auth.manager.Engine().TokenChanges()
	t := auth.tokens.get(digest, changes)
	if t == nil {
		err := auth.lookUpUnknown(ctx, ip, func() (err error) {
			t, err = auth.loadToken(ctx, v, full)
			return err
		})
		if err != nil {
			return nil, err
		}
		auth.tokens.put(digest, changes, t)
	}
	if err := t.RejectedAt(now); err != nil {
		return nil, err
	}
	if auth.tokens.usageDue(t, now) {
		auth.touchToken(t.ID, now, ip)
	}
	return &t.grant, nil
}

func (auth *Authority) loadToken(ctx context.Context, v *gateway.View, full string) (*cachedToken, error) {
	candidates := v.Hasher.Candidates(nil, full)
	var t *management.Token
	err := auth.manager.Store().View(ctx, inRows(func(tx Tx) (err error) {
		t, err = tx.TokenByDigest(candidates)
		return err
	}))
	if errors.Is(err, gateway.ErrNotFound) {
		return nil, management.ErrUnknownToken
	}
	if err != nil {
		return nil, err
	}
	if t.Algorithm != candidates[0].Algorithm && t.StatusAt(auth.manager.Clock()) == gateway.StatusActive {
		// The digest was made under a former pepper, which the operator will remove some day.
		auth.inBackground(func(tx Tx) error { return tx.RehashToken(t.ID, candidates[0]) })
	}
	return &cachedToken{Token: *t, usedAt: t.LastUsedAt, grant: Grant{
		ID: t.ID, Name: t.Name, Keyspace: t.Keyspace, Tenant: t.Tenant, scopes: t.Scopes,
	}}, nil
}

func (auth *Authority) touchToken(id string, now time.Time, ip string) {
	auth.inBackground(func(tx Tx) error { return tx.TouchToken(id, now, ip) })
}

// backgroundTimeout bounds a write in the background.
const backgroundTimeout = 10 * time.Second

// inBackground starts a transaction that no caller waits for and that may be lost.
func (auth *Authority) inBackground(f func(Tx) error) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), backgroundTimeout)
		defer cancel()
		if err := auth.manager.Store().Update(ctx, inRows(f)); err != nil {
			auth.manager.Logger().DebugContext(ctx, "the last use or a new digest of a token or session could not be stored", "error", err)
		}
	}()
}

// get returns the cached token of a digest. It returns nil where there is none, or any token has
// changed since it was read.
func (c *tokenCache) get(digest apikey.Digest, changes uint64) *cachedToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return nil
	}
	return c.tokens[digest]
}

// put caches a token that was read when the count of changes was changes.
func (c *tokenCache) put(digest apikey.Digest, changes uint64, t *cachedToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes < c.changes {
		return // The token t was read before the newest change that the cache knows, so t is not cached.
	}
	if changes > c.changes || c.tokens == nil {
		c.changes, c.tokens = changes, make(map[apikey.Digest]*cachedToken)
	}
	c.tokens[digest] = t
}

// usageDue reports whether the use of a token is to be recorded, once every usageInterval.
func (c *tokenCache) usageDue(t *cachedToken, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(t.usedAt) < usageInterval {
		return false
	}
	t.usedAt = now
	return true
}
