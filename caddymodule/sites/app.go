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
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// App is the keygate app as the handlers of this package use it.
type App interface {
	Context() caddy.Context
	Log() *slog.Logger
	// Compiled returns the app's configuration.
	Compiled() *config.Compiled
	Engine() *engine.Engine
	// Ready reports whether the gateway can check the keys of at least one keyspace.
	Ready() bool
	// ReadyFor reports whether the gateway can check the keys of a keyspace; "" means any
	// keyspace.
	ReadyFor(keyspace string) bool
	// Verifier returns the implementation of the API calls verify and explain.
	Verifier() inspect.Checker
	// GitHubKeys returns the public keys that verify GitHub's reports of leaks, or nil if reports
	// are not accepted.
	GitHubKeys() *leak.Keys
	// ConfigHash returns a hash that differs between configurations.
	ConfigHash() string
}

// siteApp returns the keygate app of the configuration of ctx.
func siteApp(ctx caddy.Context) (App, error) { return config.FindApp[App](ctx) }

// runningApp returns the app of the running configuration, or nil if the configuration has none.
func runningApp() App {
	app, err := caddy.ActiveContext().AppIfConfigured(config.AppName)
	if err != nil {
		return nil
	}
	a, _ := app.(App)
	return a
}

// UsageService returns the service that answers queries about usage. The engine must be started.
func UsageService(a App, m *management.Manager) *usage.Service {
	t := a.Engine().Usage()
	return &usage.Service{Manager: m, Store: a.Engine().Store(), CompleteUntil: t.CompleteUntil, Flush: t.Flush, Log: a.Compiled().RequestLog}
}

// clientAddress returns the client's address as Caddy determined it. It is the zero Addr on the
// admin endpoint, where Caddy determines none.
func clientAddress(r *http.Request) netip.Addr {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return gateway.Addr(ip)
}
