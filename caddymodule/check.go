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

// pathRules are the rules of one keygate directive.
type pathRules struct {
	set *rules.Set
	// overrides is nil if no request can count as a request with another method.
	overrides *overrideRules
}

// requestCheck checks one request, beginning with the rules of its path. The handler, verify and
// explain all use it, so that they decide alike: they call apply for each directive, then run,
// then dec.Done. A requestCheck is large and is reused for other requests; see reset.
type requestCheck struct {
	// verdict is the result of the rules. applied reports whether any rules were applied.
	verdict rules.Verdict
	applied bool
	// checked reports whether dec holds a decision. Requests for public paths get none, and
	// requests for optional paths get none if they have no key.
	checked bool
	req     gateway.Request
	dec     gateway.Decision
}

// reset prepares c for another request, and removes the key of the former request from it.
func (c *requestCheck) reset() {
	c.verdict, c.applied, c.checked, c.req = rules.Verdict{}, false, false, gateway.Request{}
	c.dec.Reset()
}

// apply evaluates the rules of the directive d, and makes the verdict at least as strict as their result. path is the path
// as the directive reads it; if it is ambiguous, the request is rejected. query is the raw query, which may name further
// methods. The caller sets c.req.Trace before the call.
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

// checkedRequest is the request to check: a real one, or one of verify and explain.
type checkedRequest interface {
	// credential returns the result of apikey.Places.Find for the request, with its errors.
	credential(prefixedOnly bool) (string, error)
	// address returns the client's address.
	address() netip.Addr
}

// run checks the request r against the verdict, unless apply has rejected the path of r. body reads further methods from the
// request's body, or is nil; it is called only if it can change the result. run may block on the client if body is not nil,
// and on the store, until ctx ends. The caller sets all fields of c.req that come neither from r nor from the verdict.
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

// passesWithoutKey reports whether the request has no key and does not need one.
func (c *requestCheck) passesWithoutKey() bool {
	return c.verdict.Class == rules.Optional && errors.Is(c.req.FindErr, apikey.ErrMissing)
}

// demand copies scopes and cost from the verdict to the gateway's request.
func (c *requestCheck) demand() {
	c.req.Need, c.req.ScopeDenied, c.req.Cost = gateway.ScopeSet(c.verdict.Need), c.verdict.Deny, c.verdict.Cost
}
