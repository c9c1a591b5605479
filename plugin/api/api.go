// Package api is the management API: a management.Manager over HTTP. It translates,
// and has no rule of its own; who may do what is the Authenticate function's to say.
//
// One Handler serves every mount. Its paths begin with /v1/; a mount under a prefix
// strips it first.
//
// # Adding a route
//
// A route is a line in routes and a method of call. Beside the method stands what
// GET /v1/openapi.json says of it, under the same pattern:
//
//	var _ = document("POST /v1/things", doc{
//		Summary: "Makes a thing.", Body: fields{"name": aText("For people.")}, Required: []string{"name"},
//		Answers: map[int]any{http.StatusCreated: management.ThingRecord{}},
//		Refusals: map[int][]string{http.StatusConflict: {"thing_taken"}},
//	})
//
// Records' schemas are read from their Go types; lists and objects that may be null are
// named in nullable. Query parameters that only this route has go to doc.Query, and those of a path to
// commonPath. The tests fail where a route or a parameter is not described, and where an
// answer to them is not as described: see apitest. What a POST may be replayed without is in secretFields.
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
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Options is what a Handler works with.
type Options struct {
	// Verifier answers verify and explain. nil: they answer 503.
	Verifier management.RequestChecker
	// Status says how the gateway is. nil: /v1/status answers 503.
	Status func(context.Context) management.Status
	// Usage says what keys and tenants used. nil: its paths answer 503.
	Usage *usage.Service
	// Authenticate says who is asking and what they may do. Its errors are answered
	// like any other: a *management.Error of status 401 or 403 is a refusal.
	Authenticate func(*http.Request) (Access, error)
	// Address says where a request comes from, for paths that take no token. nil, and where it says
	// nothing: from the other end of the connection.
	Address func(*http.Request) netip.Addr
	// GitHubKeys returns the keys that GitHub signs its reports of leaks with. nil, and where it returns
	// nil: none are taken.
	GitHubKeys func() *leak.Keys
	// Site says where a keyspace's API is reached, for the curl beside a new key: a URL
	// without a trailing slash, "" where that isn't known. nil: it never is, and the
	// curl names https://api.example.com.
	Site func(keyspace string) string
	// Console says where a keyspace's console is reached, as Site says it of its API. nil, and
	// where it says "": there is none, and no portal links can be made.
	Console func(keyspace string) string
	// Logger hears of what a caller is told only "unavailable" about. Default: nothing is logged.
	Logger *slog.Logger
}

// Access is who is asking, and what they may do.
type Access struct {
	Actor management.Actor
	// Keyspace confines to one: the others don't exist. "" confines to nothing.
	Keyspace string
	// Allows says whether a scope such as "keys:write" is held. nil: every scope is.
	Allows func(scope string) bool
}

// Handler is the management API. Safe for concurrent use.
type Handler struct {
	manager *management.Manager
	opts    Options
	mux     *http.ServeMux
	log     *slog.Logger
	openAPI func() []byte
}

// New returns the API of a manager. It panics where Authenticate is missing, so that no
// mount is open by oversight.
func New(m *management.Manager, opts Options) *Handler {
	if m == nil || opts.Authenticate == nil {
		panic("api: a manager and Authenticate must be given")
	}
	h := &Handler{manager: m, opts: opts, mux: http.NewServeMux(), log: opts.Logger, openAPI: documentOf(routes)}
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
	// scope that the caller must hold. "" for a route that is open to everybody: no token
	// is looked at, the call's actor is nobody, and no keyspace is meant unless it is named.
	scope string
	// params are the query parameters it takes, beside keyspace.
	params []string
	serve  func(*call) error
}

var pageParams = []string{"limit", "cursor"}

func paged(params ...string) []string { return append(params, pageParams...) }

// routes is the whole API.
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

// whole are the routes about the gateway as a whole: where there are several keyspaces,
// none need be named.
var whole = map[string]bool{
	"GET /v1/audit/head": true, "GET /v1/audit/verify": true, "POST /v1/audit/verify": true, "GET /v1/status": true,
	"DELETE /v1/nodes/{node}": true,
}

// call is one request being answered.
type call struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	// ctx is the request's; where notes which gateways act by what was changed with it.
	ctx    context.Context
	where  *cluster.Confirmation
	access Access
	actor  management.Actor
	// ks is the keyspace that is meant, keyspace its name.
	ks       *gateway.Keyspace
	keyspace string
}

// bound is a route of a handler.
type bound struct {
	h     *Handler
	route route
}

// accessKey is where ServeHTTP leaves the Access for the route.
type accessKey struct{}

// ServeHTTP answers one request: with JSON, or with a problem. It reads at most 1 MiB
// of a body, and answers no status above 499 but 503.
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
			writeProblem(w, unavailable("The request could not be answered; the log says why."))
		}
	}()
	handler, pattern := http.Handler(nil), ""
	if clean(r.URL.Path) { // else ServeMux would redirect, which no client of an API expects
		handler, pattern = h.mux.Handler(r)
	}
	var access Access
	if b, ok := handler.(bound); !ok || b.route.scope != "" {
		// Before it is said what is there: that is nobody's business who shows no token.
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
		// Nothing of the path is left to be read out: it need not be matched once more.
		r.Pattern = pattern
		b.answer(w, r, access)
		return
	}
	h.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, access)))
}

func clean(p string) bool { return strings.HasPrefix(p, "/") && path.Clean(p) == p }

// unrouted answers a path that is not there, or not by this method: handler is
// ServeMux's own answer, which is asked only for the methods that are.
func (h *Handler) unrouted(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	var asked headerOnly
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
			Detail: "This path is not for that method; it takes " + allow + ".",
		})
	}
}

func noPath() *management.Error {
	return &management.Error{Status: http.StatusNotFound, Code: management.CodeNotFound, Detail: "There is nothing at this path."}
}

// headerOnly keeps what a handler says in its header and drops the rest.
type headerOnly struct{ header http.Header }

func (w *headerOnly) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (w *headerOnly) Write(b []byte) (int, error) { return len(b), nil }
func (w *headerOnly) WriteHeader(int)             {}

// ServeHTTP answers a request that the route is for.
func (b bound) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.answer(w, r, r.Context().Value(accessKey{}).(Access))
}

func (b bound) answer(w http.ResponseWriter, r *http.Request, access Access) {
	c := &call{h: b.h, w: w, r: r, access: access, actor: access.Actor}
	c.ctx, c.where = management.WithConfirmed(r.Context())
	if err := c.admit(b.route); err != nil {
		b.h.fail(w, r, err)
		return
	}
	if err := b.serve(c); err != nil {
		b.h.fail(w, r, err)
	}
}

// admit checks the caller's scope, the query, and which keyspace is meant.
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
	if c.keyspace == "" && whole[r.pattern] && errors.As(err, &unknown) {
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
