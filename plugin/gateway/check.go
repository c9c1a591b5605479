package gateway

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Check decides about req and sets d. It takes the cost of an allowed request from every limit,
// and nothing for any other request. For a key that was used before, Check answers from memory and
// does not allocate; for a new one, it asks the store within ctx. Check never fails: a request
// that cannot be decided is Unavailable.
//
// The caller calls d.Done when the request has ended, and d.Track if it can be ended early.
func (g *Gateway) Check(ctx context.Context, req *Request, d *Decision) {
	d.reset(g)
	if !g.waitReady(ctx) {
		req.Trace.Note("ready", false, "the gateway is not ready")
		d.unavailable()
		return
	}
	if g.freshness != nil && g.freshness.Stale(req.Now, req.Keyspace.Name) {
		req.Trace.Note("ready", false, "the store has been unreachable for longer than max_staleness")
		d.unavailable()
		return
	}
	// A credential of a wrong shape causes no look-up.
	if reason := req.shape(); reason != Allowed {
		d.reject(reason)
		return
	}
	digest := req.View.Hasher.Primary(req.Credential)
	e, err := g.find(ctx, req, digest)
	if err != nil {
		g.lookupFailed(req, d, err)
		return
	}
	req.Trace.Note("known", true, e.Key.ID)
	for try := 0; g.authorize(ctx, req, d, e); try++ {
		// The key's idle state was dropped just now: find the key again.
		if try == authorizeTries {
			d.unavailable()
			return
		}
		if e, err = g.find(ctx, req, digest); err != nil {
			g.lookupFailed(req, d, err)
			return
		}
	}
	if req.Trace == nil {
		// A request whose key and secret were accepted is authenticated. So a request that is rejected later, with 403 or 429,
		// also counts as a use of the key.
		switch d.Reason {
		case RevokedKey, DisabledKey, ExpiredKey, Unavailable:
		default:
			g.keys.Touch(e, req.Now, req.Addr)
			g.markDirty(e)
		}
	}
}

// reset clears d. It does not clear the array of standings, because that would be most of the work of a check. Only the
// first N standings are valid.
func (d *Decision) reset(g *Gateway) {
	d.gw = g
	d.Reason, d.RetryAfter, d.Until = Allowed, 0, time.Time{}
	d.Key, d.Tenant, d.Plan, d.SecretID = nil, nil, nil, ""
	d.Scopes, d.ScopeList = 0, ""
	d.Outcome.Denied, d.Outcome.Kind, d.Outcome.N = false, 0, 0
	d.entry, d.live, d.charged, d.settled = nil, nil, false, false
	d.meter, d.shortfall = nil, 0
	d.bill = ratelimit.Bill{}
}

func (d *Decision) unavailable() {
	d.Reason = Unavailable
	d.RetryAfter = time.Second
}

// shape returns the reason to reject the credential by its form alone, without a look-up. It returns Allowed if the form
// is valid.
func (req *Request) shape() Reason {
	reason := Allowed
	switch {
	case req.FindErr == nil && req.Keyspace.Grammar.Match(req.Credential) != nil:
	case req.FindErr == nil, errors.Is(req.FindErr, apikey.ErrMalformed):
		reason = MalformedKey
	case errors.Is(req.FindErr, apikey.ErrAmbiguous):
		reason = AmbiguousKey
	default:
		reason = MissingKey
	}
	if req.Trace != nil {
		detail := "the credential has the shape of the keyspace's keys"
		if reason != Allowed {
			detail = reason.Message()
		}
		req.Trace.Note("shape", reason == Allowed, detail)
	}
	return reason
}

// lookupFailed decides about a well-formed key that was not found, or could not be looked up.
func (g *Gateway) lookupFailed(req *Request, d *Decision, err error) {
	if !errors.Is(err, keytable.ErrUnknown) {
		req.Trace.Note("known", false, "the store does not answer, so nothing is known about the key")
		d.unavailable()
		return
	}
	req.Trace.Note("known", false, "no key of this keyspace has this secret")
	d.reject(InvalidKey)
	if req.Trace != nil {
		return
	}
	// Only unknown keys count as failed attempts, and only unknown keys are rejected for too many of them. A valid key from
	// the same address never reaches this code.
	if f := g.failuresOf(req.Keyspace); f != nil {
		if ok, retry := f.Fail(req.Now, req.Addr); !ok {
			d.reject(TooManyFailures)
			d.RetryAfter = retry
		}
	}
}

// authorizeTries bounds how often Check looks a key up again, because the state of the key was dropped from memory between
// the look-up and the charge.
const authorizeTries = 3

// authorize decides about a known key, for requests and for explanations. It returns true if it decided nothing, because
// the state of the key was dropped from memory; the caller then looks the key up again.
func (g *Gateway) authorize(ctx context.Context, req *Request, d *Decision, e *keytable.Entry) (dropped bool) {
	d.Key, d.Tenant, d.SecretID = &e.Key, e.Tenant, e.SecretID
	d.meter = e.KeyState.Meter
	d.Until = e.Until()

	if v := e.ValidityAt(req.Now); v != keytable.Valid {
		reason := reasonOf(v)
		req.Trace.Note("status", reason == TenantInactive, reason.Message())
		if reason == TenantInactive {
			req.Trace.Note("tenant", false, "tenant "+e.Tenant.Slug+" is suspended")
		}
		d.reject(reason)
		return false
	}
	req.Trace.Note("status", true, string(StatusActive))
	req.Trace.Note("tenant", true, e.Tenant.Slug)

	bound, err := g.bind(ctx, req, e)
	if err != nil {
		if req.Trace != nil {
			req.Trace.Note("plan", false, err.Error())
		}
		d.unavailable()
		return false
	}
	b := termsOf(bound)
	d.Plan, d.Scopes, d.ScopeList = b.plan, b.scopes, b.scopeList
	if b.plan.Deny {
		req.Trace.Note("plan", false, "plan "+b.plan.Name+" gives no API access")
		d.reject(PlanNotAllowed)
		return false
	}
	req.Trace.Note("plan", true, b.plan.Name)

	if !e.AllowsAddr(req.Addr) {
		if req.Trace != nil {
			req.Trace.Note("address", false, req.Addr.String()+" is not among the key's allowed addresses")
		}
		d.reject(IPNotAllowed)
		return false
	}
	req.Trace.Note("address", true, "")
	if refine := req.Refine; refine != nil {
		// Refine may wait for the client, and the key may be revoked meanwhile. So the caller looks the key up again.
		req.Refine = nil
		refine(req)
		return true
	}

	if missing := req.Need &^ b.scopes; missing != 0 || req.ScopeDenied {
		if req.Trace != nil {
			req.Trace.Note("scope", false, scopeDetail(req, missing))
		}
		d.reject(InsufficientScope)
		return false
	}
	req.Trace.Note("scope", true, b.scopeList)

	return g.charge(ctx, req, d, e, bound)
}

func scopeDetail(req *Request, missing ScopeSet) string {
	if missing == 0 {
		return "no scope rule matches this route, and scope_default is deny"
	}
	return "missing " + strings.Join(req.Keyspace.Scopes.List(missing), " ")
}

// charge takes the request's cost from every limit, or from none.
func (g *Gateway) charge(ctx context.Context, req *Request, d *Decision, e *keytable.Entry, lines *bound) (dropped bool) {
	b := termsOf(lines)
	bill := &d.bill
	bill.Cost, bill.NoConcurrency, bill.Outage = req.Cost, req.NoConcurrency, b.outage
	bill.Tenant = ratelimit.Party{Subject: e.TenantState.Subject, Lines: lines.Tenant}
	bill.Key = ratelimit.Party{Subject: e.KeyState.Subject, Lines: lines.Key}
	if b.address != nil {
		party, err := g.addressParty(ctx, req, b)
		if err != nil {
			d.unavailable()
			return false
		}
		bill.Address = party
	}
	if len(bill.Address.Lines)+len(bill.Tenant.Lines)+len(bill.Key.Lines) == 0 {
		req.Trace.Note("limits", true, "none apply")
		d.entry = e
		return false
	}
	err := g.limit(ctx, req.Now, bill, &d.Outcome, req.Trace == nil)
	for try := 0; errors.Is(err, ratelimit.ErrLease) && try < 3; try++ {
		if err = g.lease(ctx, e.TenantState, bill.Cost, func() error {
			return g.limit(ctx, req.Now, bill, &d.Outcome, req.Trace == nil)
		}); err == nil {
			break
		}
	}
	if errors.Is(err, ratelimit.ErrDropped) {
		return true
	}
	if err != nil {
		req.Trace.Note("limits", false, "the limits cannot be read now")
		d.unavailable()
		d.Outcome.Denied, d.Outcome.N = false, 0
		if b.durable && req.Trace == nil {
			// The charge may have taken credits and refunded them after their lease had ended. The next flush must write that refund.
			g.markDirty(e)
		}
		return false
	}
	if d.Outcome.Denied {
		req.Trace.noteLimits(&d.Outcome)
		d.reject(limitReason(d.Outcome.Kind))
		g.notifyLimit(req, d, e)
		return false
	}
	req.Trace.noteLimits(&d.Outcome)
	d.entry, d.at = e, req.Now
	d.charged = req.Trace == nil
	if b.durable && d.charged {
		// The key is marked as dirty after the charge. If it were marked before, a flush between the mark and the charge would
		// miss the charge.
		g.markDirty(e)
		g.markAddressDirty(bill)
	}
	return false
}

func (t *Trace) noteLimits(o *ratelimit.Outcome) {
	if t == nil {
		return
	}
	for i := range o.Standings[:o.N] {
		s := &o.Standings[i]
		t.Note("limit "+s.Policy.Name, !s.Denied, strconv.FormatInt(s.Remaining, 10)+" of "+strconv.FormatInt(s.Limit, 10)+" left")
	}
}

func limitReason(k ratelimit.Kind) Reason {
	switch k {
	case ratelimit.Rate:
		return RateLimited
	case ratelimit.Quota:
		return QuotaExceeded
	case ratelimit.Concurrency:
		return ConcurrencyExceeded
	}
	return CreditsExhausted
}

// markDirty adds the entry e to the list of keys that the next flush writes, unless e is on the list already.
func (g *Gateway) markDirty(e *keytable.Entry) {
	if !e.MarkDirty() {
		return
	}
	g.dirtyMu.Lock()
	g.dirty = append(g.dirty, e)
	g.dirtyMu.Unlock()
}

// find returns the entry of the request's key from memory, or else from the store. It returns keytable.ErrUnknown for an
// unknown key, and an error that wraps ErrStore if the store does not answer.
func (g *Gateway) find(ctx context.Context, req *Request, digest apikey.Digest) (*keytable.Entry, error) {
	if e := g.keys.Get(&digest, req.Keyspace.salt, req.Keyspace.Name); e != nil {
		return e, nil
	}
	return g.load(ctx, req, digest)
}

// load reads the entry of a key that is not in memory from the store. Its errors are those of find.
func (g *Gateway) load(ctx context.Context, req *Request, digest apikey.Digest) (*keytable.Entry, error) {
	ks := req.Keyspace
	q := keytable.Query{
		Now: req.Now, Keyspace: ks.Name, Salt: ks.salt, Grammar: ks.Grammar, Hasher: req.View.Hasher,
		Credential: req.Credential, Addr: req.Addr, Failures: g.failuresOf(ks), AskStore: g.freshness != nil && g.freshness.Lagging(time.Now()),
	}
	return g.keys.Load(ctx, &q, digest)
}
