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

// Grant is what a management token gives.
type Grant struct {
	// ID and Name of the token.
	ID, Name string
	Keyspace string
	// Tenant is the only one that exists for the holder; "" for no such bound.
	Tenant string
	scopes []string
}

// Allows reports whether the token has a scope such as "keys:write".
func (g *Grant) Allows(scope string) bool { return management.HasScope(g.scopes, scope) }

// Actor returns the token as who does something.
func (g *Grant) Actor(ip string) management.Actor {
	return management.Actor{Name: g.Name + " (" + g.ID + ")", IP: ip, Via: "api", Tenant: g.Tenant, Token: g.ID}
}

// usageInterval is how exactly it is known when a token was last used.
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

// CheckToken returns what a full management token gives. It answers from memory once it
// has met the token; a revocation counts from when it is made, an expiry from its moment. ip
// is noted as where the token was last used from. Refusals are of status 401:
// ErrMalformedToken, ErrUnknownToken, and others where a token has ended.
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
	// Before the store is read: what changes meanwhile makes the count another.
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
		// Under a pepper that is not the current one, which will be taken away some day.
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

// inBackground makes writes that no caller waits for and that may be lost.
func (auth *Authority) inBackground(f func(Tx) error) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), backgroundTimeout)
		defer cancel()
		if err := auth.manager.Store().Update(ctx, inRows(f)); err != nil {
			auth.manager.Logger().DebugContext(ctx, "the use of a management token was not noted", "error", err)
		}
	}()
}

// get returns the token held under a digest, nil where there is none or any token was
// changed since.
func (c *tokenCache) get(digest apikey.Digest, changes uint64) *cachedToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return nil
	}
	return c.tokens[digest]
}

// put holds a token that was read when the count of changes was changes.
func (c *tokenCache) put(digest apikey.Digest, changes uint64, t *cachedToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes < c.changes {
		return // read before what is known to have changed
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
