package caddymodule

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// exchange is the state of one request in a Handler. References to it may outlive the request: in
// the request's context, in the access log line, and in the list of running requests of its key.
type exchange struct {
	h   *Handler
	r   *http.Request
	w   responseWriter
	www caddyhttp.ResponseWriterWrapper
	log redact.RequestLog
	// state is used if this directive is the first one that handles the request.
	state directiveState

	// vars are the request's variables in Caddy.
	vars map[string]any
	// preflight reports whether the request is a CORS preflight, which passes unchecked.
	preflight bool
	// observed reports whether the request passes although it should be rejected, because the rejection is only recorded.
	observed bool
	cancel   context.CancelCauseFunc
	actual   string // actual is the cost that the upstream states in its response header.
	shown    placeholders
	body     countedBody
	live     gateway.Live
	// context holds the values of the context headers.
	context [6]string
	// caching stores the values of Vary and Cache-Control.
	caching [2]string
	// rejected reports whether the response is a rejection.
	rejected bool
	*scratch
}

// scratch is the part of an exchange that is needed only until its handler has returned. It is the
// larger part and is reused for other requests.
type scratch struct {
	requestCheck
	// account holds the request's data for usage.
	account account
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

func newExchange(h *Handler, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{h: h, r: r, scratch: scratchPool.Get().(*scratch)}
	x.www.ResponseWriter = w
	x.w.ResponseWriterWrapper, x.w.x = &x.www, x
	return x
}

// free returns the scratch to the pool, unless a goroutine still uses it after the later handlers
// have returned. In that case the garbage collector frees it.
func (x *exchange) free() {
	if x.w.leave() {
		return
	}
	x.scratch.reset()
	x.scratch.account = account{}
	scratchPool.Put(x.scratch)
}

// count counts the decision in the metrics.
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

// placeholders are the parts of a decision that placeholders show. They stay valid after the
// request has ended.
type placeholders struct {
	reason    gateway.Reason
	key       *gateway.CachedKey
	tenant    *gateway.CachedTenant
	plan      *gateway.Plan
	scopeList string
}

// setContext sets the headers that tell the upstream who the caller is.
func (x *exchange) setContext() {
	d, hdr := &x.dec, x.r.Header
	// One array holds all values. The slices have no spare capacity, so that appending to one
	// copies it.
	v := &x.context
	*v = [6]string{d.Tenant.Slug, d.Plan.Name, d.Key.ID, percentEncode(d.Key.Name), d.ScopeList, d.Key.Environment()}
	hdr[headerTenantID] = v[0:1:1]
	hdr[headerTenantPlan] = v[1:2:2]
	hdr[headerKeyID] = v[2:3:3]
	hdr[headerKeyName] = v[3:4:4]
	hdr[headerKeyScopes] = v[4:5:5]
	hdr[headerKeyEnvironment] = v[5:6:6]
}

// setPlaceholders makes the decision available to later handlers and to the log as placeholders.
func (x *exchange) setPlaceholders() {
	if !x.checked {
		return
	}
	d := &x.dec
	x.shown = placeholders{d.Reason, d.Key, d.Tenant, d.Plan, d.ScopeList}
	repl, ok := x.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(x.shown.get)
}

func (d *placeholders) get(name string) (any, bool) {
	switch name {
	case "http.auth.user.id", "keygate.tenant":
		if d.tenant != nil {
			return d.tenant.Slug, true
		}
		return "", name != "http.auth.user.id"
	case "keygate.reason":
		return d.reason.String(), true
	case "keygate.plan":
		if d.plan != nil {
			return d.plan.Name, true
		}
	case "keygate.key_id":
		if d.key != nil {
			return d.key.ID, true
		}
	case "keygate.key_name":
		if d.key != nil {
			return d.key.Name, true
		}
	case "keygate.scopes":
		return d.scopeList, true
	case "keygate.environment":
		if d.key != nil {
			return d.key.Environment(), true
		}
	default:
		return nil, false
	}
	return "", true
}

// directiveState is shared by all directives that handle one request. The request's log holds it.
type directiveState struct {
	// checked reports whether a directive has checked the request. Later directives then pass it
	// on unchecked.
	checked bool
	// rejected is the error with which a directive rejected the request, or nil.
	rejected error
	// removed is the upgrade that was removed from the unchecked request, or nil.
	removed *removedUpgrade
}

// stateOf returns the state in the request's first log. It returns nil if first is nil or has no
// state.
func stateOf(first *redact.RequestLog) *directiveState {
	if first == nil {
		return nil
	}
	state, _ := first.State.(*directiveState)
	return state
}

// shareState returns the state of the request of log. If no directive has set one before, it sets
// and returns state.
func shareState(log *redact.RequestLog, state *directiveState) *directiveState {
	first := log.First()
	if shared := stateOf(first); shared != nil {
		return shared
	}
	first.State = state
	return state
}
