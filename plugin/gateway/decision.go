package gateway

import (
	"net/netip"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Request holds what Check needs of a request. The caller owns it and may reuse it.
type Request struct {
	// Now is when the request came. The whole check uses this one reading of the clock.
	Now      time.Time
	View     *View
	Keyspace *Keyspace
	// Credential and FindErr are the results of apikey.Places.Find.
	Credential string
	FindErr    error
	// Addr is the client's address, as the proxy determined it.
	Addr netip.Addr
	// Need is the set of scopes that the key must have.
	Need ScopeSet
	// ScopeDenied reports that the route's rules deny every scope.
	ScopeDenied bool
	// Cost is taken from quotas and credits.
	Cost int64
	// NoConcurrency skips concurrency limits, for callers that hold no request open.
	NoConcurrency bool
	// Refine, if not nil, is called once, for an authenticated key from an allowed address. It may
	// block on the client, and may raise Need, ScopeDenied and Cost. Check then finds the key
	// again.
	Refine func(*Request)
	// Trace, if not nil, makes this an explanation: Check adds a step for each check, and spends,
	// counts and remembers nothing.
	Trace *Trace
}

// Trace collects the results of an explained request's checks, in order.
type Trace struct {
	Steps []Step
}

// Step is the result of one check.
type Step struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Note adds a step. On a nil Trace it does nothing.
func (t *Trace) Note(check string, ok bool, detail string) {
	if t != nil {
		t.Steps = append(t.Steps, Step{check, ok, detail})
	}
}

// Decision is the result of Check. The caller owns it, passes it zeroed or used, and calls Done
// exactly once when the request has ended, whatever the decision was.
type Decision struct {
	Reason Reason
	// Key and Tenant are set once the key is known, Plan once the tenant's plan is known.
	Key    *keytable.CachedKey
	Tenant *keytable.CachedTenant
	Plan   *Plan
	// SecretID is the id of the secret that the credential matched.
	SecretID string
	// Scopes are the key's effective scopes, within the plan's cap, including the scopes that
	// others include.
	Scopes ScopeSet
	// ScopeList is the names in Scopes, separated by spaces.
	ScopeList string
	// Outcome is the state of every policy; N is 0 if no limit applies or Check did not reach
	// them.
	Outcome ratelimit.Outcome
	// RetryAfter is the time until a retry makes sense, if a reason other than a policy denied the
	// request.
	RetryAfter time.Duration
	// Until is when the key or the matched secret expires; zero for never.
	Until time.Time

	gw      *Gateway
	entry   *keytable.Entry
	bill    ratelimit.Bill
	at      time.Time
	charged bool
	// settled reports that Settle was called.
	settled bool
	live    *Live
	meter   any
	// shortfall is the part of the settled cost that the balance could not cover.
	shortfall int64
}

// Reset clears d for another request. Call it after Done.
func (d *Decision) Reset() { d.reset(nil) }

// Allowed reports whether the request may pass.
func (d *Decision) Allowed() bool { return d.Reason == Allowed }

// Known reports whether the credential belongs to a known key, allowed or not.
func (d *Decision) Known() bool { return d.Key != nil }

func (d *Decision) reject(r Reason) { d.Reason = r }

// Cost returns how much the request was charged in quotas and credits so far.
func (d *Decision) Cost() int64 {
	if !d.charged {
		return 0
	}
	return d.bill.Cost
}

// Settle replaces the announced cost that Check charged by the actual cost; 0 refunds all. It
// changes quotas and credits, but not rates, and returns the part that the balance could not
// cover.
//
// Only the first call settles: after a shortfall, less was taken than the cost that a second call
// would refund. Settle does nothing if nothing was charged. It blocks on the store if this process
// has leased too few credits.
func (d *Decision) Settle(cost int64) (shortfall int64) {
	if !d.charged || d.settled || cost < 0 {
		return 0
	}
	d.settled = true
	if cost == d.bill.Cost {
		return 0
	}
	shortfall = d.gw.settleCost(d, cost)
	d.shortfall += shortfall
	return shortfall
}

// Done ends the request: it frees its concurrency slot, and the key's end no longer ends the
// request. For a rejected or finished decision it does nothing.
func (d *Decision) Done() {
	if d.entry == nil {
		return
	}
	if d.live != nil {
		d.live.Remove()
		d.live = nil
	}
	if d.charged {
		d.gw.limits().Release(&d.bill)
		d.charged = false
	}
}
