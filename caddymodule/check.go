package caddymodule

import (
	"context"
	"errors"
	"net/netip"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// pathRules are what one keygate directive asks of requests.
type pathRules struct {
	set *rules.Set
	// overrides is nil where no request can count as one of another method.
	overrides *overrideRules
}

// requestCheck checks one request, from the rules of its path on. The handler, verify and explain
// all check with it, so that they decide alike: they call apply for each directive, then run, then
// dec.Done. It is large, so it is reused; see reset.
type requestCheck struct {
	// verdict is what the rules ask of the request, applied whether any rules were applied.
	verdict rules.Verdict
	applied bool
	// checked reports whether dec holds a decision. Public paths get none, nor do optional ones
	// without a key.
	checked bool
	req     gateway.Request
	dec     gateway.Decision
}

// reset prepares c for another request. It keeps no key.
func (c *requestCheck) reset() {
	c.verdict, c.applied, c.checked, c.req = rules.Verdict{}, false, false, gateway.Request{}
	c.dec.Reset()
}

// apply makes the verdict as strict as what a directive's rules ask of a request. path is the path
// as the directive reads it; the request is rejected where that is ambiguous. query is the raw
// query, which may name further methods. c.req.Trace must be set before.
func (c *requestCheck) apply(d *pathRules, method string, path *rules.Path, query string) {
	switch {
	case c.checked:
		return
	case path.Rejected():
		c.req.Trace.Note("path", false, "the path is ambiguous: "+path.Fault.String())
		c.verdict, c.checked, c.dec.Reason = rules.Verdict{}, true, gateway.AmbiguousPath
		return
	}
	v := d.overrides.query(d.set.Evaluate(method, path), path, query)
	if !c.applied {
		c.verdict, c.applied = v, true
		return
	}
	c.verdict.Add(v)
}

// checkedRequest is a request as requestCheck sees it.
type checkedRequest interface {
	// credential returns what apikey.Places.Find does, with its errors.
	credential(prefixedOnly bool) (string, error)
	// address returns the client's address.
	address() netip.Addr
}

// run checks r by the verdict, unless apply has rejected its path. body is what the body may add to
// the verdict, nil for nothing; it is read only where it can make a difference. run may block on the
// client, where body is not nil, and on the store, within ctx. c.req must hold everything that
// neither r nor the verdict gives.
func (c *requestCheck) run(ctx context.Context, g *cluster.Member, r checkedRequest, body *override) {
	if c.checked {
		return
	}
	if c.verdict.Class == rules.Public && body.demandsMore() {
		body.read()
		body = nil
	}
	if c.verdict.Class == rules.Public {
		c.req.Trace.Note("route", true, "public: no key is needed, and none is checked")
		return
	}
	c.req.Credential, c.req.FindErr = r.credential(c.verdict.Class == rules.Optional)
	if c.passesWithoutKey() && body.demandsMore() {
		body.read()
		body = nil
		c.req.Credential, c.req.FindErr = r.credential(c.verdict.Class == rules.Optional)
	}
	if c.passesWithoutKey() {
		c.req.Trace.Note("route", true, "optional: a request without a key passes without context")
		return
	}
	c.req.Addr = r.address()
	c.demand()
	if body != nil {
		c.req.Refine = body.refine
	}
	c.checked = true
	g.Check(ctx, &c.req, &c.dec)
}

// passesWithoutKey reports whether the request has no key and needs none.
func (c *requestCheck) passesWithoutKey() bool {
	return c.verdict.Class == rules.Optional && errors.Is(c.req.FindErr, apikey.ErrMissing)
}

// demand has the gateway check what the verdict asks for.
func (c *requestCheck) demand() {
	c.req.Need, c.req.ScopeDenied, c.req.Cost = gateway.ScopeSet(c.verdict.Need), c.verdict.Deny, c.verdict.Cost
}
