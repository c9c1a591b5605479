package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Frameworks take a POST for another method where its query or body names one in _method. So
// where the rules differ by method, such a POST must satisfy the rules of both methods.

// maxOverrideBody is how much of a body is read to look for a method.
const maxOverrideBody = 64 << 10

// unreadMethods are the methods that a body counts as which can't be read with confidence.
var unreadMethods = []string{http.MethodPut, http.MethodPatch, http.MethodDelete}

// removedOverrides returns the headers that are removed. One that names another path would get
// around every rule, so only the former keep_overrides lets it pass.
func removedOverrides(c *config.HandlerConfig) overrides {
	switch {
	case c.KeepOverrides:
		return noOverrides
	case c.MethodOverride == config.OverridePass:
		return pathOverrides
	}
	return allOverrides
}

// rulePath is what rules are asked about.
type rulePath = *rules.Path

// overrideRules are the rules of a directive under which a POST may count as another method.
type overrideRules struct {
	set    *rules.Set
	scopes *gateway.Scopes
	// methods are those whose rules may differ from POST's: the ones that lines name, and one that
	// no line names, for all others.
	methods []string
}

// newOverrideRules returns nil where overrides are not checked, or no rule names a method.
func newOverrideRules(c *config.HandlerConfig, set *rules.Set, scopes *gateway.Scopes) *overrideRules {
	methods := c.Config.Methods()
	if set == nil || len(methods) == 0 || removedOverrides(c) != allOverrides {
		return nil
	}
	return &overrideRules{set, scopes, append(methods, "-")}
}

// and returns the verdict that is as strict as v and as those on r by the methods.
func (o *overrideRules) and(v rules.Verdict, p rulePath, methods []string) rules.Verdict {
	for _, m := range methods {
		v = v.And(o.set.Evaluate(m, p))
	}
	return v
}

// strictest returns the verdict on a POST that names every method.
func (o *overrideRules) strictest(v rules.Verdict, p rulePath) rules.Verdict {
	return o.and(v, p, o.methods)
}

// adds reports whether w asks for more than v does.
func (o *overrideRules) adds(v, w rules.Verdict) bool {
	held := o.scopes.Closure(o.scopes.List(gateway.ScopeSet(v.Need)))
	return w.Class > v.Class || gateway.ScopeSet(w.Need)&^held != 0 || w.Deny && !v.Deny || w.Cost > v.Cost || actualOf(w) != actualOf(v)
}

func actualOf(v rules.Verdict) string {
	if v.Rule == nil {
		return ""
	}
	return v.Rule.Actual
}

// query returns the verdict on a request whose query names other methods. WordPress takes them
// whatever the request's own method.
func (o *overrideRules) query(v rules.Verdict, p rulePath, query string) rules.Verdict {
	if o == nil || query == "" {
		return v
	}
	return o.and(v, p, formMethods(nil, query))
}

// override is what a POST's body may change of its verdict. Nil where that is nothing.
type override struct {
	check *requestCheck
	rules *overrideRules
	r     *http.Request
	path  rules.Path
	// strictest is the verdict where the body names every method.
	strictest rules.Verdict
}

// newOverride returns what the body may add to x.verdict.
func (x *exchange) newOverride(p rulePath) *override {
	o := x.h.rules.overrides
	if o == nil || p.Rejected() || !strings.EqualFold(x.r.Method, http.MethodPost) {
		return nil
	}
	strictest := o.strictest(x.verdict, p)
	if !o.adds(x.verdict, strictest) || !mayNameMethod(x.r) {
		return nil
	}
	return &override{&x.requestCheck, o, x.r, *p, strictest}
}

// demandsMore reports whether the body may make the request's class a stricter one.
func (o *override) demandsMore() bool { return o != nil && o.strictest.Class > o.check.verdict.Class }

// read reads the body, and makes the verdict as strict as the methods that the body names. The body
// is then passed on as it came.
func (o *override) read() {
	o.check.verdict = o.rules.and(o.check.verdict, &o.path, bodyMethods(o.r))
}

// refine is read as gateway.Request.Refine.
func (o *override) refine(q *gateway.Request) {
	o.read()
	q.Now = time.Now() // the client may have taken long to send the body
	o.check.demand()
}

// bodyMethods returns the methods that r's body names. It reads what it needs of the body, and puts it back.
func bodyMethods(r *http.Request) []string {
	if r.ContentLength > maxOverrideBody || encoded(r) {
		return unreadMethods
	}
	body, whole := readAhead(r, maxOverrideBody)
	if !whole {
		return unreadMethods
	}
	methods, ok := namedMethods(r, body)
	if !ok {
		return unreadMethods
	}
	return methods
}

// encoded reports whether r's body is compressed.
func encoded(r *http.Request) bool {
	for _, v := range r.Header["Content-Encoding"] {
		if v != "" && !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// readAhead reads the body up to limit, and reports whether that is all of it. The body then
// returns what was read, and goes on.
func readAhead(r *http.Request, limit int) (body []byte, whole bool) {
	// Reading made the server send 100 Continue: the upstream's would be a second one.
	delete(r.Header, "Expect")
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	whole = err == nil && len(body) <= limit
	if whole {
		err = io.EOF
	}
	r.Body = &aheadBody{ReadCloser: r.Body, ahead: body, err: err}
	return body, whole
}
