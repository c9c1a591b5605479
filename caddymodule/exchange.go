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

// exchange is one request on its way through a Handler. References to it may outlive the request:
// in its context, in the line of the access log, and in the list of requests that end with their
// key.
type exchange struct {
	h   *Handler
	r   *http.Request
	w   responseWriter
	www caddyhttp.ResponseWriterWrapper
	log redact.RequestLog
	// state is the log's, where no other directive has begun it.
	state directiveState

	// vars are the request's variables.
	vars map[string]any
	// preflight reports whether the request is a CORS preflight, which passes unchecked.
	preflight bool
	// observed reports whether a rejection is only noted.
	observed bool
	cancel   context.CancelCauseFunc
	actual   string // the cost that the upstream stated in its header
	shown    placeholders
	body     countedBody
	live     gateway.Live
	// context holds the values of the context headers.
	context [6]string
	// caching are values of Vary and Cache-Control.
	caching [2]string
	// rejected reports whether the response is a refusal.
	rejected bool
	*scratch
}

// scratch is the part of an exchange that is needed only until its handler has returned. It is the
// larger part, and is reused.
type scratch struct {
	requestCheck
	// account is what usage counts.
	account account
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

func newExchange(h *Handler, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{h: h, r: r, scratch: scratchPool.Get().(*scratch)}
	x.www.ResponseWriter = w
	x.w.ResponseWriterWrapper, x.w.x = &x.www, x
	return x
}

// free returns the scratch to the pool. It leaves the scratch to the garbage collector where a
// goroutine still writes after the later handlers have returned.
func (x *exchange) free() {
	if x.w.leave() {
		return
	}
	x.scratch.reset()
	x.scratch.account = account{}
	scratchPool.Put(x.scratch)
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

// placeholders are the parts of a decision that placeholders show. They stay valid after the
// request.
type placeholders struct {
	reason    gateway.Reason
	key       *gateway.CachedKey
	tenant    *gateway.CachedTenant
	plan      *gateway.Plan
	scopeList string
}

// setContext sets the context headers.
func (x *exchange) setContext() {
	d, hdr := &x.dec, x.r.Header
	// One array holds all values. Each slice has no spare capacity, so that an append copies it.
	v := &x.context
	*v = [6]string{d.Tenant.Slug, d.Plan.Name, d.Key.ID, percentEncode(d.Key.Name), d.ScopeList, d.Key.Environment()}
	hdr[headerTenantID] = v[0:1:1]
	hdr[headerTenantPlan] = v[1:2:2]
	hdr[headerKeyID] = v[2:3:3]
	hdr[headerKeyName] = v[3:4:4]
	hdr[headerKeyScopes] = v[4:5:5]
	hdr[headerKeyEnvironment] = v[5:6:6]
}

// setPlaceholders makes the decision available as placeholders to later handlers and to the log.
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

// directiveState is what the directives that one request meets know of each other. It belongs to the request's log.
type directiveState struct {
	// checked reports whether a directive has checked the request: later ones pass it on.
	checked bool
	// rejected is the error by which a directive rejected the request, nil where none did.
	rejected error
	// removed is the upgrade that was removed, since the request was not checked.
	removed *removedUpgrade
}

// stateOf returns the state of the request with that first log, nil where log is nil or has none.
func stateOf(first *redact.RequestLog) *directiveState {
	if first == nil {
		return nil
	}
	state, _ := first.State.(*directiveState)
	return state
}

// shareState returns the state of log's request. It is state where no other directive has set one.
func shareState(log *redact.RequestLog, state *directiveState) *directiveState {
	first := log.First()
	if shared := stateOf(first); shared != nil {
		return shared
	}
	first.State = state
	return state
}
