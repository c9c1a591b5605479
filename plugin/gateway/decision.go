package gateway

import (
	"net/netip"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Request is what Check needs to know of a request. The caller owns it and may reuse it.
type Request struct {
	// Now is when the request came. One reading of the clock serves the whole check.
	Now      time.Time
	View     *View
	Keyspace *Keyspace
	// Credential is what apikey.Places.Find returned, and FindErr its error.
	Credential string
	FindErr    error
	// Addr is the client's address, as the proxy determined it.
	Addr netip.Addr
	// Need is the scopes that must all be held.
	Need ScopeSet
	// ScopeDenied reports that the route's rules deny every scope.
	ScopeDenied bool
	// Cost is taken from quotas and credits.
	Cost int64
	// NoConcurrency leaves concurrency limits out, for callers that hold no request open.
	NoConcurrency bool
	// Refine, where not nil, is called once, for an authenticated key from an allowed address. It may
	// block on the client, and may raise Need, ScopeDenied and Cost. Then the key is found once more.
	Refine func(*Request)
	// Trace, where not nil, makes this an explanation: every check's outcome is noted, and
	// nothing is spent, counted or remembered.
	Trace *Trace
}

// Trace collects what each check of an explained request found, in order.
type Trace struct {
	Steps []Step
}

// Step is the outcome of one check.
type Step struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Note adds a step; nothing on a nil Trace.
func (t *Trace) Note(check string, ok bool, detail string) {
	if t != nil {
		t.Steps = append(t.Steps, Step{check, ok, detail})
	}
}

// Decision is what Check decided. The caller owns it, passes it zeroed or used, and
// calls Done on it exactly once when the request has ended, whatever was decided.
type Decision struct {
	Reason Reason
	// Key, Tenant and Plan are set as far as the request got: Key and Tenant from the
	// moment the key is known, Plan when the tenant's plan is.
	Key    *keytable.CachedKey
	Tenant *keytable.CachedTenant
	Plan   *Plan
	// SecretID is the secret that was shown.
	SecretID string
	// Scopes are the key's effective scopes: after the plan's cap, included ones spelt out.
	Scopes ScopeSet
	// ScopeList is Scopes as names, separated by spaces.
	ScopeList string
	// Outcome is the state of every policy; N is 0 where no limit applies or none was reached.
	Outcome ratelimit.Outcome
	// RetryAfter is when to come back, for refusals that are not a policy's.
	RetryAfter time.Duration
	// Until is when the key or this secret of it expires; zero for never.
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
	// shortfall is what Settle could not take.
	shortfall int64
}

// Reset clears d for another request. Call it after Done.
func (d *Decision) Reset() { d.reset(nil) }

// Allowed reports whether the request may pass.
func (d *Decision) Allowed() bool { return d.Reason == Allowed }

// Known reports whether the credential belongs to a known key, allowed or not.
func (d *Decision) Known() bool { return d.Key != nil }

// reject sets the reason.
func (d *Decision) reject(r Reason) { d.Reason = r }

// Cost returns what the request was charged in quotas and credits so far.
func (d *Decision) Cost() int64 {
	if !d.charged {
		return 0
	}
	return d.bill.Cost
}

// Settle makes cost what the request really cost, after Check charged what was
// announced: 0 refunds it. Quotas and credits change, rates don't. It returns what
// the balance could not cover. It settles once, for good: a further call does nothing, since after a
// shortfall less was taken than the cost that it would give back. No-op where nothing was charged. May
// block when the credits are not all held here.
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

// Done ends the request: its concurrency slot is free, and it is no longer ended with
// its key. No-op on a rejected or finished decision.
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
