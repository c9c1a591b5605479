package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Options configures a Handler.
type Options struct {
	// Auth checks sessions and issues tokens. If it is nil, New makes one.
	Auth *auth.Authority
	// Webhooks manages webhooks. If it is nil, no webhooks can be created.
	Webhooks *webhooks.Registry
	// Keyspace is the name of the keyspace that the console manages. "" means the only keyspace,
	// or else "default".
	Keyspace string
	// Verifier explains why requests are rejected. If it is nil, the console has no page for that.
	Verifier inspect.Checker
	// Usage reports the usage of keys and tenants. If it is nil, the console shows no usage.
	Usage *usage.Service
	// Status returns the state of the gateway. If it is nil, the console does not show the state.
	Status func(context.Context) inspect.Status
	// Curl returns a curl command that sends a full key to the API. If it is nil, the console
	// shows no command.
	Curl func(key string) string
	// Client returns the client's address. If it is nil, the address is that of the connection.
	Client func(*http.Request) netip.Addr
	// Secure reports whether the client sent the request over HTTPS. If it is nil, requests with
	// r.TLS are secure.
	Secure func(*http.Request) bool
	// Base returns the prefix of r.URL.Path in the client's URL, without a trailing slash. If it
	// is nil, there is no prefix.
	Base func(*http.Request) string
	// Failed is called for an address that sent an unknown token or portal link. It reports
	// whether the address may try again; if not, retry is the time until it may. If Failed is nil,
	// every address may always try again.
	Failed func(netip.Addr) (ok bool, retry time.Duration)
	// Identity describes a trusted proxy in front of the gateway that authenticates people. nil:
	// there is none.
	Identity *Identity
	// Brand sets the look of the console.
	Brand Brand
	// Cookie is the name of the session's cookie. Over HTTPS, it has the prefix "__Host-".
	// Default: "keygate".
	Cookie string
	// Logger receives the errors that a person sees only as a 503. Default: nothing is logged.
	Logger *slog.Logger
}

// Identity describes a proxy in front of the gateway that authenticates people.
type Identity struct {
	// Header holds the person's name. It must be one that clients can't set.
	Header string
	// Scopes are the scopes of people whom the proxy names. Empty: "*", all scopes.
	Scopes []string
}

// Handler is the console of a keyspace. Safe for concurrent use.
type Handler struct {
	manager  *management.Manager
	auth     *auth.Authority
	webhooks *webhooks.Registry
	opts     Options
	log      *slog.Logger
	mux      *http.ServeMux
	assets   map[string]*asset
	// names maps an asset's name in templates to its name with the digest.
	names map[string]string
}

// New returns the console of a manager. It returns an error for an invalid brand.
func New(m *management.Manager, opts Options) (*Handler, error) {
	if opts.Auth == nil {
		opts.Auth = auth.New(m)
	}
	if opts.Webhooks == nil {
		opts.Webhooks = webhooks.New(m, nil)
	}
	h := &Handler{manager: m, auth: opts.Auth, webhooks: opts.Webhooks, opts: opts, log: opts.Logger, mux: http.NewServeMux()}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.opts.Cookie == "" {
		h.opts.Cookie = "keygate"
	}
	if h.opts.Identity != nil && len(h.opts.Identity.Scopes) == 0 {
		h.opts.Identity = &Identity{Header: h.opts.Identity.Header, Scopes: []string{management.AllScopes}}
	}
	if h.opts.Brand.Title == "" {
		h.opts.Brand.Title = DefaultTitle
	}
	if err := h.makeAssets(); err != nil {
		return nil, err
	}
	templates() // Parsing the templates now keeps the first request fast.
	for _, r := range routes {
		h.mux.Handle(r.pattern, bound{h, r})
	}
	return h, nil
}

// policy is the Content-Security-Policy of every page. It forbids inline scripts and styles, other
// origins, and frames.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// ServeHTTP answers one request. It reads at most 1 MiB of the body.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Frame-Options", "DENY")
	header.Set("X-Content-Type-Options", "nosniff")
	// With no-referrer, browsers would send "Origin: null" with the console's own forms.
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	header.Set("Cache-Control", "no-store")
	c := &call{h: h, w: w, r: r, ctx: r.Context()}
	if h.opts.Base != nil {
		c.base = h.opts.Base(r)
	}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			h.log.ErrorContext(r.Context(), "a console request panicked and was answered 503; please report the stack", "panic", p, "stack", string(debug.Stack()))
			c.fail(errors.New("panic"))
		}
	}()
	if name, ok := strings.CutPrefix(r.URL.Path, assetPath); ok {
		h.serveAsset(w, r, name)
		return
	}
	r = h.withoutSecrets(r)
	c.r = r
	addr := remoteAddr(r)
	if h.opts.Client != nil {
		addr = h.opts.Client(r)
	}
	if c.addr = addr; addr.IsValid() {
		c.ip = addr.String()
	}
	if p := r.URL.Path; !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		c.fail(errNoPage) // ServeMux would redirect to the clean path without the prefix that Options.Base returns.
		return
	}
	if _, pattern := h.mux.Handler(r); pattern == "" {
		// The path is unknown, or does not have the method. A person who is not signed in must not
		// learn which of the two it is.
		if _, err := c.signedIn(); err != nil {
			c.fail(err)
			return
		}
		c.fail(errNoPage)
		return
	}
	h.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
}

// callKey is the context key of the call that ServeHTTP passes to the route.
type callKey struct{}

func remoteAddr(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return a.Addr().Unmap()
}

// call is the state of one request while it is answered.
type call struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	// ctx is the request's context.
	ctx context.Context
	// base is the prefix of every path of the console in the client's URL.
	base string
	addr netip.Addr
	ip   string
	// The fields below are set once a person is signed in.
	grant  *auth.SessionGrant
	actor  management.Actor
	secret string
}

// bound is the http.Handler that serves a route of h.
type bound struct {
	h     *Handler
	route route
}

// ServeHTTP answers a request for the route.
func (b bound) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(callKey{}).(*call)
	c.r = r // This request has the path's parameters, which ServeMux has parsed.
	err := c.admit(b.route)
	if err == nil {
		err = b.route.serve(c)
	}
	if err != nil {
		c.fail(err)
	}
}

// admit returns an error unless the session may use the route. For a POST, it also parses the form
// and checks that a page of this session sent it.
func (c *call) admit(r route) error {
	if c.r.Method == http.MethodPost {
		if err := c.sameSite(); err != nil {
			return err
		}
		c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxForm)
		if err := c.r.ParseForm(); err != nil {
			return errForm
		}
	}
	if r.who == anybody {
		return nil
	}
	if _, err := c.signedIn(); err != nil {
		return err
	}
	if r.who == operators && c.actor.Tenant != "" {
		return errNoPage
	}
	if r.scope != "" && !c.grant.Allows(r.scope) {
		return &management.Error{Status: http.StatusForbidden, Code: management.CodeInsufficientScope,
			Detail: "Your session lacks the right " + r.scope + ". Sign in with a token that has it, or ask the person who gave you access."}
	}
	if c.r.Method == http.MethodPost {
		return c.checkCSRF()
	}
	return nil
}

// path returns the client's URL path for a path of the console.
func (c *call) path(p string) string { return c.base + p }

// redirect answers a POST that was carried out with a redirect to p. The page there shows the
// notice with that key; "" for no notice.
func (c *call) redirect(p, notice string) error {
	if notice != "" {
		sep := "?"
		if strings.Contains(p, "?") {
			sep = "&"
		}
		p += sep + "done=" + notice
	}
	c.w.Header().Set("Location", c.path(p))
	c.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// view holds the data of a page.
type view struct {
	c *call
	// Page is the name of the page's template, and Title the title of the document.
	Page, Title string
	Brand       Brand
	// Notice is a message about the change that was just made.
	Notice string
	Data   any
}

// To returns a link that is made of parts. Every second part is a path segment and gets escaped.
func (v *view) To(parts ...string) string { return v.c.to(parts...) }

// Asset returns the URL of an asset.
func (v *view) Asset(name string) string { return v.c.path(assetPath + v.c.h.names[name]) }

// HasAsset reports whether an asset with that name exists.
func (v *view) HasAsset(name string) bool { return v.c.h.names[name] != "" }

// CSRF returns the token that every form of this session must contain.
func (v *view) CSRF() string { return v.c.csrf() }

// SignedIn returns the session, or nil if no person is signed in.
func (v *view) SignedIn() *auth.SessionGrant { return v.c.grant }

// Person returns the name of the signed-in person, without the id of the token that signed the
// person in.
func (v *view) Person() string {
	g := v.c.grant
	return strings.TrimSuffix(g.Name, " ("+g.Token+")")
}

// Operator reports whether the session sees the whole keyspace, and not only one tenant.
func (v *view) Operator() bool { return v.c.grant != nil && v.c.grant.Tenant == "" }

// Can reports whether the session has a scope.
func (v *view) Can(scope string) bool { return v.c.grant != nil && v.c.grant.Allows(scope) }

// Nav returns the entries of the navigation.
func (v *view) Nav() []navItem { return v.c.nav(v.Page) }

// Query returns a query parameter of the page's URL.
func (v *view) Query(name string) string { return v.c.r.URL.Query().Get(name) }

// Curl returns a curl command that sends the full key, or "" if Options.Curl is nil.
func (v *view) Curl(key string) string {
	if v.c.h.opts.Curl == nil {
		return ""
	}
	return v.c.h.opts.Curl(key)
}

// Explains reports whether the session may use the page that explains rejected requests.
func (v *view) Explains() bool { return v.c.h.opts.Verifier != nil && v.Can("verify") }

// With returns a copy of the view with other data, for a part of the page.
func (v *view) With(data any) *view {
	part := *v
	part.Data = data
	return &part
}

// FirstPage returns the link to the first page of a list, with the list's filters.
func (v *view) FirstPage() string {
	q := v.c.r.URL.Query()
	q.Del("cursor")
	q.Del("done")
	return v.c.path(v.c.r.URL.Path) + "?" + q.Encode()
}
