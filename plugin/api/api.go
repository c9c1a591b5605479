// Package api is the management API: a management.Manager over HTTP. It translates between the two, and has no rules of
// its own; the function Authenticate decides who may do what.
//
// One Handler serves every mount. Its paths begin with /v1/; a mount under a prefix strips the prefix first.
//
// # Adding a route
//
// A route is a line in routes and a method of call. Its description for GET /v1/openapi.json is in the same file as the
// method, under the same pattern:
//
//	var _ = document("POST /v1/things", doc{
//		Summary: "Makes a thing.", Body: fields{"name": aText("For people.")}, Required: []string{"name"},
//		Answers: map[int]any{http.StatusCreated: management.ThingRecord{}},
//		Errors: map[int][]string{http.StatusConflict: {"thing_taken"}},
//	})
//
// The schemas of records are derived from their Go types; lists and objects that may be null are named in nullable.
// Query parameters of this route alone belong in doc.Query, and parameters of a path in commonPath. The tests fail
// if a route or a parameter is not described, or if a response differs from its description: see apitest.
// secretFields names the fields of a response that a replayed POST leaves out.
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
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Options configures a Handler.
type Options struct {
	// Auth issues tokens and portal links. nil: a new one.
	Auth *auth.Authority
	// Verifier answers verify and explain. nil: they answer 503.
	Verifier management.RequestChecker
	// Status returns the state of the gateway. nil: /v1/status answers 503.
	Status func(context.Context) management.Status
	// Usage reports the usage of keys and tenants. nil: its paths answer 503.
	Usage *usage.Service
	// Authenticate returns the caller and what the caller may do. Its errors are answered like all others: use a
	// *management.Error of status 401 or 403 to reject the request.
	Authenticate func(*http.Request) (Access, error)
	// Address returns the client's address, for paths that take no token. If it is nil, or returns the zero Addr, the
	// address is that of the connection.
	Address func(*http.Request) netip.Addr
	// GitHubKeys returns the keys with which GitHub signs its reports of leaks. If it is nil, or returns nil, no report of
	// GitHub is accepted.
	GitHubKeys func() *leak.Keys
	// Site returns the URL of a keyspace's API without a trailing slash, for the curl command in the response with a new
	// key. If it is nil, or returns "", the command names https://api.example.com.
	Site func(keyspace string) string
	// Console returns the URL of a keyspace's console without a trailing slash. If it is nil, or returns "", there is no
	// console, and no portal links can be made.
	Console func(keyspace string) string
	// Logger receives the errors of which a caller sees only "unavailable". Default: nothing is logged.
	Logger *slog.Logger
}

// Access is the caller, and what the caller may do.
type Access struct {
	Actor management.Actor
	// Keyspace is the only keyspace that exists for the caller; "" for all.
	Keyspace string
	// Allows reports whether the caller has a scope such as "keys:write". nil: the caller has all.
	Allows func(scope string) bool
}

// Handler is the management API. Safe for concurrent use.
type Handler struct {
	manager *management.Manager
	auth    *auth.Authority
	opts    Options
	mux     *http.ServeMux
	log     *slog.Logger
	openAPI func() []byte
}

// New returns the API of a manager. It panics without Authenticate, so that no mount is open by mistake.
func New(m *management.Manager, opts Options) *Handler {
	if m == nil || opts.Authenticate == nil {
		panic("api: a manager and Authenticate must be given")
	}
	if opts.Auth == nil {
		opts.Auth = auth.New(m)
	}
	h := &Handler{manager: m, auth: opts.Auth, opts: opts, mux: http.NewServeMux(), log: opts.Logger, openAPI: documentOf(routes)}
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
	// scope is the scope that the caller needs. "" for a public route: no token is read, the call has no actor, and no
	// keyspace unless the query names one.
	scope string
	// params are the query parameters that it takes, besides keyspace.
	params []string
	serve  func(*call) error
}

var pageParams = []string{"limit", "cursor"}

func paged(params ...string) []string { return append(params, pageParams...) }

// routes are all routes of the API.
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

// gatewayWide are the routes about the gateway as a whole: if there are several keyspaces, the query need not name one.
var gatewayWide = map[string]bool{
	"GET /v1/audit/head": true, "GET /v1/audit/verify": true, "POST /v1/audit/verify": true, "GET /v1/status": true,
	"DELETE /v1/nodes/{node}": true,
}

// call is one request being answered.
type call struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	// ctx is the request's context; confirmation collects which gateways have confirmed the changes of this call.
	ctx          context.Context
	confirmation *cluster.Confirmation
	access       Access
	actor        management.Actor
	// ks is the keyspace of the call, keyspace its name.
	ks       *gateway.Keyspace
	keyspace string
}

// bound is a route of a handler.
type bound struct {
	h     *Handler
	route route
}

// accessKey is the context key of the Access that ServeHTTP passes to the route.
type accessKey struct{}

// ServeHTTP answers one request with JSON or a problem. It reads at most 1 MiB of a body. The only status above 499 is
// 503.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			h.log.ErrorContext(r.Context(), "the management API failed", "panic", p, "stack", string(debug.Stack()))
			writeProblem(w, unavailable("The request could not be answered; the log has the reason."))
		}
	}()
	handler, pattern := http.Handler(nil), ""
	if clean(r.URL.Path) { // ServeMux would redirect other paths, which no client of an API expects
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
		// The path has no parameters, so that it need not be matched again.
		r.Pattern = pattern
		b.answer(w, r, access)
		return
	}
	h.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, access)))
}

func clean(p string) bool { return strings.HasPrefix(p, "/") && path.Clean(p) == p }

// unrouted answers a request for an unknown path, or with a method that the path does not take. handler is ServeMux's own
// answer, which is only asked for the methods.
func (h *Handler) unrouted(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	var asked headerRecorder
	handler.ServeHTTP(&asked, r)
	allow := asked.Header().Get("Allow")
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
			Detail: "The path does not take this method; it takes " + allow + ".",
		})
	}
}

func noPath() *management.Error {
	return &management.Error{Status: http.StatusNotFound, Code: management.CodeNotFound, Detail: "There is nothing at this path."}
}

// headerRecorder keeps the header of a response and discards the rest.
type headerRecorder struct{ header http.Header }

func (w *headerRecorder) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (w *headerRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (w *headerRecorder) WriteHeader(int)             {}

// ServeHTTP answers a request for the route.
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
