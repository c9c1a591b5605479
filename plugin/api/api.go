// Package api serves the management API: it exposes a management.Manager over HTTP. It contains no
// rules of its own. The function Options.Authenticate decides what a caller may do.
//
// One Handler serves every mount. Its paths begin with /v1/; a mount under a prefix strips the
// prefix first.
//
// # Adding a route
//
// A route is a line in routes and a method of call. Its description for GET /v1/openapi.json is in
// the same file as the method, under the same pattern:
//
//	var _ = document("POST /v1/things", doc{
//		Summary: "Makes a thing.", Body: fields{"name": aText("For people.")}, Required: []string{"name"},
//		Answers: map[int]any{http.StatusCreated: management.ThingRecord{}},
//		Errors: map[int][]string{http.StatusConflict: {"thing_taken"}},
//	})
//
// The schemas of records are derived from their Go types; lists and objects that may be null are
// named in nullable. Query parameters of this route alone belong in doc.Query, and parameters of a
// path in commonPath. The tests fail if a route or a parameter is not described, or if a response
// differs from its description: see apitest. secretFields names the fields of a response that a
// replayed POST leaves out.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Options configures a Handler.
type Options struct {
	// Auth issues tokens and portal links. If it is nil, New makes one.
	Auth *auth.Authority
	// Leaks handles reports of leaked keys. If it is nil, New makes one.
	Leaks *leaks.Reporter
	// Webhooks manages webhooks. If it is nil, no webhook can be created.
	Webhooks *webhooks.Registry
	// Verifier answers POST /v1/verify and POST /v1/explain. If it is nil, both answer 503.
	Verifier inspect.Checker
	// Status returns the state of the gateway. If it is nil, GET /v1/status answers 503.
	Status func(context.Context) inspect.Status
	// Usage reports the usage of keys and tenants. If it is nil, the paths of usage answer 503.
	Usage *usage.Service
	// ShowCauses adds to a 503 why the store failed. The text names the database, so only the operator may see it.
	ShowCauses bool
	// Authenticate returns the caller and what the caller may do. To reject the request, it
	// returns a *management.Error of status 401 or 403; the API answers other errors with 503.
	Authenticate func(*http.Request) (Access, error)
	// Address returns the client's address, for paths that take no token. If it is nil, or returns
	// the zero Addr, the API takes the address of the connection.
	Address func(*http.Request) netip.Addr
	// GitHubKeys returns the keys with which GitHub signs its reports of leaked keys. If it is
	// nil, or returns nil, the API accepts no reports from GitHub.
	GitHubKeys func() *leak.Keys
	// Site returns the URL of a keyspace's API without a trailing slash, for the curl command in the response with a new
	// key. If it is nil, or returns "", the command names https://api.example.com.
	Site func(keyspace string) string
	// Console returns the URL of a keyspace's console without a trailing slash. If it is nil, or returns "", there is no
	// console, and no portal links can be made.
	Console func(keyspace string) string
	// Logger receives the errors that a caller sees only as a 503. Default: nothing is logged.
	Logger *slog.Logger
}

// Access is the caller, and what the caller may do.
type Access struct {
	Actor management.Actor
	// Keyspace is the only keyspace that the caller can see; "" for all keyspaces.
	Keyspace string
	// Allows reports whether the caller has a scope such as "keys:write". nil: the caller has all
	// scopes.
	Allows func(scope string) bool
}

// Handler is the management API. Safe for concurrent use.
type Handler struct {
	manager  *management.Manager
	auth     *auth.Authority
	webhooks *webhooks.Registry
	leaks    *leaks.Reporter
	opts     Options
	mux      *http.ServeMux
	log      *slog.Logger
	openAPI  func() []byte
}

// New returns a Handler for the manager m. It panics if m or opts.Authenticate is nil, so that no
// API is open by mistake.
func New(m *management.Manager, opts Options) *Handler {
	if m == nil || opts.Authenticate == nil {
		panic("api: New needs a manager and Options.Authenticate")
	}
	if opts.Auth == nil {
		opts.Auth = auth.New(m)
	}
	if opts.Leaks == nil {
		opts.Leaks = leaks.New(m)
	}
	if opts.Webhooks == nil {
		opts.Webhooks = webhooks.New(m, nil)
	}
	h := &Handler{manager: m, auth: opts.Auth, webhooks: opts.Webhooks, leaks: opts.Leaks, opts: opts, mux: http.NewServeMux(), log: opts.Logger, openAPI: documentOf(routes)}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	for _, r := range routes {
		h.mux.Handle(r.pattern, bound{h, r})
	}
	return h
}

// route is one method of one path.
type route struct {
	pattern string
	// scope is the scope that the caller needs. A route without a scope is public: it reads no
	// token, its call has no actor, and its call has a keyspace only if the query names one.
	scope string
	// params are the query parameters that the route accepts, besides keyspace.
	params []string
	serve  func(*call) error
}

var pageParams = []string{"limit", "cursor"}

func paged(params ...string) []string { return append(params, pageParams...) }

// routes lists every route of the API.
var routes = []route{
	{"GET /v1/openapi.json", "", nil, (*call).getOpenAPI},
	{"GET /v1/tenants", "tenants:read", paged("plan"), (*call).listTenants},
	{"POST /v1/tenants", "tenants:write", nil, (*call).createTenant},
	{"GET /v1/tenants/{slug}", "tenants:read", nil, (*call).getTenant},
	{"PUT /v1/tenants/{slug}", "tenants:write", nil, (*call).putTenant},
	{"PATCH /v1/tenants/{slug}", "tenants:write", nil, (*call).patchTenant},
	{"DELETE /v1/tenants/{slug}", "tenants:write", []string{"force", "erase"}, (*call).deleteTenant},
	{"GET /v1/tenants/{slug}/credits", "tenants:read", paged(), (*call).getCredits},
	{"POST /v1/tenants/{slug}/credits", "credits:write", nil, (*call).postCredits},
	{"GET /v1/tenants/{slug}/keys", "keys:read", paged("status", "prefix"), (*call).listTenantKeys},
	{"POST /v1/tenants/{slug}/keys", "keys:write", nil, (*call).createKey},
	{"GET /v1/keys", "keys:read", paged("tenant", "status", "prefix"), (*call).listKeys},
	{"GET /v1/keys/{id}", "keys:read", nil, (*call).getKey},
	{"PATCH /v1/keys/{id}", "keys:write", nil, (*call).patchKey},
	{"DELETE /v1/keys/{id}", "keys:write", nil, (*call).deleteKey},
	{"POST /v1/keys/{id}/rotate", "keys:write", nil, (*call).rotateKey},
	{"POST /v1/keys/{id}/revoke", "keys:write", nil, (*call).revokeKey},
	{"POST /v1/keys/{id}/disable", "keys:write", nil, (*call).disableKey},
	{"POST /v1/keys/{id}/enable", "keys:write", nil, (*call).enableKey},
	{"GET /v1/keys/{id}/limits", "keys:read", nil, (*call).getKeyLimits},
	{"POST /v1/keys/{id}/limits/reset", "keys:write", nil, (*call).resetKeyLimits},
	{"GET /v1/tenants/{slug}/limits", "tenants:read", nil, (*call).getTenantLimits},
	{"POST /v1/tenants/{slug}/limits/reset", "tenants:write", nil, (*call).resetTenantLimits},
	{"GET /v1/keys/{id}/usage", "usage:read", usageParams, (*call).getKeyUsage},
	{"GET /v1/keys/{id}/requests", "usage:read", paged(), (*call).listRequests},
	{"GET /v1/tenants/{slug}/usage", "usage:read", usageParams, (*call).getTenantUsage},
	{"GET /v1/usage", "usage:read", append([]string{"group_by"}, usageParams...), (*call).getUsage},
	{"GET /v1/audit", "audit:read", paged("key", "tenant"), (*call).listAudit},
	{"GET /v1/audit/head", "audit:read", nil, (*call).getAuditHead},
	{"GET /v1/audit/verify", "audit:read", nil, (*call).verifyAudit},
	{"POST /v1/audit/verify", "audit:read", nil, (*call).verifyAuditAgainst},
	{"GET /v1/plans", "tenants:read", nil, (*call).listPlans},
	{"GET /v1/scanner-rules", "keys:read", []string{"format"}, (*call).getScannerRules},
	{"GET /v1/status", "usage:read", nil, (*call).getStatus},
	{"GET /v1/tokens", "tokens:read", paged("tenant"), (*call).listTokens},
	{"DELETE /v1/nodes/{node}", "*", nil, (*call).forgetNode},
	{"POST /v1/tokens", "tokens:write", nil, (*call).createToken},
	{"DELETE /v1/tokens/{id}", "tokens:write", nil, (*call).revokeToken},
	{"GET /v1/webhooks", "webhooks:read", paged("tenant"), (*call).listWebhooks},
	{"POST /v1/webhooks", "webhooks:write", nil, (*call).createWebhook},
	{"GET /v1/webhooks/{id}", "webhooks:read", nil, (*call).getWebhook},
	{"PATCH /v1/webhooks/{id}", "webhooks:write", nil, (*call).patchWebhook},
	{"DELETE /v1/webhooks/{id}", "webhooks:write", nil, (*call).deleteWebhook},
	{"POST /v1/webhooks/{id}/rotate-secret", "webhooks:write", nil, (*call).rotateWebhookSecret},
	{"GET /v1/webhooks/{id}/deliveries", "webhooks:read", paged("status"), (*call).listDeliveries},
	{"POST /v1/webhooks/{id}/deliveries/{delivery}/replay", "webhooks:write", nil, (*call).replayDelivery},
	{"POST /v1/tenants/{slug}/events", "events:write", nil, (*call).postEvent},
	{"POST /v1/tenants/{slug}/portal", "portal", nil, (*call).createPortalLink},
	{"POST /v1/leaks", "", nil, (*call).postLeak},
	{"POST /v1/leaks/github", "", nil, (*call).postGitHubLeaks},
	{"POST /v1/import", "keys:write", nil, (*call).importKeys},
	{"POST /v1/verify", "verify", nil, (*call).verify},
	{"POST /v1/explain", "verify", nil, (*call).explain},
}

// gatewayWide are the routes about the gateway as a whole. Their queries need not name a keyspace,
// even if there are several.
var gatewayWide = map[string]bool{
	"GET /v1/audit/head": true, "GET /v1/audit/verify": true, "POST /v1/audit/verify": true, "GET /v1/status": true,
	"DELETE /v1/nodes/{node}": true,
}

// call is the state of one request while it is answered.
type call struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	// confirmation collects which gateways have confirmed the changes that are made with ctx.
	ctx          context.Context
	confirmation *cluster.Confirmation
	access       Access
	actor        management.Actor
	// ks is the keyspace of the call, and keyspace is its name.
	ks       *gateway.Keyspace
	keyspace string
}

// bound is the http.Handler that serves a route of h.
type bound struct {
	h     *Handler
	route route
}

// accessKey is the context key of the Access that ServeHTTP passes to the route.
type accessKey struct{}

// ServeHTTP answers one request with JSON or a problem (RFC 9457). It reads at most 1 MiB of the
// body. 503 is its only status above 499.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			h.log.ErrorContext(r.Context(), "a management request panicked and was answered 503; please report the stack", "panic", p, "stack", string(debug.Stack()))
			writeProblem(w, unavailable("The request could not be answered; the log has the reason."))
		}
	}()
	handler, pattern := http.Handler(nil), ""
	if clean(r.URL.Path) { // ServeMux redirects paths that are not clean; clients of an API do not expect redirects.
		handler, pattern = h.mux.Handler(r)
	}
	var access Access
	if b, ok := handler.(bound); !ok || b.route.scope != "" {
		// Authenticate first: a client without a token must not learn which paths exist.
		var err error
		if access, err = h.opts.Authenticate(r); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	if handler == nil {
		h.fail(w, r, noPath())
		return
	}
	if pattern == "" {
		h.unrouted(w, r, handler)
		return
	}
	if b, ok := handler.(bound); ok && !strings.Contains(pattern, "{") {
		// A path without parameters need not be matched a second time.
		r.Pattern = pattern
		b.answer(w, r, access)
		return
	}
	h.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, access)))
}

func clean(p string) bool { return strings.HasPrefix(p, "/") && path.Clean(p) == p }

// unrouted answers a request for an unknown path, or with a method that the path does not have.
// handler is ServeMux's own answer; unrouted calls it only to learn the allowed methods.
func (h *Handler) unrouted(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	var recorded headerRecorder
	handler.ServeHTTP(&recorded, r)
	allow := recorded.Header().Get("Allow")
	switch {
	case allow == "":
		h.fail(w, r, noPath())
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allow+", OPTIONS")
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", allow)
		h.fail(w, r, &management.Error{
			Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
			Detail: "The path does not accept this method; it accepts " + allow + ".",
		})
	}
}

func noPath() *management.Error {
	return &management.Error{Status: http.StatusNotFound, Code: management.CodeNotFound, Detail: "Nothing exists at this path."}
}

// headerRecorder keeps the headers of a response, and discards its status and body.
type headerRecorder struct{ header http.Header }

func (w *headerRecorder) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (w *headerRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (w *headerRecorder) WriteHeader(int)             {}

// ServeHTTP answers a request whose path has parameters, after ServeMux has parsed them.
func (b bound) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.answer(w, r, r.Context().Value(accessKey{}).(Access))
}

func (b bound) answer(w http.ResponseWriter, r *http.Request, access Access) {
	c := &call{h: b.h, w: w, r: r, access: access, actor: access.Actor}
	c.ctx, c.confirmation = management.WithConfirmed(r.Context())
	if err := c.admit(b.route); err != nil {
		b.h.fail(w, r, err)
		return
	}
	if err := b.serve(c); err != nil {
		b.h.fail(w, r, err)
	}
}

// admit checks the caller's scope, the query and the keyspace.
func (c *call) admit(r route) error {
	if r.scope != "" && c.access.Allows != nil && !c.access.Allows(r.scope) {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="keygate", error="insufficient_scope", scope="`+r.scope+`"`)
		return &management.Error{
			Status: http.StatusForbidden, Code: management.CodeInsufficientScope,
			Detail: "The token lacks the scope " + r.scope + ".",
		}
	}
	if c.r.URL.RawQuery != "" {
		if err := c.checkQuery(r.params); err != nil {
			return err
		}
		c.keyspace = c.query("keyspace")
	}
	if r.scope == "" && c.keyspace == "" {
		return nil
	}
	if only := c.access.Keyspace; only != "" {
		if c.keyspace != "" && c.keyspace != only {
			return &management.Error{Status: http.StatusNotFound, Code: management.CodeNotFound, Detail: "There is no such keyspace."}
		}
		c.keyspace = only
	}
	ks, err := c.h.manager.Keyspace(c.keyspace)
	var unknown *management.Error
	if c.keyspace == "" && gatewayWide[r.pattern] && errors.As(err, &unknown) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.r.Header.Get(ActorHeader) != "" && management.HoldsSecret(ks, c.actor.Name) {
		return headerError(ActorHeader, "must not hold an API key or a management token")
	}
	c.ks, c.keyspace = ks, ks.Name
	return nil
}
