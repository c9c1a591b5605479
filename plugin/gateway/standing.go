package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Limits returns the state of a tenant's limits or, if k is not nil, of all limits of this key's requests: those of the
// tenant and those of the key. It leaves out limits per address, because each address has a count of its own. For credits,
// it returns only the credits that this node has leased. Limits spends nothing. It reads the counts of a key or tenant
// that is not in use from the store, and blocks on the store within ctx.
func (g *Gateway) Limits(ctx context.Context, v *View, t *Tenant, k *Key, now time.Time) ([]ratelimit.Standing, error) {
	bill, err := g.billOf(ctx, v, t, k, now)
	if err != nil {
		return nil, err
	}
	var o ratelimit.Outcome
	if err := g.limit(ctx, now, bill, &o, false); err != nil {
		return nil, fmt.Errorf("%w: reading the limits: %w", ErrStore, err)
	}
	return append([]ratelimit.Standing(nil), o.Standings[:o.N]...), nil
}

// ResetLimits refills the limits counted for a tenant or, if k is not nil, for its key. names are
// the policies' names; none means all. Running requests still count for concurrency, and credits
// do not change. When ResetLimits returns, the store has the new counts.
func (g *Gateway) ResetLimits(ctx context.Context, v *View, t *Tenant, k *Key, now time.Time, names ...string) error {
	reset := func() error {
		bill, err := g.billOf(ctx, v, t, k, now)
		if err != nil {
			return err
		}
		party := bill.Tenant
		if k != nil {
			party = bill.Key
		}
		if err := g.limits().Reset(ctx, now, bill.Tenant.Subject, party, names...); err != nil {
			return fmt.Errorf("%w: %w", ErrStore, err)
		}
		g.markSubjectDirty(party.Subject)
		if err := g.flush(ctx); err != nil {
			g.health.WriteFailed("writing counts back", err)
			return err
		}
		return nil
	}
	before := g.subjectOf(t, k)
	if err := reset(); err != nil || before != nil || g.subjectOf(t, k) == nil {
		return err
	}
	// The key or tenant came into use during the reset, perhaps with the old counts of the store.
	return reset()
}

// markSubjectDirty adds the subject's counts to the next flush.
func (g *Gateway) markSubjectDirty(s *ratelimit.Subject) {
	g.dirtyMu.Lock()
	g.dirtyAddresses[s] = struct{}{}
	g.dirtyMu.Unlock()
}

// subjectOf returns the subject of the key or, if k is nil, of the tenant; nil if it is not in
// use. A key whose allowance another key has taken over has no subject any more.
func (g *Gateway) subjectOf(t *Tenant, k *Key) *ratelimit.Subject {
	if k != nil {
		if s := g.keys.FindKey(k.Keyspace, k.ID); s != nil && s.Holds() {
			return s.Subject
		}
		return nil
	}
	if s := g.keys.FindTenant(t.Keyspace, t.Slug); s != nil {
		return s.Subject
	}
	return nil
}

// billOf returns a bill of cost 0 with the limits of the tenant and of the key, which rebind has bound. The counts of a key
// or tenant that is not in use are read from the store.
func (g *Gateway) billOf(ctx context.Context, v *View, t *Tenant, k *Key, now time.Time) (*ratelimit.Bill, error) {
	ks := v.Keyspaces[t.Keyspace]
	if ks == nil || ks.Plans[t.Plan] == nil {
		return nil, fmt.Errorf("%w: tenant %q has the plan %q, which this configuration does not know", ErrStore, t.Slug, t.Plan)
	}
	limits, err := TenantLimits(ks.Plans[t.Plan], t)
	if err != nil {
		return nil, fmt.Errorf("tenant %q: %w", t.Slug, err)
	}
	var perTenant, perKey []*ratelimit.Policy
	for _, p := range limits {
		switch p.Per {
		case ratelimit.PerTenant:
			perTenant = append(perTenant, p)
		case ratelimit.PerKey:
			perKey = append(perKey, p)
		}
	}
	epoch := v.seq.Load()<<32 + t.Version
	req := &Request{Now: now}
	bill := &ratelimit.Bill{Outage: ratelimit.OutageClosed} // Without the shared counts, Limits and ResetLimits return an error.
	party := func(p *ratelimit.Party, s *ratelimit.Subject, id string) {
		if s == nil {
			s = ratelimit.NewSubject(id)
		}
		p.Subject = s
	}
	party(&bill.Tenant, g.subjectOf(t, nil), "t:"+t.Keyspace+":"+t.Slug)
	bill.Tenant.Lines = bill.Tenant.Subject.Bind(epoch, ratelimit.FromPlan, perTenant)
	if err := g.loadUsage(ctx, bill.Tenant.Subject, req); err != nil {
		return nil, err
	}
	if k == nil {
		return bill, nil
	}
	own, err := k.Limits()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.ID, err)
	}
	party(&bill.Key, g.subjectOf(t, k), "k:"+k.Keyspace+":"+k.AllowanceID())
	s := bill.Key.Subject
	s.HandOver("k:" + k.Keyspace + ":" + k.ID)
	bill.Key.Lines = append(append([]ratelimit.Line(nil), s.Bind(epoch, ratelimit.FromPlan, perKey)...), s.Bind(k.Version, ratelimit.FromKey, own)...)
	return bill, g.loadUsage(ctx, s, req)
}
