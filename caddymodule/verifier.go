package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/rules"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// check decides about requests that do not pass through the proxy, by the same engine
// and the same rules as those that do.
type verifier struct {
	gateway *gateway.Gateway
	view    func() *gateway.View
	// rules of the keyspace's directives.
	rules func(keyspace string) []*rules.Set
	// overrides returns what a query may change of a directive's verdict.
	overrides func(*rules.Set) *overrideRules
	// requests says how a keyspace's last requests are remembered.
	requests func(keyspace string) *usage.Log
	// usageOff says that a keyspace's usage is not counted.
	usageOff func(keyspace string) bool
}

// Verify implements management.RequestChecker.
func (j *verifier) Verify(ctx context.Context, keyspace string, r management.VerifyRequest) (management.VerifyResult, error) {
	return j.decide(ctx, keyspace, r, nil)
}

// Explain implements management.RequestChecker.
func (j *verifier) Explain(ctx context.Context, keyspace string, r management.VerifyRequest) (management.VerifyResult, error) {
	return j.decide(ctx, keyspace, r, &gateway.Trace{})
}

func (j *verifier) decide(ctx context.Context, keyspace string, r management.VerifyRequest, trace *gateway.Trace) (management.VerifyResult, error) {
	view := j.view()
	if view == nil || view.Keyspaces[keyspace] == nil {
		return management.VerifyResult{}, fmt.Errorf("%w: the keyspace is not running", gateway.ErrStore)
	}
	ks := view.Keyspaces[keyspace]
	v, u, path, err := j.route(ks, r)
	if err != nil {
		return management.VerifyResult{}, err
	}
	if r.Cost != nil {
		v.Cost = *r.Cost
	}
	x := verifications.Get().(*verification)
	defer x.release()
	req, d := &x.req, &x.dec
	*req = gateway.Request{
		Now: time.Now(), View: view, Keyspace: ks, Credential: r.Key, Addr: r.IP,
		Need: gateway.ScopeSet(v.Need), ScopeDenied: v.Deny, Cost: v.Cost,
		NoConcurrency: true, Trace: trace,
	}
	if r.Key == "" {
		req.FindErr = apikey.ErrMissing
	}
	switch {
	case path.Rejected():
		trace.Note("path", false, "the path is ambiguous: "+path.Fault.String())
		d.Reason = gateway.AmbiguousPath
	case v.Class == rules.Public:
		trace.Note("route", true, "public: no key is needed, none is judged")
	case v.Class == rules.Optional && (r.Key == "" || !ks.Grammar.Prefixed(r.Key)):
		trace.Note("route", true, "optional: a request without a key passes without context")
	default:
		j.gateway.Check(ctx, req, d)
		defer d.Done()
		countVerified(j.requests(keyspace), j.usageOff(keyspace), req, d, r.Method, u)
	}
	out := result(ks, d, req.Now, trace)
	out.Path = path.Escaped
	return out, nil
}

// verification is what one decision takes, kept for reuse: it is large.
type verification struct {
	req gateway.Request
	dec gateway.Decision
}

var verifications = sync.Pool{New: func() any { return new(verification) }}

func (x *verification) release() {
	*x = verification{} // it must keep no key
	verifications.Put(x)
}

// route says what the keyspace's directives ask of the path. Where several directives
// serve a keyspace, the strictest of them counts: which of them a client would meet is not known here.
// The URL is nil where the path is none. The path returned is the one that would go upstream.
func (j *verifier) route(ks *gateway.Keyspace, r management.VerifyRequest) (rules.Verdict, *url.URL, rules.Path, error) {
	v, path := rules.Verdict{Class: rules.Default, Cost: 1}, rules.Path{}
	if r.Path == "" {
		return v, nil, path, nil
	}
	sets := j.rules(ks.Name)
	u, err := url.ParseRequestURI(r.Path)
	if err != nil && len(sets) == 0 {
		return v, nil, path, nil // nothing is asked of the path
	}
	if err != nil || !strings.HasPrefix(r.Path, "/") {
		return v, nil, path, management.InvalidField("/path", "a path begins with '/' and is percent-encoded as in a request line")
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	for i, s := range sets {
		p := s.Canonicalize(u, false)
		if p.Rejected() {
			return v, u, p, nil
		}
		w := j.overrides(s).query(s.Evaluate(method, &p), &p, u.RawQuery)
		if i == 0 {
			v, path = w, p
		} else {
			v.Add(w)
		}
	}
	if path.Escaped != "" && !path.AsSent {
		setPath(u, &path)
	}
	return v, u, path, nil
}

// result renders a decision.
func result(ks *gateway.Keyspace, d *gateway.Decision, now time.Time, trace *gateway.Trace) management.VerifyResult {
	ref := ks.Refusals[d.Reason]
	out := management.VerifyResult{
		Allowed: d.Allowed(), Reason: d.Reason.String(), Status: ref.Status, Code: ref.Code, Message: ref.Message,
		Headers: make(map[string]string, 8), Scopes: []string{},
	}
	if d.Allowed() {
		out.Status, out.Code = http.StatusOK, d.Reason.String()
	}
	d.Outcome.Headers(now, ratelimit.HeaderOptions{X: true, IETF: true}, func(name, value string) {
		out.Headers[headerSpelling(name)] = value
	})
	if d.RetryAfter > 0 {
		out.Headers[ratelimit.HeaderRetryAfter] = strconv.FormatInt(int64((d.RetryAfter+time.Second-1)/time.Second), 10)
	}
	if d.Key != nil {
		out.Tenant, out.KeyID, out.KeyName, out.Environment = d.Tenant.Slug, d.Key.ID, d.Key.Name, d.Key.Environment
		out.Scopes = append(out.Scopes, ks.Scopes.List(d.Scopes)...)
		out.Plan = d.Tenant.Plan
	}
	if trace != nil {
		for _, s := range trace.Steps {
			out.Checks = append(out.Checks, management.CheckResult{Check: s.Check, OK: s.OK, Detail: s.Detail})
		}
	}
	return out
}

// headerSpelling returns the limit headers' names as people write them.
func headerSpelling(name string) string {
	switch name {
	case ratelimit.HeaderPolicy:
		return "RateLimit-Policy"
	case ratelimit.HeaderRateLimit:
		return "RateLimit"
	case ratelimit.HeaderLimit:
		return "X-RateLimit-Limit"
	case ratelimit.HeaderRemaining:
		return "X-RateLimit-Remaining"
	case ratelimit.HeaderReset:
		return "X-RateLimit-Reset"
	}
	return name
}

var _ management.RequestChecker = (*verifier)(nil)
