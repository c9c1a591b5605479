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
	// NoConcurrency skips the limits on concurrent requests. It is for callers that hold no request open, such as /v1/verify.
	NoConcurrency bool
	// Refine, if not nil, is called once for each request with an authenticated key from an allowed address. It may block on
	// the client, and may raise Need, ScopeDenied and Cost. After Refine, Check looks the key up again.
	Refine func(*Request)
	// Trace, if not nil, makes the call an explanation. Check then adds a step to Trace for each check, spends and counts
	// nothing, and remembers no failed attempt.
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
	// Scopes are the key's effective scopes: those that the plan allows, and the scopes that these include.
	Scopes ScopeSet
	// ScopeList is the names in Scopes, separated by spaces.
	ScopeList string
	// Outcome holds the state of every limit. Its N is 0 if no limit applies, or if Check rejected the request before the
	// limits.
	Outcome ratelimit.Outcome
	// RetryAfter is the time after which the client should retry, if something other than a limit caused the rejection.
	RetryAfter time.Duration
	// Until is when the key or the matched secret expires; zero for never.
	Until time.Time

	gw      *Gateway
	entry   *keytable.Entry
	bill    ratelimit.Bill
	at      time.Time
	charged bool
	// settled reports whether Settle was called for this decision.
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

// Settle replaces the announced cost, which Check has charged, by the actual cost of the request. A cost of 0 refunds
// everything. Settle changes quotas and credits, but not rates. It returns the part of the cost that the tenant's balance
// could not cover.
//
// Only the first call of Settle for a request has an effect. Settle does nothing if Check charged nothing. It blocks on
// the store if this process has leased too few credits.
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

// Done ends the request. It frees the request's place in the concurrency limits, and the gateway no longer ends the request
// when the key is revoked. For a rejected or finished decision, Done does nothing.
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
