package caddymodule

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Handler checks the API key of each request. It rejects the request or passes it on, with headers
// that name the tenant and the key. It sets these placeholders:
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
// `{keygate.reason}` | The reason of a rejection, or `allowed`
type Handler struct {
	config.HandlerConfig

	app      *App
	keyspace *config.Keyspace
	rules    pathRules
	headers  ratelimit.HeaderOptions
	logs     *redact.Logs
	paths    *pathReader
	vary     varyList
	refuser
	log *slog.Logger
	// upgrades holds the paths of allow_upgrade as public paths; nil if there are none.
	upgrades      *rules.Set
	upgradeWarned atomic.Bool
}

func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate", New: func() caddy.Module { return new(Handler) }}
}

func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := configuredApp(ctx)
	if err != nil {
		return err
	}
	h.app, h.log = app, ctx.Slogger()
	name, err := app.Resolve(h.HandlerConfig.Keyspace)
	if err != nil {
		return err
	}
	h.keyspace = app.compiled.Keyspaces[name]
	h.refusals, h.refuser.ctx = app.refusals[name], ctx
	if h.rules.set, err = h.HandlerConfig.Compile(h.keyspace); err != nil {
		return err
	}
	if h.upgrades, err = h.CompileUpgrades(); err != nil {
		return err
	}
	h.rules.overrides = newOverrideRules(&h.HandlerConfig, h.rules.set, &h.keyspace.Scopes)
	if h.KeepOverrides && !h.StripOnly {
		h.log.Warn("keep_overrides is deprecated and will be removed in the next release: write method_override pass instead")
	}
	if h.rules.set != nil {
		app.addRules(h.keyspace.Name, &h.rules)
	}
	h.headers = h.HandlerConfig.HeaderOptions(h.keyspace)
	h.vary = newVaryList(credentialHeaders(h.keyspace.Places.List()))
	h.logs = redact.NewLogs(ctx, redact.NewSecrets(app.compiled.Cleaner, h.keyspace.Places.List()), h.keyspace.Grammar.CleanWords)
	if h.rules.set != nil && !h.HandlerConfig.Pathless() {
		h.paths = newPathReader(h.rules.set.Canonicalize, h.keyspace.Grammar.Clean, h.log, h.keyspace.Name)
	}
	return nil
}

// Checks returns the handler's configuration and its keyspace. ok is false if the handler checks
// no request.
func (h *Handler) Checks() (c *config.HandlerConfig, ks *config.Keyspace, ok bool) {
	return &h.HandlerConfig, h.keyspace, !h.StripOnly
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	if outer := stateOf(redact.Of(vars)); outer != nil {
		if outer.rejected != nil {
			// The request is in an error route that handles a rejection, and no other directive may admit the request.
			return outer.rejected
		}
		if outer.checked {
			return next.ServeHTTP(w, r)
		}
		// The outer directive's matcher excludes the request, so that directive removed the
		// upgrade. This directive may check the request.
		outer.removed.restore(r)
		outer.removed = nil
	}
	if h.StripOnly {
		log := redact.Begin(h.logs, r)
		defer log.End(w)
		shareState(log, new(directiveState))
		return h.passExcluded(log, w, r, next)
	}

	x := newExchange(h, w, r)
	defer x.free()
	log := &x.log
	log.Begin(h.logs, r, vars)
	defer log.End(w)
	shared := shareState(log, &x.state)

	x.req.Now = time.Now()
	path := h.paths.canonicalize(r, vars)
	x.apply(&h.rules, r.Method, &path, r.URL.RawQuery)
	if x.verdict.Outside {
		// The body may name a method with which the matcher includes the request.
		if body := x.newOverride(&path); body.demandsMore() {
			body.read()
		}
	}
	x.preflight = !path.Rejected() && isPreflight(r)
	answered := x.answersPreflight(&path)
	if x.verdict.Outside && !answered {
		return h.passExcluded(log, w, r, next)
	}
	shared.checked = true
	if x.preflight {
		stripIdentity(log, r, allOverrides)
		// A preflight has no body, so later handlers must not wait for one, as they could over
		// HTTP/3.
		r.Body = http.NoBody
	} else {
		stripIdentity(log, r, removedOverrides(&h.HandlerConfig))
	}
	if answered {
		emptyCredentials(h.keyspace, r, x.verdict.Class <= rules.Optional)
		log.CleanURI(r)
		answerPreflight(h.CORS, w, r)
		return nil
	}
	if !x.preflight {
		x.check(vars, &path)
	}
	defer x.dec.Done()
	if x.meter() {
		defer x.countUsage()
	}
	x.setPlaceholders()
	if x.checked {
		x.count()
	}

	if x.preflight || !x.observed && !h.ForwardCredential {
		// Credentials are removed from rejected requests too, because an error route may forward
		// them.
		emptyCredentials(h.keyspace, r, x.verdict.Class <= rules.Optional)
	}
	log.CleanURI(r)
	if x.checked && x.dec.Reason != gateway.Allowed {
		if !x.observed {
			return x.refuse(&x.w, x.dec.Reason)
		}
		log.Add("would_refuse", x.dec.Reason.String())
		return log.ServeError(&x.w, r, next.ServeHTTP(&x.w, r))
	}
	if !x.checked {
		h.dropUpgrade(log, r)
		return log.ServeError(&x.w, r, next.ServeHTTP(&x.w, r))
	}
	x.setContext()
	return x.pass(log, next)
}

// passExcluded passes on a request that the directive's matcher excludes.
func (h *Handler) passExcluded(log *redact.RequestLog, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	stripIdentity(log, r, removedOverrides(&h.HandlerConfig))
	h.dropUpgrade(log, r)
	log.CleanURI(r)
	return log.ServeError(w, r, next.ServeHTTP(w, r))
}

// check checks the request. vars are the request's variables.
func (x *exchange) check(vars map[string]any, path *rules.Path) {
	h := x.h
	x.vars, x.req.View, x.req.Keyspace = vars, h.app.compiled.View, h.keyspace.Keyspace
	rejected := x.checked
	x.run(x.r.Context(), h.app.engine.Gateway(), x, x.newOverride(path))
	x.observed = x.checked && !rejected && (h.Observe || x.dec.Plan != nil && x.dec.Plan.Observe)
}

func (x *exchange) credential(prefixedOnly bool) (string, error) {
	return x.h.keyspace.Places.Find(x.r.Header, x.r.URL, x.h.keyspace.Grammar, prefixedOnly)
}

func (x *exchange) address() netip.Addr {
	ip, _ := x.vars[caddyhttp.ClientIPVarKey].(string)
	return gateway.Addr(ip)
}

// emptyCredentials removes the credentials from every part of r that an upstream or an error route
// could see. prefixedOnly has the same meaning as for apikey.Places.Find.
func emptyCredentials(ks *config.Keyspace, r *http.Request, prefixedOnly bool) {
	p, g := ks.Places, ks.Grammar
	query := r.URL.RawQuery
	p.Empty(r.Header, r.URL, g, prefixedOnly)
	p.EmptyMisplaced(r.Header, r.URL, g)
	if !ks.InQuery {
		return
	}
	if r.URL.RawQuery != query {
		r.RequestURI = r.URL.RequestURI()
	}
	// Caddy keeps a copy of the request as it arrived. Error routes get the copy's URL, and
	// {http.request.orig_uri} shows it.
	o, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || o.URL == nil || o.URL.RawQuery == "" {
		return
	}
	u := *o.URL
	if u.RawQuery == query {
		u.RawQuery = r.URL.RawQuery // The condition holds for nearly all requests: the query has changed only because the credentials were removed.
	} else {
		p.Empty(nil, &u, g, prefixedOnly)
		p.EmptyMisplaced(nil, &u, g)
	}
	if u.RawQuery == o.URL.RawQuery {
		return
	}
	o.URL, o.RequestURI = &u, u.RequestURI()
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, o))
}

// refuse rejects the request. Either the site's error routes write the response, or Keygate writes its own.
func (x *exchange) refuse(w http.ResponseWriter, reason gateway.Reason) error {
	h, d := x.h, &x.dec
	// As for any error, error routes see the URL as it arrived, before any rewrite. The
	// credentials in it were removed, and RequestURI, which is only logged, holds no other key.
	if o, ok := x.r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		x.r.Method, x.r.RemoteAddr, x.r.RequestURI = o.Method, o.RemoteAddr, x.log.URI(o.RequestURI)
		*x.r.URL = *o.URL
	}
	// Otherwise an error route with a proxy could upgrade the connection of a rejected client.
	removeUpgrade(x.r)
	if allowOrigin(h.CORS, w.Header(), x.r.Header.Get("Origin")) {
		exposeHeaders(w.Header())
	}
	ref := &refusal{
		reason:     reason,
		realm:      h.HandlerConfig.Realm,
		keySent:    reason != gateway.MissingKey,
		retryAfter: d.RetryAfter,
	}
	if reason.IsLimit() {
		ref.violated = d.Outcome.Violated()
		ref.retryAfter = d.Outcome.RetryAfter()
	}
	if reason == gateway.InsufficientScope {
		ref.scopes = h.keyspace.Scopes.List(x.req.Need)
	}
	x.rejected = true
	return h.answerRefusal(w, x.r, ref)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
