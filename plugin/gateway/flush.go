package gateway

import (
	"context"
	"maps"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/clients"
)

// flushInterval is the time between flushes. A crash loses the counts since the last flush.
const flushInterval = 800 * time.Millisecond

func (g *Gateway) flushLoop(ctx context.Context) {
	t := time.NewTicker(flushInterval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := g.flush(ctx); err != nil && ctx.Err() == nil {
				g.health.WriteFailed("writing counts back", err)
			}
			g.shareLeases(ctx)
			g.keys.WriteRewrites(ctx)
			g.probe(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// flush writes the counts that have changed since the last flush to the store. After an error, the counts stay in memory
// for a later flush.
func (g *Gateway) flush(ctx context.Context) error {
	g.flushMu.Lock()
	defer g.flushMu.Unlock()

	g.dirtyMu.Lock()
	entries, addresses := g.dirty, g.dirtyAddresses
	g.dirty, g.dirtyAddresses = nil, map[*ratelimit.Subject]struct{}{}
	g.dirtyMu.Unlock()
	if len(entries) == 0 && len(addresses) == 0 {
		return nil
	}

	f := &Flush{At: time.Now()}
	subjects := maps.Clone(addresses)
	keys := map[*keytable.KeyState]*keytable.Entry{}
	for _, e := range entries {
		// The dirty mark of the key is cleared before its counts are read. So a count that comes later marks the key again.
		e.ClearDirty()
		if at, from := e.LastUse(); !at.IsZero() {
			t := Touch{KeyID: e.Key.ID, SecretID: e.SecretID, At: at}
			if from.IsValid() {
				t.IP = from.String()
			}
			f.Touches = append(f.Touches, t)
		}
		subjects[e.KeyState.Subject] = struct{}{}
		subjects[e.TenantState.Subject] = struct{}{}
		keys[e.KeyState] = e
	}
	counts := make(map[*ratelimit.Subject][]ratelimit.Counted, len(subjects))
	var counted []*ratelimit.Subject // counted[i] is the subject of f.Usage[i].
	for s := range subjects {
		c := s.Unflushed(nil)
		if len(c) == 0 {
			continue
		}
		counts[s] = c
		for _, u := range c {
			f.Usage = append(f.Usage, Usage{Subject: u.Subject, Calendar: u.Calendar, Start: u.Start, Used: u.Used})
			counted = append(counted, s)
		}
	}
	spent := takeSpent(keys)
	for k, s := range spent {
		e := keys[k]
		f.Spends = append(f.Spends, Spend{Keyspace: e.Keyspace(), Tenant: e.Tenant.Slug, KeyID: e.Key.ID,
			Amount: s.Amount, Returned: s.Returned, Shortfall: s.Shortfall})
	}
	if err := g.store.WriteFlush(ctx, g.node, f); err != nil {
		for k, s := range spent {
			k.Subject.PutBack(s)
		}
		for _, e := range entries {
			g.markDirty(e)
		}
		g.dirtyMu.Lock()
		for s := range addresses {
			g.dirtyAddresses[s] = struct{}{}
		}
		g.dirtyMu.Unlock()
		return err
	}
	g.health.WriteWorked()
	g.noteUnstored(f.Usage, counted)
	for s, c := range counts {
		s.Flushed(c)
	}
	for k, s := range spent {
		keys[k].TenantState.Subject.Account().Written(s)
	}
	g.notifyCounts(f, keys, counts)
	return nil
}

// noteUnstored marks the quota counts for which the store keeps no row. subjects[i] is the subject of counts[i].
func (g *Gateway) noteUnstored(counts []Usage, subjects []*ratelimit.Subject) {
	n := 0
	var last *Usage
	for i := range counts {
		if u := &counts[i]; u.Unstored {
			subjects[i].Unstored(u.Calendar, u.Start)
			n, last = n+1, u
		}
	}
	if n == 0 || time.Since(g.unstoredLogged) < time.Hour {
		return
	}
	g.unstoredLogged = time.Now()
	owner, _ := clients.OwnerOf(last.Subject)
	g.log.Warn("the store keeps no more quota counters per client address: the counters of further addresses stay in memory and begin at zero after a restart",
		"limits_of", owner, "addresses_now", n)
}

// takeSpent takes the credits that each key has spent since the last flush. It reads all keys of a tenant at the same
// moment, because one key may have spent credits that another key refunded just before. Without that refund, the spent
// credits would exceed the lease.
func takeSpent(keys map[*keytable.KeyState]*keytable.Entry) map[*keytable.KeyState]ratelimit.Spent {
	tenants := map[*keytable.TenantState][]*keytable.KeyState{}
	for k, e := range keys {
		tenants[e.TenantState] = append(tenants[e.TenantState], k)
	}
	spent := map[*keytable.KeyState]ratelimit.Spent{}
	for t, keys := range tenants {
		t.Subject.WithLock(func() {
			for _, k := range keys {
				if s := k.Subject.TakeSpent(); s != (ratelimit.Spent{}) {
					spent[k] = s
				}
			}
		})
	}
	return spent
}

// probeTimeout bounds one probe of a store that failed.
const probeTimeout = 2 * time.Second

// probe asks a store that failed whether it works again. Without probe, a gateway without requests would not notice that.
func (g *Gateway) probe(ctx context.Context) {
	if !g.degraded() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if !g.health.Reading() && g.store.Ping(ctx) == nil {
		g.health.ReadWorked()
	}
	// The flush before this call has written the kept counts. This empty flush renews the leases of credits.
	if !g.health.Writing() && g.nothingDirty() && g.store.WriteFlush(ctx, g.node, &Flush{At: time.Now()}) == nil {
		g.health.WriteWorked()
	}
}

// degraded reports whether the store cannot be read or written.
func (g *Gateway) degraded() bool { return !g.health.Reading() || !g.health.Writing() }

// nothingDirty reports whether no counts wait for a flush.
func (g *Gateway) nothingDirty() bool {
	g.dirtyMu.Lock()
	defer g.dirtyMu.Unlock()
	return len(g.dirty) == 0 && len(g.dirtyAddresses) == 0
}
