package caddymodule

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
	"golang.org/x/net/http/httpguts"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/console"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Console mounts the web console of a keyspace on a site: for operators, who sign in with a
// management token or are told of by a proxy in front, and for a tenant's people, whom
// the product sends in by portal links. It answers every request under its path.
type Console struct {
	ConsoleConfig

	app  *App
	logs *requestLogs
	// failures counts unknown tokens and links by client address.
	failures *ratelimit.Failures
	keyspace string
	brand    console.Brand

	mu      sync.Mutex
	handler *console.Handler
}

// ConsoleConfig is what a `keygate_console` directive states.
type ConsoleConfig struct {
	// Keyspace whose keys are managed. Default: the only keyspace where there is one, else "default".
	Keyspace string `json:"keyspace,omitempty"`
	// Path under which the console stands; what is not under it is passed on. Default: "/", the whole site.
	Path string `json:"path,omitempty"`
	// URL is where browsers reach the console, for portal links. Default: what the site's
	// configuration says, which behind another proxy may not be what browsers see.
	URL string `json:"url,omitempty"`
	// Title is the product's name. Default: "Keygate".
	Title string `json:"title,omitempty"`
	// Color is the accent, as rrggbb or #rrggbb. Default: "2f5d50".
	Color string `json:"color,omitempty"`
	// Logo is a file with a picture, at most 64 KiB. Default: none.
	Logo string `json:"logo,omitempty"`
	// IdentityHeader, where it is stated, is trusted to hold the name of whoever is there. It must
	// be set or removed by what stands in front, such as forward_auth with copy_headers. Default: none.
	IdentityHeader string `json:"identity_header,omitempty"`
	// IdentityScopes are what people so named may do. Default: everything.
	IdentityScopes []string `json:"identity_scopes,omitempty"`
}

func registerConsole() {
	caddy.RegisterModule(new(Console))
	httpcaddyfile.RegisterHandlerDirective("keygate_console", parseConsole)
	// After forward_auth, which says who is there, and after encode; before what answers everything.
	httpcaddyfile.RegisterDirectiveOrder("keygate_console", httpcaddyfile.Before, "invoke")
}

// CaddyModule returns the Caddy module information.
func (*Console) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate_console", New: func() caddy.Module { return new(Console) }}
}

// parseConsole reads the directive:
//
//	keygate_console [<matcher>] [<keyspace>] {
//		path            <path>
//		url             <url>
//		title           <name>
//		color           <rrggbb>
//		logo            <file>
//		identity_header <header> [<scope>...]
//	}
func parseConsole(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	a, err := optionApp(h)
	if err != nil {
		return nil, err
	}
	if a == nil {
		h.Next()
		return nil, h.Err("keygate_console needs the global option keygate { … }, which says whose keys are managed")
	}
	at := *h.Dispenser
	at.Next()
	c := new(Console)
	if err := c.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if _, err := a.resolve(c.Keyspace); err != nil {
		return nil, at.WrapErr(err)
	}
	return c, nil
}

// UnmarshalCaddyfile sets up c from its directive without a matcher. See parseConsole for the syntax.
func (c *Console) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	at := *d
	l := make(lines)
	l.note("keyspace", d)
	names, err := args(d, 0, 1, "keygate_console [<matcher>] [<keyspace>] { … }")
	if err != nil {
		return err
	}
	if len(names) == 1 {
		c.Keyspace = names[0]
	}
	opts := options{
		"identity_header": {parse: func(d *caddyfile.Dispenser) error {
			l.note("identity_header", d)
			l.note("identity_scopes", d)
			a, err := args(d, 1, -1, "identity_header <header> [<scope>...]")
			if err != nil {
				return err
			}
			c.IdentityHeader, c.IdentityScopes = a[0], a[1:]
			return nil
		}},
	}
	opts["color"] = option{parse: func(d *caddyfile.Dispenser) error {
		l.note("color", d)
		// What begins with # is a comment in a Caddyfile, unless it is quoted.
		return oneArg(d, "color <rrggbb>", &c.Color)
	}}
	for name, to := range map[string]*string{"path": &c.Path, "url": &c.URL, "title": &c.Title, "logo": &c.Logo} {
		opts[name] = option{parse: func(d *caddyfile.Dispenser) error {
			l.note(name, d)
			return oneArg(d, name+" <"+name+">", to)
		}}
	}
	if err := block(d, "keygate_console", opts); err != nil {
		return err
	}
	return l.locate(&at, c.check())
}

// check says what is wrong with what is stated, as far as that can be told without the files it names.
func (c *ConsoleConfig) check() error {
	if c.Path != "" && (!strings.HasPrefix(c.Path, "/") || path.Clean(c.Path) != c.Path || strings.ContainsAny(c.Path, "*{}?#%")) {
		return fieldErrorf("path", "path: '%s' must be a plain path, such as /console", c.Path)
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fieldErrorf("url", "url: '%s' must be a URL without a query, such as https://keys.example.com", c.URL)
		}
	}
	if len(c.Title) > 60 || strings.ContainsFunc(c.Title, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fieldErrorf("title", "title: must be at most 60 characters, none of them control characters")
	}
	if err := (console.Brand{Color: c.Color}).Check(); err != nil {
		return fieldErrorf("color", "%w", err)
	}
	if c.IdentityHeader != "" && !httpguts.ValidHeaderFieldName(c.IdentityHeader) {
		return fieldErrorf("identity_header", "identity_header: '%s' is no name of a header", c.IdentityHeader)
	}
	if c.IdentityHeader == "" && len(c.IdentityScopes) > 0 {
		return fieldErrorf("identity_scopes", "identity_scopes: without identity_header nobody has them")
	}
	known := management.TokenScopes()
	for _, s := range c.IdentityScopes {
		if !contains(known, s) {
			return fieldErrorf("identity_scopes", "identity_header: '%s' is no scope (there is %s)", s, strings.Join(known, ", "))
		}
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// Provision sets up c.
func (c *Console) Provision(ctx caddy.Context) error {
	app, err := configuredApp(ctx)
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	c.app = app
	if c.keyspace, err = app.resolve(c.Keyspace); err != nil {
		return err
	}
	c.brand = console.Brand{Title: c.Title, Color: c.Color}
	if c.Logo != "" {
		data, err := os.ReadFile(c.Logo)
		if err != nil {
			return fmt.Errorf("logo: %w", err)
		}
		c.brand.Logo = console.File{Name: c.Logo, Data: data}
	}
	if err := c.brand.Check(); err != nil {
		return err
	}
	policy, err := ratelimit.ParseRate(tokenFailureRate)
	if err != nil {
		return err
	}
	c.failures = ratelimit.NewFailures(policy, maxFailingAddresses)
	c.logs = newRequestLogs(ctx, app.cleaner, []apikey.Place{{Kind: apikey.InCookie, Name: "keygate"}, {Kind: apikey.InCookie, Name: "__Host-keygate"}})
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	log := beginAccessLog(c.logs, r)
	defer log.end(w)
	inner, ok := c.within(r)
	if !ok {
		return log.serveError(w, r, next.ServeHTTP(w, r))
	}
	h, err := c.console()
	if err != nil {
		return log.serveError(w, r, err)
	}
	if h == nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "The gateway is starting; try again.", http.StatusServiceUnavailable)
		return nil
	}
	h.ServeHTTP(w, inner)
	return nil
}

// within returns the request with its path as the console sees it; false for one that is not the console's.
func (c *Console) within(r *http.Request) (*http.Request, bool) {
	if c.Path == "" || c.Path == "/" {
		return r, true
	}
	rest, ok := strings.CutPrefix(r.URL.Path, c.Path)
	if !ok || rest != "" && rest[0] != '/' {
		return nil, false
	}
	if rest == "" {
		rest = "/"
	}
	inner := new(http.Request)
	*inner = *r
	inner.URL = new(url.URL)
	*inner.URL = *r.URL
	inner.URL.Path, inner.URL.RawPath = rest, ""
	return inner, true
}

// base returns what stands before a request's path in the browser's URL: the console's own path, and
// what handle_path and the like have stripped.
func (c *Console) base(r *http.Request) string {
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if ok && original.URL != nil {
		if base, ok := strings.CutSuffix(original.URL.Path, r.URL.Path); ok {
			return strings.TrimSuffix(base, "/")
		}
		if base, ok := strings.CutSuffix(original.URL.Path+"/", r.URL.Path); ok {
			return strings.TrimSuffix(base, "/")
		}
	}
	return strings.TrimSuffix(c.Path, "/")
}

// console returns what answers, nil before the app's store is open.
func (c *Console) console() (*console.Handler, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handler != nil {
		return c.handler, nil
	}
	m := c.app.engine.management()
	if m == nil {
		return nil, nil
	}
	opts := console.Options{
		Keyspace: c.keyspace, Judge: c.app.judge(), Status: c.app.status, Usage: c.app.usage(m),
		Curl: func(key string) string {
			return api.Curl(c.app.keyspaces[c.keyspace].Keyspace, c.app.siteOf(c.keyspace), key)
		},
		Client: clientAddress, Secure: bySecureConnection, Base: c.base,
		Failed: func(a netip.Addr) (bool, time.Duration) { return c.failures.Fail(time.Now(), a) },
		Brand:  c.brand, Logger: c.app.log,
	}
	if c.IdentityHeader != "" {
		opts.Identity = &console.Identity{Header: c.IdentityHeader, Scopes: c.IdentityScopes}
	}
	if len(c.app.keyspaces) > 1 {
		// Several consoles may stand on one host.
		opts.Cookie = "keygate-" + c.keyspace
	}
	h, err := console.New(m, opts)
	if err != nil {
		return nil, err
	}
	c.handler = h
	return h, nil
}

// bySecureConnection says whether the client speaks HTTPS, to us or to a trusted proxy in front.
func bySecureConnection(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// consoleOf returns the URL of a keyspace's console without a trailing slash, as far as the
// configuration says it; "" where it does not.
func (a *App) consoleOf(keyspace string) string {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return ""
	}
	servers := app.(*caddyhttp.App)
	best := ""
	for _, server := range servers.Servers {
		mounted, ok := consoleIn(server.Routes, keyspace, mount{})
		if !ok {
			continue
		}
		found := mounted.console.URL
		if found == "" {
			if found = siteURL(servers, server, mounted.host); found != "" {
				found += mounted.prefix + strings.TrimSuffix(mounted.console.Path, "/")
			}
		}
		if found = strings.TrimSuffix(found, "/"); found != "" && (best == "" || found < best) {
			best = found
		}
	}
	return best
}

// mount is where a console stands.
type mount struct {
	console      *Console
	host, prefix string
}

// consoleIn looks through routes for the console of a keyspace.
func consoleIn(routes caddyhttp.RouteList, keyspace string, at mount) (mount, bool) {
	for _, route := range routes {
		here := at
		for _, set := range route.MatcherSets {
			for _, m := range set {
				if hosts, ok := m.(*caddyhttp.MatchHost); ok && len(*hosts) > 0 {
					here.host = (*hosts)[0]
				}
			}
		}
		for _, h := range route.Handlers {
			switch h := h.(type) {
			case *Console:
				if h.keyspace == keyspace {
					here.console = h
					return here, true
				}
			case *rewrite.Rewrite:
				here.prefix += h.StripPathPrefix
			case *caddyhttp.Subroute:
				if found, ok := consoleIn(h.Routes, keyspace, here); ok {
					return found, true
				}
			}
		}
	}
	return mount{}, false
}

var (
	_ caddy.Provisioner           = (*Console)(nil)
	_ caddyhttp.MiddlewareHandler = (*Console)(nil)
	_ caddyfile.Unmarshaler       = (*Console)(nil)
)
