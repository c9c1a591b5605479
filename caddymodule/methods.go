package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/formmethod"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Many frameworks treat a POST as another method if its query or body names one in _method. So if
// rules differ by method, such a POST must satisfy the rules of both methods.

// maxOverrideBody is the number of bytes that are read of a body to look for a method.
const maxOverrideBody = 64 << 10

// removedOverrides returns the override headers to remove. A header that names another path would
// bypass every rule, so only the deprecated keep_overrides keeps it.
func removedOverrides(c *config.HandlerConfig) overrides {
	switch {
	case c.KeepOverrides:
		return noOverrides
	case c.MethodOverride == config.OverridePass:
		return pathOverrides
	}
	return allOverrides
}

// rulePath is the path that rules are evaluated for.
type rulePath = *rules.Path

// overrideRules are the rules of a directive, for a POST that may count as another method.
type overrideRules struct {
	set    *rules.Set
	scopes *gateway.Scopes
	// methods are the methods whose rules may differ from those of POST: each method that a rule
	// names, and one other that represents all the rest.
	methods []string
}

// newOverrideRules returns nil if overrides are not checked or no rule names a method.
func newOverrideRules(c *config.HandlerConfig, set *rules.Set, scopes *gateway.Scopes) *overrideRules {
	methods := c.Config.Methods()
	if set == nil || len(methods) == 0 || removedOverrides(c) != allOverrides {
		return nil
	}
	return &overrideRules{set, scopes, append(methods, "-")}
}

// and returns the strictest of v and the verdicts for the path with each of the methods.
func (o *overrideRules) and(v rules.Verdict, p rulePath, methods []string) rules.Verdict {
	for _, m := range methods {
		v = v.And(o.set.Evaluate(m, p))
	}
	return v
}

// strictest returns the verdict for a POST that names every method.
func (o *overrideRules) strictest(v rules.Verdict, p rulePath) rules.Verdict {
	return o.and(v, p, o.methods)
}

// adds reports whether w is stricter than v in any way.
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

// query returns the verdict for a request whose query names other methods. WordPress reads them
// for every method of the request.
func (o *overrideRules) query(v rules.Verdict, p rulePath, query string) rules.Verdict {
	if o == nil || query == "" {
		return v
	}
	return o.and(v, p, formmethod.InForm(nil, query))
}

// override is a body that may name other methods and so make the verdict stricter. nil means that
// the body can't.
type override struct {
	check *requestCheck
	rules *overrideRules
	r     *http.Request
	path  rules.Path
	// strictest is the verdict if the body names every method.
	strictest rules.Verdict
}

// newOverride returns the override for the body of x's request, or nil if the body can't change
// x.verdict.
func (x *exchange) newOverride(p rulePath) *override {
	o := x.h.rules.overrides
	if o == nil || p.Rejected() || !strings.EqualFold(x.r.Method, http.MethodPost) {
		return nil
	}
	strictest := o.strictest(x.verdict, p)
	if !o.adds(x.verdict, strictest) || !formmethod.MayName(x.r) {
		return nil
	}
	return &override{&x.requestCheck, o, x.r, *p, strictest}
}

// demandsMore reports whether the body may make the class of the request stricter.
func (o *override) demandsMore() bool { return o != nil && o.strictest.Class > o.check.verdict.Class }

// read reads the body and makes the verdict as strict as those for the methods that the body
// names. The request keeps its whole body.
func (o *override) read() {
	o.check.verdict = o.rules.and(o.check.verdict, &o.path, bodyMethods(o.r))
}

// refine does the same as read, as the function gateway.Request.Refine.
func (o *override) refine(q *gateway.Request) {
	o.read()
	q.Now = time.Now() // the client may have sent the body slowly
	o.check.demand()
}

// bodyMethods returns the methods that r's body names. Afterwards r.Body still returns the whole
// body.
func bodyMethods(r *http.Request) []string {
	if r.ContentLength > maxOverrideBody || encoded(r) {
		return formmethod.Unread
	}
	body, whole := readAhead(r, maxOverrideBody)
	if !whole {
		return formmethod.Unread
	}
	methods, ok := formmethod.InBody(r, body)
	if !ok {
		return formmethod.Unread
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

// readAhead reads up to limit bytes of the body and reports whether that is all of it. Afterwards
// r.Body still returns the whole body.
func readAhead(r *http.Request, limit int) (body []byte, whole bool) {
	// Reading makes the server send 100 Continue. The upstream must not ask for a second one.
	delete(r.Header, "Expect")
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	whole = err == nil && len(body) <= limit
	if whole {
		err = io.EOF
	}
	r.Body = &aheadBody{ReadCloser: r.Body, ahead: body, err: err}
	return body, whole
}
