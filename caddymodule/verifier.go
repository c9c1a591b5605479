package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// verifier checks the requests of the API calls verify and explain, as the proxy would check them.
type verifier struct{ app *App }

// Verify checks a request and spends its cost.
func (v *verifier) Verify(ctx context.Context, keyspace string, r inspect.Request) (inspect.Result, error) {
	return v.check(ctx, keyspace, r, nil)
}

// Explain checks a request, spends nothing, and returns the result of each check.
func (v *verifier) Explain(ctx context.Context, keyspace string, r inspect.Request) (inspect.Result, error) {
	return v.check(ctx, keyspace, r, &gateway.Trace{})
}

func (v *verifier) check(ctx context.Context, keyspace string, r inspect.Request, trace *gateway.Trace) (inspect.Result, error) {
	view := v.app.engine.View()
	if view == nil || view.Keyspaces[keyspace] == nil {
		return inspect.Result{}, fmt.Errorf("%w: the keyspace is not in the running configuration", gateway.ErrStore)
	}
	x := verifications.Get().(*verification)
	defer x.release()
	x.Request = r
	x.req.Now, x.req.View, x.req.Keyspace = time.Now(), view, view.Keyspaces[keyspace]
	x.req.NoConcurrency, x.req.Trace = true, trace
	u, path, err := x.applyAll(v.app.rulesOf(keyspace))
	if err != nil {
		return inspect.Result{}, err
	}
	if r.Cost != nil {
		x.verdict.Cost = *r.Cost
	}
	x.run(ctx, v.app.gateway, x, nil)
	defer x.dec.Done()
	countVerified(v.app.compiled.RequestLog(keyspace), v.app.compiled.UsageOff(keyspace), &x.req, &x.dec, r.Method, u)
	out := result(x.req.Keyspace, &x.dec, x.req.Now, trace)
	out.Path = path
	return out, nil
}

// verification is the check of one Request.
type verification struct {
	requestCheck
	inspect.Request
}

var verifications = sync.Pool{New: func() any { return new(verification) }}

func (x *verification) release() {
	x.reset()
	x.Request = inspect.Request{}
	verifications.Put(x)
}

// applyAll applies the rules of all directives of the keyspace, because it is unknown which of
// them a client would reach. It returns the URL of the request, or nil if there is no path, and
// the path that would go upstream, or "" if the path is ambiguous.
func (x *verification) applyAll(directives []*pathRules) (u *url.URL, path string, err error) {
	x.verdict = rules.Verdict{Class: rules.Default, Cost: 1}
	if x.Path == "" {
		return nil, "", nil
	}
	u, err = url.ParseRequestURI(x.Path)
	if err != nil && len(directives) == 0 {
		return nil, "", nil // without rules any path is accepted
	}
	if err != nil || !strings.HasPrefix(x.Path, "/") {
		return nil, "", inspect.InvalidField("/path", "must begin with '/' and be percent-encoded as in a request line")
	}
	method := x.Method
	if method == "" {
		method = http.MethodGet
	}
	var first rules.Path
	for i, d := range directives {
		p := d.set.Canonicalize(u, false)
		x.apply(d, method, &p, u.RawQuery)
		if p.Rejected() {
			return u, "", nil
		}
		if i == 0 {
			first = p
		}
	}
	if first.Escaped != "" && !first.AsSent {
		setPath(u, &first)
	}
	return u, first.Escaped, nil
}

func (x *verification) credential(prefixedOnly bool) (string, error) {
	if x.Key == "" || prefixedOnly && !x.req.Keyspace.Grammar.Prefixed(x.Key) {
		return "", apikey.ErrMissing
	}
	return x.Key, nil
}

func (x *verification) address() netip.Addr { return x.IP }

// result converts a decision to the API's response.
func result(ks *gateway.Keyspace, d *gateway.Decision, now time.Time, trace *gateway.Trace) inspect.Result {
	ref := ks.Refusals[d.Reason]
	out := inspect.Result{
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
		out.Tenant, out.KeyID, out.KeyName, out.Environment = d.Tenant.Slug, d.Key.ID, d.Key.Name, d.Key.Environment()
		out.Scopes = append(out.Scopes, ks.Scopes.List(d.Scopes)...)
		out.Plan = d.Tenant.Plan()
	}
	if trace != nil {
		for _, s := range trace.Steps {
			out.Checks = append(out.Checks, inspect.Check{Check: s.Check, OK: s.OK, Detail: s.Detail})
		}
	}
	return out
}

// headerSpelling returns the name of a limit header in its usual spelling.
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

var _ inspect.Checker = (*verifier)(nil)
