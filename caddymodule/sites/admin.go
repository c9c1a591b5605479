package sites

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
)

// AdminAPI mounts the management API on Caddy's admin endpoint, under /keygate/. A user who may
// configure the server may also manage its keys. It is for this machine: if the endpoint listens neither
// on loopback nor on a Unix socket, it answers 403 for every keyspace without admin_api open.
type AdminAPI struct {
	mu sync.Mutex
	// app is the one that handler was made for.
	app     App
	handler http.Handler
}

func RegisterAdmin() { caddy.RegisterModule(new(AdminAPI)) }

// CaddyModule returns the Caddy module information.
func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.keygate", New: func() caddy.Module { return new(AdminAPI) }}
}

// Routes returns the one route under which everything stands. Caddy makes admin
// routers before it provisions apps, so the app is looked for when it is needed.
func (a *AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminapi.Prefix + "/", Handler: caddy.AdminHandlerFunc(a.serve)}}
}

// serve answers one request. It always answers itself, in the words of the API.
func (a *AdminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	app := runningApp()
	if app == nil {
		api.WriteProblem(w, http.StatusServiceUnavailable, adminapi.CodeNotRunning,
			"No keygate app is running: start Caddy with a configuration that has the keygate global option, or wait until it has started.")
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
			"This admin endpoint listens neither on loopback nor on a Unix socket. Let it listen there, or state admin_api open in the keyspace, or use keygate_api, which asks for a token.")
		return nil
	}
	http.StripPrefix(adminapi.Prefix, h).ServeHTTP(w, r)
	return nil
}

// handlerOf returns the management API of an app, nil before the app's store is open.
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

// managementAPI returns the management API of the app, open to whom authenticate lets in.
func managementAPI(a App, m *management.Manager, authenticate func(*http.Request) (api.Access, error)) http.Handler {
	return api.New(m, api.Options{
		Auth:         a.Engine().Auth(),
		Webhooks:     a.Engine().Webhooks(),
		Verifier:     a.Verifier(),
		Status:       func(ctx context.Context) management.Status { return Status(ctx, a) },
		Usage:        UsageService(a, m),
		Authenticate: authenticate,
		Site:         func(keyspace string) string { return siteOf(a, keyspace) },
		Console:      func(keyspace string) string { return consoleOf(a, keyspace) },
		Address:      clientAddress,
		GitHubKeys:   a.GitHubKeys,
		Logger:       a.Log(),
	})
}

// isLocal reports whether the admin endpoint that got the request listens on loopback or on
// a Unix socket. Caddy keeps the listener's address in the server's Addr. The connection's own end must be local too, since a host
// name such as localhost may be made to mean anything.
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

// adminOpen reports whether the keyspace that the request is about opens its management
// on any admin endpoint.
func adminOpen(a App, r *http.Request) bool {
	name, err := a.Compiled().Config.Resolve(r.URL.Query().Get("keyspace"))
	return err == nil && a.Compiled().Keyspaces[name].AdminOpen
}

var (
	_ caddy.AdminRouter = (*AdminAPI)(nil)
	_ caddy.Module      = (*AdminAPI)(nil)
)
