package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// bound is what a key amounts to under one view: its plan, what the plan leaves of its
// scopes, and the limits it is subject to. Immutable; made when the key is first judged by a view.
type bound struct {
	view *View
	// seq is the view's when this was made: a renewed view binds anew.
	seq       int64
	plan      *Plan
	scopes    ScopeSet
	scopeList string
	tenant    ratelimit.Party
	key       ratelimit.Party
	// address is the policies per address, addressOwner for whom an address is counted:
	// for all keys of a plan together, or for a tenant where its record states the limits.
	// The subject is found per request.
	address      []*ratelimit.Policy
	addressOwner string
	addressEpoch int64
	// durable says that charging changes counts that must be flushed.
	durable bool
	// outage is what the plan wants while shared limits can't be reached.
	outage ratelimit.Outage
}

// bind returns what e amounts to under the request's view. An error means that it
// cannot be told: the request is Unavailable, never refused.
func (g *Gateway) bind(ctx context.Context, req *Request, e *entry) (*bound, error) {
	if b := e.bound.Load(); b != nil && b.view == req.View && b.seq == req.View.seq.Load() {
		return b, nil
	}
	b, err := g.rebind(ctx, req, e)
	if err != nil {
		g.log.Error("a key cannot be judged under this configuration", "keyspace", e.keyspace(), "tenant", e.ten.Slug, "key_id", e.rec.ID, "error", err)
		return nil, err
	}
	// Requests that an old configuration still serves must not push out what the newer
	// one made: they bind for themselves.
	for {
		old := e.bound.Load()
		if old != nil && old.seq > b.seq {
			return b, nil
		}
		if e.bound.CompareAndSwap(old, b) {
			return b, nil
		}
	}
}

func (g *Gateway) rebind(ctx context.Context, req *Request, e *entry) (*bound, error) {
	ks := req.Keyspace
	plan := ks.Plans[e.ten.Plan]
	if plan == nil {
		return nil, fmt.Errorf("tenant %q has the plan %q, which this configuration does not know", e.ten.Slug, e.ten.Plan)
	}
	limits, err := effectiveLimits(plan, e.ten.overrides)
	if err != nil {
		return nil, fmt.Errorf("tenant %q: %w", e.ten.Slug, err)
	}
	own, err := e.rec.limits.policies()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", e.rec.ID, err)
	}
	if n := len(limits) + len(own); n > ratelimit.MaxLines {
		return nil, fmt.Errorf("key %s is subject to %d limits, at most %d can be checked together", e.rec.ID, n, ratelimit.MaxLines)
	}
	b := &bound{view: req.View, seq: req.View.seq.Load(), plan: plan, outage: plan.outage()}
	b.scopes = ks.Scopes.Closure(e.rec.Scopes) & plan.Cap
	b.scopeList = strings.Join(ks.Scopes.List(b.scopes), " ")

	var perTenant, perKey []*ratelimit.Policy
	for _, p := range limits {
		switch p.Per {
		case ratelimit.PerTenant:
			perTenant = append(perTenant, p)
		case ratelimit.PerAddress:
			b.address = append(b.address, p)
		default:
			perKey = append(perKey, p)
		}
		b.durable = b.durable || p.Kind == ratelimit.Quota || p.Kind == ratelimit.Credits
	}
	for _, p := range own {
		b.durable = b.durable || p.Kind == ratelimit.Quota
	}
	// Later configurations outweigh earlier ones, and under one configuration later rows do.
	epoch := b.seq<<32 + e.ten.Version
	switch {
	case len(b.address) == 0:
	case e.ten.overrides != nil:
		b.addressOwner, b.addressEpoch = e.owner.subject.ID(), epoch
	default:
		b.addressOwner, b.addressEpoch = "p:"+ks.Name+":"+plan.Name, b.seq<<32
	}
	b.tenant.Subject, b.key.Subject = e.owner.subject, e.key.subject
	b.tenant.Lines = e.owner.subject.Bind(epoch, ratelimit.FromPlan, perTenant)
	b.key.Lines = e.key.subject.Bind(epoch, ratelimit.FromPlan, perKey)
	if lines := e.key.subject.Bind(e.rec.Version, ratelimit.FromKey, own); len(lines) > 0 {
		b.key.Lines = slices.Concat(b.key.Lines, lines)
	}
	for _, s := range []*ratelimit.Subject{b.tenant.Subject, b.key.Subject} {
		if err := g.loadUsage(ctx, s, req); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// effectiveLimits returns a tenant's limits: the plan's, each kind replaced by the
// tenant's own where its record states any.
func effectiveLimits(plan *Plan, overrides *Overrides) ([]*ratelimit.Policy, error) {
	if overrides == nil {
		return plan.Limits, nil
	}
	own, err := overrides.Policies()
	if err != nil {
		return nil, err
	}
	if len(own) == 0 {
		return plan.Limits, nil
	}
	var replaced [ratelimit.Credits + 1]bool
	for _, p := range own {
		replaced[p.Kind] = true
	}
	out := own
	for _, p := range plan.Limits {
		if !replaced[p.Kind] {
			out = append(out, p)
		}
	}
	return out, nil
}

// TenantLimits returns the limits of a tenant on a plan, as Check applies them.
func TenantLimits(plan *Plan, t *Tenant) ([]*ratelimit.Policy, error) {
	return effectiveLimits(plan, &t.Overrides)
}

// Policies parses what a record states of its own.
func (o Overrides) Policies() ([]*ratelimit.Policy, error) {
	var out []*ratelimit.Policy
	for _, part := range []struct {
		text  string
		parse func(string) ([]*ratelimit.Policy, error)
	}{
		{o.Rate, ratelimit.ParseRates}, {o.Quota, ratelimit.ParseQuotas}, {o.Concurrency, ratelimit.ParseConcurrencies},
	} {
		if part.text == "" {
			continue
		}
		ps, err := part.parse(part.text)
		if err != nil {
			return nil, err
		}
		out = append(out, ps...)
	}
	return out, nil
}

// KeyLimits returns the limits that a key's record adds to its plan's. They are counted
// for the key, whatever they would be counted for in a plan.
func KeyLimits(k *Key) ([]*ratelimit.Policy, error) {
	return (&heldLimits{k.Overrides, k.CreditsLimit}).policies()
}

// policies returns the limits; none for nil.
func (l *heldLimits) policies() ([]*ratelimit.Policy, error) {
	if l == nil {
		return nil, nil
	}
	out, err := l.Overrides.Policies()
	if err != nil {
		return nil, err
	}
	for i, p := range out {
		if p.Per != ratelimit.PerKey {
			own := *p
			own.Per = ratelimit.PerKey
			out[i] = &own
		}
	}
	if l.credits != nil {
		out = append(out, ratelimit.CreditsLimit(*l.credits))
	}
	return out, nil
}

// loadUsage gives s the counts it starts with, where its limits need any. It asks the
// store once in the subject's life.
func (g *Gateway) loadUsage(ctx context.Context, s *ratelimit.Subject, req *Request) error {
	if !s.NeedsUsage() {
		return nil
	}
	rows, err := g.store.LoadUsage(ctx, s.ID(), req.Now)
	if err != nil {
		g.readFailed("reading quota counts", err)
		return err
	}
	for _, u := range rows {
		s.LoadUsage(u.Start, u.Calendar, u.Used)
	}
	s.UsageLoaded()
	return nil
}

// addressParty returns the request's address as a party to its limits.
func (g *Gateway) addressParty(ctx context.Context, req *Request, b *bound) (ratelimit.Party, error) {
	s := g.addresses.Get(b.addressOwner, groupAddr(req.Addr))
	p := ratelimit.Party{Subject: s, Lines: s.Bind(b.addressEpoch, ratelimit.FromPlan, b.address)}
	if err := g.loadUsage(ctx, s, req); err != nil {
		return ratelimit.Party{}, err
	}
	return p, nil
}

// groupAddr returns what counts as one client: an IPv4 address, an IPv6 /64.
func groupAddr(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
