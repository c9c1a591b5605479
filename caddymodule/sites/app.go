// Package sites mounts the management API, the web console, the health check and the admin endpoint in Caddy.
package sites

import (
	"log/slog"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// App is the keygate app, as the API, the console, the health checks and the admin endpoint use it.
type App interface {
	Context() caddy.Context
	Log() *slog.Logger
	// Compiled returns the configuration.
	Compiled() *config.Compiled
	Engine() *engine.Engine
	// Ready reports whether keys of at least one keyspace can be checked.
	Ready() bool
	// ReadyFor reports whether keys of a keyspace can be checked; of any where it is "".
	ReadyFor(keyspace string) bool
	// Verifier answers verify and explain.
	Verifier() management.RequestChecker
	// GitHubKeys returns the keys that sign GitHub's reports of leaks; nil where reports are not accepted.
	GitHubKeys() *leak.Keys
	// ConfigHash tells configurations apart.
	ConfigHash() string
}

// siteApp returns the keygate app of the configuration of ctx.
func siteApp(ctx caddy.Context) (App, error) { return config.FindApp[App](ctx) }

// runningApp returns the app of the running configuration; nil where it has none.
func runningApp() App {
	app, err := caddy.ActiveContext().AppIfConfigured(config.AppName)
	if err != nil {
		return nil
	}
	a, _ := app.(App)
	return a
}

// UsageService returns the service that answers what was used. The engine has been started.
func UsageService(a App, m *management.Manager) *usage.Service {
	t := a.Engine().Usage()
	return &usage.Service{Manager: m, Store: a.Engine().Store(), CompleteUntil: t.CompleteUntil, Flush: t.Flush, Log: a.Compiled().RequestLog}
}

// clientAddress returns the address that a site takes a request to come from; the zero Addr on the admin
// endpoint, where Caddy sets none.
func clientAddress(r *http.Request) netip.Addr {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return gateway.Addr(ip)
}
