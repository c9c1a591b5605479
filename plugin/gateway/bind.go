package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// bound holds the limits of a key under one view, the compiled configuration. The first check of the key by that view
// makes it. Immutable.
type bound = keytable.Bound

// termsOf returns the terms in a bound value, which bind in this package has stored there.
func termsOf(b *bound) *terms { return b.Terms.(*terms) }

// terms are the part of a key's limits that several keys can share. Keys with the same plan and scopes share their terms,
// unless the keys or their tenants have limits of their own. Immutable.
type terms struct {
	view *View
	// seq is the number of the view whose limits the key uses. After Renew makes a new view, the
	// key is bound to that one.
	seq       int64
	plan      *Plan
	scopes    ScopeSet
	scopeList string
	// address holds the policies that limit each client address. addressOwner is the id under which an address is counted: the
	// id of the plan, or of the tenant if the tenant's record states the limits. Each request looks up the subject of its
	// address.
	address      []*ratelimit.Policy
	addressOwner string
	addressEpoch int64
	// durable reports whether a charge changes counts that the store must keep.
	durable bool
	// outage is the plan's rule while shared limits are unreachable.
	outage ratelimit.Outage
}

// termsInUse holds the terms that keys share under the newest view, so that equal terms are in memory once.
type termsInUse struct {
	mu   sync.Mutex
	view *View
	seq  int64
	m    map[termsID]*terms
}

type termsID struct {
	plan   *Plan
	scopes ScopeSet
}

// maxTerms bounds the shared terms.
const maxTerms = 4096

// share returns shared terms that equal t. If there are none, it returns t and shares it from now on.
func (u *termsInUse) share(t *terms) *terms {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case t.view == u.view && t.seq == u.seq:
	case t.seq < u.seq:
		return t // Requests of an older configuration share no terms.
	default:
		u.view, u.seq, u.m = t.view, t.seq, map[termsID]*terms{}
	}
	id := termsID{t.plan, t.scopes}
	if one := u.m[id]; one != nil {
		return one
	}
	if len(u.m) < maxTerms {
		u.m[id] = t
	}
	return t
}

// bind returns the limits of the entry e under the request's view. After an error, the request is answered with
// Unavailable, never with a rejection.
func (g *Gateway) bind(ctx context.Context, req *Request, e *keytable.Entry) (*bound, error) {
	if b := e.Bound.Load(); b != nil && termsOf(b).view == req.View && termsOf(b).seq == req.View.seq.Load() {
		return b, nil
	}
	b, err := g.rebind(ctx, req, e)
	if err != nil {
		g.log.Error("a key cannot be checked under this configuration: its requests are answered with 503", "keyspace", e.Keyspace(), "tenant", e.Tenant.Slug, "key_id", e.Key.ID, "error", err)
		return nil, err
	}
	// Requests that an old configuration still serves must not replace the limits that a newer configuration has bound to the
	// key. They use the limits that they made themselves.
	for {
		old := e.Bound.Load()
		if old != nil && termsOf(old).seq > termsOf(b).seq {
			return b, nil
		}
		if e.Bound.CompareAndSwap(old, b) {
			return b, nil
		}
	}
}

func (g *Gateway) rebind(ctx context.Context, req *Request, e *keytable.Entry) (*bound, error) {
	ks := req.Keyspace
	plan := ks.Plans[e.Tenant.Plan()]
	if plan == nil {
		return nil, fmt.Errorf("tenant %q has the plan %q, which this configuration does not know", e.Tenant.Slug, e.Tenant.Plan())
	}
	limits, err := effectiveLimits(plan, e.Tenant.Overrides)
	if err != nil {
		return nil, fmt.Errorf("tenant %q: %w", e.Tenant.Slug, err)
	}
	own, err := e.Key.Limits()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", e.Key.ID, err)
	}
	if n := len(limits) + len(own); n > ratelimit.MaxLines {
		return nil, fmt.Errorf("key %s is subject to %d limits, at most %d can be checked together", e.Key.ID, n, ratelimit.MaxLines)
	}
	t := &terms{view: req.View, seq: req.View.seq.Load(), plan: plan, outage: plan.outage()}
	t.scopes = ks.Scopes.Closure(strings.Fields(e.Key.Scopes())) & plan.Cap
	t.scopeList = strings.Join(ks.Scopes.List(t.scopes), " ")

	var perTenant, perKey []*ratelimit.Policy
	for _, p := range limits {
		switch p.Per {
		case ratelimit.PerTenant:
			perTenant = append(perTenant, p)
		case ratelimit.PerAddress:
			t.address = append(t.address, p)
		default:
			perKey = append(perKey, p)
		}
		t.durable = t.durable || p.Kind == ratelimit.Quota || p.Kind == ratelimit.Credits
	}
	for _, p := range own {
		t.durable = t.durable || p.Kind == ratelimit.Quota
	}
	// The epoch of a later configuration is larger. Within one configuration, the epoch of a later version of the row is larger.
	epoch := t.seq<<32 + e.Tenant.Version
	switch {
	case len(t.address) == 0:
	case e.Tenant.Overrides != nil:
		t.addressOwner, t.addressEpoch = e.TenantState.Subject.ID(), epoch
	default:
		t.addressOwner, t.addressEpoch = "p:"+ks.Name+":"+plan.Name, t.seq<<32
	}
	if e.Tenant.Overrides == nil && len(own) == 0 {
		t = g.terms.share(t)
	}
	b := &bound{Terms: t}
	b.Tenant = e.TenantState.Subject.Bind(epoch, ratelimit.FromPlan, perTenant)
	b.Key = e.KeyState.Subject.Bind(epoch, ratelimit.FromPlan, perKey)
	if e.KeyState.Holds() {
		if lines := e.KeyState.Subject.Bind(e.Key.Version, ratelimit.FromKey, own); len(lines) > 0 {
			b.Key = slices.Concat(b.Key, lines)
		}
	}
	for _, s := range []*ratelimit.Subject{e.TenantState.Subject, e.KeyState.Subject} {
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

// loadUsage loads the stored quota counts of the subject s if the limits of s need them. It reads the store once for each
// subject.
func (g *Gateway) loadUsage(ctx context.Context, s *ratelimit.Subject, req *Request) error {
	if !s.NeedsUsage() {
		return nil
	}
	rows, err := g.usageOf(ctx, s, req.Now)
	if err != nil {
		return err
	}
	for _, u := range rows {
		if u.Start.After(req.Now) {
			s.KnowPeriod(u.Calendar, u.Start)
			continue
		}
		s.LoadUsage(u.Start, u.Calendar, u.Used)
	}
	s.UsageLoaded()
	return nil
}

// usageOf reads the stored quota counts of the subject s: the counts of s, and the total count of its holder.
func (g *Gateway) usageOf(ctx context.Context, s *ratelimit.Subject, now time.Time) ([]Usage, error) {
	rows, err := g.store.LoadUsage(ctx, s.ID(), now)
	if holder := s.Holder(); err == nil && holder != s.ID() {
		var own []Usage
		own, err = g.store.LoadUsage(ctx, holder, now)
		total := func(u Usage) bool { return u.Calendar == ratelimit.Total }
		rows = slices.DeleteFunc(rows, total)
		rows = append(rows, slices.DeleteFunc(own, func(u Usage) bool { return !total(u) })...)
	}
	if err != nil {
		g.health.ReadFailed("reading quota counts", err)
		return nil, err
	}
	return rows, nil
}

// limit charges the bill or, if take is false, only reads the state of its limits. If the clock was set, it first loads the
// counts of the quota periods that contain now.
func (g *Gateway) limit(ctx context.Context, now time.Time, b *ratelimit.Bill, o *ratelimit.Outcome, take bool) (err error) {
	for range 2 {
		if take {
			err = g.limits().Charge(ctx, now, b, o)
		} else {
			err = g.limits().Peek(ctx, now, b, o)
		}
		if !errors.Is(err, ratelimit.ErrPeriod) {
			return err
		}
		for _, s := range []*ratelimit.Subject{b.Address.Subject, b.Tenant.Subject, b.Key.Subject} {
			if s == nil || !s.NeedsPeriod(now) {
				continue
			}
			rows, err := g.usageOf(ctx, s, now)
			if err != nil {
				return err
			}
			counts := make([]ratelimit.Counted, len(rows))
			for i, u := range rows {
				counts[i] = ratelimit.Counted{Subject: u.Subject, Calendar: u.Calendar, Start: u.Start, Used: u.Used}
			}
			s.LoadPeriod(now, counts)
		}
	}
	return fmt.Errorf("%w: %w", ErrStore, err)
}

// addressParty returns the limits that count the address of the request, and the subject that holds the counts.
func (g *Gateway) addressParty(ctx context.Context, req *Request, b *terms) (ratelimit.Party, error) {
	s := g.addresses.Get(b.addressOwner, groupAddr(req.Addr))
	p := ratelimit.Party{Subject: s, Lines: s.Bind(b.addressEpoch, ratelimit.FromPlan, b.address)}
	if err := g.loadUsage(ctx, s, req); err != nil {
		return ratelimit.Party{}, err
	}
	return p, nil
}

// groupAddr returns the address that stands for one client: an IPv4 address, or the prefix of an
// IPv6 /64.
func groupAddr(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
