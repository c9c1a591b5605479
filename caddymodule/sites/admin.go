package sites

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
)

// AdminAPI mounts the management API on Caddy's admin endpoint, under /keygate/. Every user who
// may configure the server may also manage its keys. The API is for local use: if the endpoint
// listens on a network address, requests get 403 unless their keyspace has admin_api open.
type AdminAPI struct {
	mu sync.Mutex
	// app is the app that handler was built for.
	app     App
	handler http.Handler
}

// RegisterAdmin registers the module AdminAPI with Caddy.
func RegisterAdmin() { caddy.RegisterModule(new(AdminAPI)) }

func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.keygate", New: func() caddy.Module { return new(AdminAPI) }}
}

// starting identifies the configuration that Caddy starts at present, by the configuration's metrics registry.
var starting atomic.Pointer[prometheus.Registry]

// Starts reports whether Caddy starts the configuration of ctx, rather than only validating it. The answer is false for a
// configuration without an admin endpoint, because Caddy provisions admin routers before apps, and only to start them.
func Starts(ctx caddy.Context) bool { return starting.Load() == ctx.GetMetricsRegistry() }

// Provision records that Caddy starts the configuration of ctx.
func (*AdminAPI) Provision(ctx caddy.Context) error {
	starting.Store(ctx.GetMetricsRegistry())
	return nil
}

// Routes returns the route of all paths under /keygate/. Caddy builds admin routers before it
// provisions apps, so each request looks up the app.
func (a *AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminapi.Prefix + "/", Handler: caddy.AdminHandlerFunc(a.serve)}}
}

// serve answers one request. Its errors are API problems too, so it always returns nil.
func (a *AdminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	app := runningApp()
	if app == nil {
		api.WriteProblem(w, http.StatusServiceUnavailable, adminapi.CodeNotRunning,
			"No keygate app is running: start Caddy with a configuration that has the global option keygate, or wait until Caddy has started.")
		return nil
	}
	h := a.handlerOf(app)
	if h == nil {
		api.WriteProblem(w, http.StatusServiceUnavailable, management.CodeStoreUnavailable, "The keygate app has not opened its store yet; try again.")
		return nil
	}
	if r.URL.Path == adminapi.Prefix+adminapi.BackupPath {
		serveBackup(app, w, r)
		return nil
	}
	if !isLocal(r) && !adminOpen(app, r) {
		api.WriteProblem(w, http.StatusForbidden, "not_local",
			"This admin endpoint listens neither on a loopback address nor on a Unix socket. Let it listen there, or state admin_api open in the keyspace, or use keygate_api, which needs a token.")
		return nil
	}
	http.StripPrefix(adminapi.Prefix, h).ServeHTTP(w, r)
	return nil
}

// handlerOf returns the management API of an app, or nil before the app's store is open.
func (a *AdminAPI) handlerOf(app App) http.Handler {
	m := app.Engine().Manager()
	if m == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.app != app {
		a.app, a.handler = app, managementAPI(app, m, adminapi.Access)
	}
	return a.handler
}

// managementAPI returns the management API of the app. authenticate returns the access of a
// request, or an error that rejects it.
func managementAPI(a App, m *management.Manager, authenticate func(*http.Request) (api.Access, error)) http.Handler {
	return api.New(m, api.Options{
		ShowCauses:   true,
		Auth:         a.Engine().Auth(),
		Webhooks:     a.Engine().Webhooks(),
		Leaks:        a.Engine().Leaks(),
		Verifier:     a.Verifier(),
		Status:       func(ctx context.Context) inspect.Status { return Status(ctx, a) },
		Usage:        UsageService(a, m),
		Authenticate: authenticate,
		Site:         func(keyspace string) string { return siteOf(a, keyspace) },
		Console:      func(keyspace string) string { return consoleOf(a, keyspace) },
		Address:      clientAddress,
		GitHubKeys:   a.GitHubKeys,
		Logger:       a.Log(),
	})
}

// isLocal reports whether the admin endpoint that received the request listens on a loopback
// address or a Unix socket. Caddy keeps the listener's address in the server's Addr. The
// connection's local address must be local too, since a host name such as localhost may resolve to
// any address.
func isLocal(r *http.Request) bool {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	end, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if server == nil || end == nil {
		return false
	}
	listens, err := caddy.ParseNetworkAddress(server.Addr)
	if err != nil {
		return false
	}
	if listens.IsUnixNetwork() {
		return true
	}
	if end.Network() == "unix" {
		return listens.IsFdNetwork()
	}
	to, err := netip.ParseAddrPort(end.String())
	if err != nil || !to.Addr().Unmap().IsLoopback() {
		return false
	}
	if strings.EqualFold(listens.Host, "localhost") {
		return true
	}
	host, err := netip.ParseAddr(listens.Host)
	return err == nil && host.Unmap().IsLoopback()
}

// adminOpen reports whether the request's keyspace has admin_api open.
func adminOpen(a App, r *http.Request) bool {
	name, err := a.Compiled().Config.Resolve(r.URL.Query().Get("keyspace"))
	return err == nil && a.Compiled().Keyspaces[name].AdminOpen
}

var (
	_ caddy.AdminRouter = (*AdminAPI)(nil)
	_ caddy.Provisioner = (*AdminAPI)(nil)
	_ caddy.Module      = (*AdminAPI)(nil)
)
