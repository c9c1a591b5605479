package sites

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/console"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/clients"
)

// Console mounts the web console of a keyspace on a site. Operators sign in with a management
// token, or a proxy in front authenticates them. People of a tenant come through portal links of
// the product. The console answers every request under its path.
type Console struct {
	config.ConsoleConfig

	app  App
	logs *redact.Logs
	// failures counts unknown tokens and links by client address.
	failures *clients.Failures
	keyspace string
	brand    console.Brand

	mu      sync.Mutex
	handler *console.Handler
}

// RegisterConsole registers the handler Console and its directive keygate_console with Caddy.
func RegisterConsole() {
	caddy.RegisterModule(new(Console))
	httpcaddyfile.RegisterHandlerDirective("keygate_console", parseConsole)
	// The console comes after forward_auth, which sets the user, and after encode. It comes before
	// handlers that answer every request.
	httpcaddyfile.RegisterDirectiveOrder("keygate_console", httpcaddyfile.Before, "invoke")
}

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
	a, err := config.OptionApp(h)
	if err != nil {
		return nil, err
	}
	if a == nil {
		h.Next()
		return nil, h.Err("keygate_console needs the global option keygate { … }, which defines the keyspaces")
	}
	at := *h.Dispenser
	at.Next()
	c := new(Console)
	if err := c.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if _, err := a.Resolve(c.Keyspace); err != nil {
		return nil, at.WrapErr(err)
	}
	return c, nil
}

func (c *Console) Provision(ctx caddy.Context) error {
	app, err := siteApp(ctx)
	if err != nil {
		return err
	}
	if err := c.Check(); err != nil {
		return err
	}
	c.app = app
	if c.keyspace, err = app.Compiled().Config.Resolve(c.Keyspace); err != nil {
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
	c.failures = clients.NewFailures(policy, maxFailingAddresses)
	c.logs = redact.NewLogs(ctx, redact.NewSecrets(app.Compiled().Cleaner, []apikey.Place{{Kind: apikey.InCookie, Name: "keygate"}, {Kind: apikey.InCookie, Name: "__Host-keygate"}}), nil)
	return nil
}

func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	log := redact.Begin(c.logs, r)
	defer log.End(w)
	inner, ok := c.within(r)
	if !ok {
		return log.ServeError(w, r, next.ServeHTTP(w, r))
	}
	h, err := c.console()
	if err != nil {
		return log.ServeError(w, r, err)
	}
	if h == nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "The gateway is starting; try again.", http.StatusServiceUnavailable)
		return nil
	}
	h.ServeHTTP(w, inner)
	return nil
}

// within returns a copy of the request whose path is relative to the console's path. It returns
// false for a request outside of that path.
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

// base returns the part of the browser's URL path before the console's pages: the console's own
// path and prefixes that handlers such as handle_path stripped.
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

// console returns the console's handler, or nil before the app's store is open.
func (c *Console) console() (*console.Handler, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handler != nil {
		return c.handler, nil
	}
	m := c.app.Engine().Manager()
	if m == nil {
		return nil, nil
	}
	opts := console.Options{
		Auth: c.app.Engine().Auth(), Webhooks: c.app.Engine().Webhooks(), Keyspace: c.keyspace, Verifier: c.app.Verifier(), Usage: UsageService(c.app, m),
		Status: func(ctx context.Context) inspect.Status { return Status(ctx, c.app) },
		Curl: func(key string) string {
			return api.Curl(c.app.Compiled().Keyspaces[c.keyspace].Keyspace, siteOf(c.app, c.keyspace), key)
		},
		Client: clientAddress, Secure: bySecureConnection, Base: c.base,
		Failed: func(a netip.Addr) (bool, time.Duration) { return c.failures.Fail(time.Now(), a) },
		Brand:  c.brand, Logger: c.app.Log(),
	}
	if c.IdentityHeader != "" {
		opts.Identity = &console.Identity{Header: c.IdentityHeader, Scopes: c.IdentityScopes}
	}
	if len(c.app.Compiled().Keyspaces) > 1 {
		// Consoles of several keyspaces may share a host and must not share a cookie.
		opts.Cookie = "keygate-" + c.keyspace
	}
	h, err := console.New(m, opts)
	if err != nil {
		return nil, err
	}
	c.handler = h
	return h, nil
}

// bySecureConnection reports whether the client uses HTTPS, to this server or to a trusted proxy
// in front.
func bySecureConnection(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

var (
	_ caddy.Provisioner           = (*Console)(nil)
	_ caddyhttp.MiddlewareHandler = (*Console)(nil)
	_ caddyfile.Unmarshaler       = (*Console)(nil)
)
