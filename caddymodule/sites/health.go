package sites

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// Health answers 200 if the gateway can check keys. It answers 503 while the gateway is starting
// or shutting down, or if its data is too old. Load balancers and orchestrators query it to decide
// where to send requests.
type Health struct {
	// Keyspace is the keyspace whose keys the gateway must be able to check. The choice matters if
	// keyspaces differ in max_staleness. Default: any one keyspace is enough, so the gateway stays
	// in service as long as possible while the store is unreachable.
	Keyspace string `json:"keyspace,omitempty"`

	ready func() bool
}

// RegisterHealth registers the handler Health and its directive keygate_health with Caddy.
func RegisterHealth() {
	caddy.RegisterModule(Health{})
	httpcaddyfile.RegisterHandlerDirective("keygate_health", parseHealth)
	httpcaddyfile.RegisterDirectiveOrder("keygate_health", httpcaddyfile.Before, "basic_auth")
}

func (Health) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate_health", New: func() caddy.Module { return new(Health) }}
}

// parseHealth reads the directive. The handler answers every request that reaches it, like Caddy's
// own metrics, so the directive needs a path as matcher:
//
//	keygate_health [<matcher>] [<keyspace>]
func parseHealth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // This call skips the name of the directive.
	out := new(Health)
	if h.NextArg() {
		out.Keyspace = h.Val()
	}
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	if h.NextBlock(0) {
		return nil, h.Errf("keygate_health has no options, but '%s' is stated", h.Val())
	}
	app, err := config.OptionApp(h)
	if err != nil {
		return nil, err
	}
	if app == nil {
		return nil, h.Err("keygate_health needs the global option keygate { … }, which defines the keyspaces")
	}
	if out.Keyspace != "" {
		if _, err := app.Resolve(out.Keyspace); err != nil {
			return nil, h.WrapErr(err)
		}
	}
	return out, nil
}

func (h *Health) Provision(ctx caddy.Context) error {
	app, err := siteApp(ctx)
	if err != nil {
		return err
	}
	if h.Keyspace != "" {
		if _, err := app.Compiled().Config.Resolve(h.Keyspace); err != nil {
			return err
		}
	}
	h.ready = func() bool { return app.ReadyFor(h.Keyspace) }
	return nil
}

// ServeHTTP answers with the gateway's state. It ignores the request.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	status, body := http.StatusOK, "ready\n"
	if !h.ready() || shuttingDown(r) {
		status, body = http.StatusServiceUnavailable, "not ready\n"
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, body)
	}
	return nil
}

// shuttingDown reports whether the server is in its shutdown_delay, in which it still serves
// requests but load balancers should send no new ones.
func shuttingDown(r *http.Request) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !ok || server == nil {
		return false
	}
	v, _ := repl.Get("http.shutting_down")
	down, _ := v.(bool)
	return down
}

var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
)
