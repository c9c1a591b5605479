package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Handler judges requests by the API key they show, and passes on those that may pass,
// with headers that tell the upstream who calls. It sets these placeholders:
//
// Placeholder | Description
// ------------|------------
// `{http.auth.user.id}` | The tenant; the access log prints it as `user_id`
// `{keygate.tenant}` | The tenant
// `{keygate.plan}` | The tenant's plan
// `{keygate.key_id}` | The key's id
// `{keygate.key_name}` | The key's name
// `{keygate.scopes}` | The key's effective scopes, separated by spaces
// `{keygate.environment}` | The key's environment
// `{keygate.reason}` | Why the request was refused, or `allowed`
type Handler struct {
	HandlerConfig

	app      *App
	keyspace *keyspace
	rules    *rules.Set
	headers  ratelimit.HeaderOptions
	logs     *requestLogs
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate", New: func() caddy.Module { return new(Handler) }}
}

// Provision sets up h.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := configuredApp(ctx)
	if err != nil {
		return err
	}
	h.app = app
	name, err := app.resolve(h.HandlerConfig.Keyspace)
	if err != nil {
		return err
	}
	h.keyspace = app.keyspaces[name]
	if h.rules, err = h.HandlerConfig.compile(h.keyspace); err != nil {
		return err
	}
	if h.rules != nil {
		app.addRules(h.keyspace.Name, h.rules)
	}
	h.headers = h.HandlerConfig.headerOptions(h.keyspace)
	h.logs = newRequestLogs(ctx, h.keyspace.Grammar.Clean, h.keyspace.Places.List())
	h.logs.onward = h.keyspace.Grammar.CleanWords
	return nil
}

// judgedVar marks a request that a Handler has judged: later ones pass it on.
const judgedVar = "keygate.judged"

// exchange is one request on its way through a Handler.
type exchange struct {
	h   *Handler
	req gateway.Request
	dec gateway.Decision
	w   responseWriter
	www caddyhttp.ResponseWriterWrapper
	r   *http.Request

	verdict rules.Verdict
	// judged says that the decision was asked for: not on public paths.
	judged bool
	// observed says that a refusal is only noted.
	observed bool
	cancel   context.CancelCauseFunc
	actual   string // what the upstream said the request cost, in the header
	// account is what usage counts.
	account account
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if judged, _ := caddyhttp.GetVar(r.Context(), judgedVar).(bool); judged {
		return next.ServeHTTP(w, r)
	}
	log := beginAccessLog(h.logs, r)
	defer log.end(w)
	stripContext(r, !h.KeepOverrides && !h.StripOnly)
	if h.StripOnly {
		log.cleanOnward(r)
		return log.serveError(w, r, next.ServeHTTP(w, r))
	}
	caddyhttp.SetVar(r.Context(), judgedVar, true)

	x := &exchange{h: h, r: r}
	x.www.ResponseWriter = w
	x.w.ResponseWriterWrapper = &x.www
	x.w.beforeHeader, x.w.beforeInformational = x.writeHeaders, x.dropHeaders
	x.verdict = h.rules.Judge(r.Method, r.URL)
	x.req.Now = time.Now()
	x.judge()
	defer x.dec.Done()
	if x.meter() {
		defer x.countUsage()
	}
	x.setPlaceholders()
	if x.judged {
		x.count()
	}

	if !x.observed && !h.ForwardCredential {
		// Refused requests too: an error route may pass them on.
		h.empty(r, x.verdict.Class <= rules.Optional)
	}
	// What handlers behind this one log of the request must hold no key either.
	log.cleanOnward(r)
	if x.judged && x.dec.Reason != gateway.Allowed {
		if !x.observed {
			return x.refuse(&x.w, x.dec.Reason)
		}
		log.observed(x.dec.Reason)
		return log.serveError(&x.w, r, next.ServeHTTP(&x.w, r))
	}
	if !x.judged {
		return log.serveError(&x.w, r, next.ServeHTTP(&x.w, r))
	}
	x.setContext()
	return x.pass(log, next)
}

// judge decides whether the request needs a decision, and asks for it.
func (x *exchange) judge() {
	h, r := x.h, x.r
	if x.verdict.Class == rules.Public || isPreflight(r) {
		return
	}
	q := &x.req
	q.View, q.Keyspace = h.app.view, h.keyspace.Keyspace
	q.Credential, q.FindErr = h.keyspace.Places.Find(r.Header, r.URL, h.keyspace.Grammar, x.verdict.Class == rules.Optional)
	if x.verdict.Class == rules.Optional && errors.Is(q.FindErr, apikey.ErrMissing) {
		return
	}
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	q.Addr = gateway.Addr(ip)
	q.Need, q.ScopeDenied, q.Cost = gateway.ScopeSet(x.verdict.Need), x.verdict.Deny, x.verdict.Cost
	x.judged = true
	h.app.engine.gateway.Check(r.Context(), q, &x.dec)
	x.observed = h.Observe || x.dec.Plan != nil && x.dec.Plan.Observe
}

// empty removes the credentials from r, in all that an upstream or an error route could
// get of it. The arguments are those of Places.Empty.
func (h *Handler) empty(r *http.Request, prefixedOnly bool) {
	p, g := h.keyspace.Places, h.keyspace.Grammar
	query := r.URL.RawQuery
	p.Empty(r.Header, r.URL, g, prefixedOnly)
	p.EmptyStray(r.Header, r.URL, g)
	if r.URL.RawQuery != query {
		r.RequestURI = r.URL.RequestURI()
	}
	// The request as it arrived stands beside the one that handlers change: error routes
	// get its URL back, and {http.request.orig_uri} shows it.
	o, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || o.URL == nil || o.URL.RawQuery == "" {
		return
	}
	u := *o.URL
	p.Empty(nil, &u, g, prefixedOnly)
	p.EmptyStray(nil, &u, g)
	if u.RawQuery == o.URL.RawQuery {
		return
	}
	o.URL, o.RequestURI = &u, u.RequestURI()
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, o))
}

// count counts the decision.
func (x *exchange) count() {
	plan := ""
	if x.dec.Plan != nil {
		plan = x.dec.Plan.Name
	}
	m, ks, took := x.h.app.metrics, x.h.keyspace.Keyspace, time.Since(x.req.Now)
	if x.observed {
		m.observePassed(ks, plan, x.dec.Reason, took)
	} else {
		m.observe(ks, plan, x.dec.Reason, took)
	}
}

// isPreflight says whether r is a CORS preflight, which browsers send without
// credentials (Fetch Standard, section 4.8).
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 && len(r.Header["Access-Control-Request-Method"]) > 0
}

// setContext tells the upstream who calls.
func (x *exchange) setContext() {
	d, hdr := &x.dec, x.r.Header
	// One array for all values; each slice ends where it begins, so that whoever appends to one copies it.
	v := &[6]string{d.Tenant.Slug, d.Plan.Name, d.Key.ID, percentEncode(d.Key.Name), d.ScopeList, d.Key.Environment}
	hdr[headerTenantID] = v[0:1:1]
	hdr[headerTenantPlan] = v[1:2:2]
	hdr[headerKeyID] = v[2:3:3]
	hdr[headerKeyName] = v[3:4:4]
	hdr[headerKeyScopes] = v[4:5:5]
	hdr[headerKeyEnvironment] = v[5:6:6]
}

// setPlaceholders makes the decision readable to what comes after, and to the log.
func (x *exchange) setPlaceholders() {
	if !x.judged {
		return
	}
	repl, ok := x.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(x.placeholder)
}

func (x *exchange) placeholder(name string) (any, bool) {
	d := &x.dec
	switch name {
	case "http.auth.user.id", "keygate.tenant":
		if d.Tenant != nil {
			return d.Tenant.Slug, true
		}
		return "", name != "http.auth.user.id"
	case "keygate.reason":
		return d.Reason.String(), true
	case "keygate.plan":
		if d.Plan != nil {
			return d.Plan.Name, true
		}
	case "keygate.key_id":
		if d.Key != nil {
			return d.Key.ID, true
		}
	case "keygate.key_name":
		if d.Key != nil {
			return d.Key.Name, true
		}
	case "keygate.scopes":
		return d.ScopeList, true
	case "keygate.environment":
		if d.Key != nil {
			return d.Key.Environment, true
		}
	default:
		return nil, false
	}
	return "", true
}

// errKeyEnded is the cause of a context cancelled because the request's key stopped
// being good.
var errKeyEnded = errors.New("API key is no longer valid")

// pass sends an allowed request on, and ends it early if its key stops being good.
func (x *exchange) pass(log *accessLog, next caddyhttp.Handler) (err error) {
	// Where Caddy has put its idle timeouts before the connection, it is behind them.
	if _, idle := caddyhttp.IdleTimeoutsFromContext(x.r.Context()); idle != nil {
		x.w.control = idle.Ctrl
	} else {
		x.w.control = http.NewResponseController(x.w.ResponseWriter)
	}
	ctx, cancel := context.WithCancelCause(x.r.Context())
	x.cancel = cancel
	defer cancel(nil)
	r := x.r.WithContext(ctx)
	if !x.observed {
		x.dec.Track(x.end)
	}

	var before headerNames
	before.note(x.w.Header())
	finished := false
	defer func() {
		if finished {
			return
		}
		// A panic. Either the response broke off, or the proxy found that it can't write
		// any more, since the request was ended just when the upstream answered.
		if !x.w.close() {
			x.account.broke = true
			x.settle(http.StatusBadGateway)
			return
		}
		if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			panic(p)
		}
		err = x.refuseEnded(&before)
	}()
	err = next.ServeHTTP(&x.w, r)
	finished = true
	if x.w.close() {
		return x.refuseEnded(&before)
	}
	if err == nil && x.w.status == 0 {
		// Nobody wrote anything: the server will, after us.
		x.writeHeaders(http.StatusOK)
	}
	// Settled before the error is answered: the client sees what was really taken.
	x.settle(statusOf(err, x.w.status))
	return log.serveError(&x.w, x.r, err)
}

// refuseEnded answers a request whose key stopped being good before its response began.
// Of the response's header only what stood there before is kept: the rest is the upstream's.
func (x *exchange) refuseEnded(before *headerNames) error {
	before.keep(x.w.Header())
	// Where the limits stand is told to valid keys only.
	x.dec.Reason, x.dec.Outcome.N = x.w.ended, 0
	if x.r.ProtoMajor == 1 {
		// Reading was stopped in mid-request. An HTTP/2 connection goes on: it is not only
		// this request's.
		x.w.Header().Set("Connection", "close")
	}
	return x.refuse(&x.w, x.w.ended)
}

// end is called, from another goroutine, when the key stops being good.
func (x *exchange) end(reason gateway.Reason) {
	x.w.end(reason)
	x.cancel(errKeyEnded)
}

// statusOf returns the status that a handler's error, or what it wrote, amounts to.
func statusOf(err error, written int) int {
	if written != 0 || err == nil {
		return written
	}
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode != 0 {
		return he.StatusCode
	}
	return http.StatusInternalServerError
}

// settle makes the request cost what it was worth: nothing where the upstream failed
// and its rule refunds that, or what the upstream says.
func (x *exchange) settle(status int) {
	rule := x.verdict.Rule
	if rule == nil || x.dec.Reason != gateway.Allowed {
		return
	}
	if rule.Refund && status >= 500 && x.w.ended == gateway.Allowed && x.r.Context().Err() == nil {
		x.dec.Settle(0)
		return
	}
	if rule.Actual == "" {
		return
	}
	text := x.actual
	hdr := x.w.Header()
	for _, name := range []string{rule.Actual, http.TrailerPrefix + rule.Actual} {
		if v := hdr[name]; len(v) > 0 {
			text = v[0]
			delete(hdr, name)
		}
	}
	if cost, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && cost >= 0 {
		x.dec.Settle(cost)
	}
}

// dropHeaders removes what only Keygate says from the header of an informational
// response, where the final one says it.
func (x *exchange) dropHeaders() {
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		delete(hdr, rule.Actual)
	}
	if x.judged && !x.observed && x.dec.Outcome.N > 0 {
		for _, name := range limitHeaders {
			delete(hdr, name)
		}
	}
}

// writeHeaders puts the limit headers in place of the upstream's, when the response's
// header goes out.
func (x *exchange) writeHeaders(status int) {
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		if v := hdr[rule.Actual]; len(v) > 0 {
			x.actual = v[0]
			delete(hdr, rule.Actual)
		}
		if t := hdr["Trailer"]; len(t) > 0 {
			if t = stripTokens(t, func(tok string) bool { return strings.EqualFold(tok, rule.Actual) }); len(t) == 0 {
				delete(hdr, "Trailer")
			} else {
				hdr["Trailer"] = t
			}
		}
	}
	if !x.judged || x.observed || x.dec.Outcome.N == 0 {
		return
	}
	for _, name := range limitHeaders {
		delete(hdr, name)
	}
	x.dec.Outcome.WriteHeaders(hdr, x.req.Now, x.h.headers)
	if len(x.r.Header["Origin"]) > 0 {
		exposeHeaders(hdr)
	}
}

// limitHeaders are the response headers that only Keygate writes, where it writes any.
var limitHeaders = [...]string{
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Ratelimit", "Ratelimit-Policy",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
}

const exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, Retry-After"

// exposeHeaders lets scripts of other origins read the limit headers (Fetch Standard,
// section 3.3.4).
func exposeHeaders(hdr http.Header) {
	hdr["Access-Control-Expose-Headers"] = append(hdr["Access-Control-Expose-Headers"], exposed)
}

// refuse answers instead of the upstream. The site's error routes are asked first.
func (x *exchange) refuse(w http.ResponseWriter, reason gateway.Reason) error {
	h, d := x.h, &x.dec
	// As for any error, its routes see the URL as it arrived, before any rewrite. Of the
	// credentials it has been emptied; what of it is only logged holds no other key either.
	if o, ok := x.r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		x.r.Method, x.r.RemoteAddr, x.r.RequestURI = o.Method, o.RemoteAddr, h.logs.secrets.uri(o.RequestURI)
		*x.r.URL = *o.URL
	}
	if h.allowOrigin(w.Header(), x.r) {
		exposeHeaders(w.Header())
	}
	ref := &refusal{
		reason:     reason,
		realm:      h.HandlerConfig.Realm,
		keySent:    reason != gateway.MissingKey,
		retryAfter: d.RetryAfter,
	}
	switch reason {
	case gateway.RateLimited, gateway.QuotaExceeded, gateway.ConcurrencyExceeded, gateway.CreditsExhausted:
		ref.violated = d.Outcome.Violated()
		ref.retryAfter = d.Outcome.RetryAfter()
	case gateway.InsufficientScope:
		ref.scopes = h.keyspace.Scopes.List(x.req.Need)
	}
	return answerRefusal(w, x.r, h.keyspace.refusals, ref)
}

// allowOrigin lets the page that sent r read a refusal, where its origin is configured.
func (h *Handler) allowOrigin(hdr http.Header, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || len(h.CORS) == 0 {
		return false
	}
	for _, o := range h.CORS {
		switch {
		case o == "*":
			hdr.Set("Access-Control-Allow-Origin", "*")
			return true
		case strings.EqualFold(o, origin):
			hdr.Set("Access-Control-Allow-Origin", origin)
			hdr.Set("Access-Control-Allow-Credentials", "true")
			hdr.Add("Vary", "Origin")
			return true
		}
	}
	return false
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
