package checkup

import (
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// routedHandler is one handler of the HTTP app, with the path of routes that a request takes to it.
type routedHandler struct {
	handler    caddyhttp.MiddlewareHandler
	server     *caddyhttp.Server
	serverName string
	// Path has one step per list of routes, the server's own list first, the handler's last.
	path []routeStep
}

// routeStep is a place in one list of routes.
type routeStep struct {
	kind   routeKind
	routes caddyhttp.RouteList
	// route is the index in routes; handler the one in that route's Handlers.
	route, handler int
}

// routeKind is what makes a request enter a list of routes.
type routeKind uint8

const (
	// requestRoutes handle each request: those of a server, a subroute, a handle block, a named route.
	requestRoutes routeKind = iota
	// errorRoutes run after an error: those of handle_errors.
	errorRoutes
	// responseRoutes run for responses that a matcher selects: those of handle_response in reverse_proxy,
	// forward_auth and intercept.
	responseRoutes
)

// routedHandlers iterates over the handlers of all servers of a provisioned HTTP app: servers by name,
// and in each the handlers in the order of the configuration, those that hold others before those they
// hold. It finds the routes in subroutes (handle, route, handle_path, handle_errors), in the responses of
// reverse_proxy, forward_auth and intercept, in named routes that are invoked, and in every other handler
// that keeps routes in its exported fields. app may be nil.
//
//	for h := range routedHandlers(configuredHTTP(ctx)) {
//		if header, ok := h.handler.(*headers.Handler); ok && !h.inErrorRoute() { … }
//	}
func routedHandlers(app *caddyhttp.App) iter.Seq[*routedHandler] {
	return func(yield func(*routedHandler) bool) {
		if app == nil {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
			w := &routeWalk{server: app.Servers[name], name: name, yield: yield}
			if w.server == nil {
				continue
			}
			if !w.list(requestRoutes, w.server.Routes) {
				return
			}
			if w.server.Errors != nil && !w.list(errorRoutes, w.server.Errors.Routes) {
				return
			}
		}
	}
}

// configuredHTTP returns the configuration's HTTP app, nil where there is none. It must not be called before
// that app is provisioned: call it in Start.
func configuredHTTP(ctx caddy.Context) *caddyhttp.App {
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return nil
	}
	h, _ := app.(*caddyhttp.App)
	return h
}

// routeWalk is a walk over one server's routes.
type routeWalk struct {
	server *caddyhttp.Server
	name   string
	path   []routeStep
	yield  func(*routedHandler) bool
	// invoked are the named routes that the walk is inside of: they may invoke one another.
	invoked []string
}

// list visits one list of routes, and reports whether the walk goes on.
func (w *routeWalk) list(kind routeKind, routes caddyhttp.RouteList) bool {
	w.path = append(w.path, routeStep{kind: kind, routes: routes})
	defer func() { w.path = w.path[:len(w.path)-1] }()
	at := len(w.path) - 1
	for i := range routes {
		for j, h := range routes[i].Handlers {
			w.path[at].route, w.path[at].handler = i, j
			if !w.yield(&routedHandler{handler: h, server: w.server, serverName: w.name, path: slices.Clone(w.path)}) || !w.inside(h) {
				return false
			}
		}
	}
	return true
}

// inside visits the routes that a handler holds, and reports whether the walk goes on.
func (w *routeWalk) inside(h caddyhttp.MiddlewareHandler) bool {
	if invoke, ok := h.(*caddyhttp.Invoke); ok {
		route := w.server.NamedRoutes[invoke.Name]
		if route == nil || slices.Contains(w.invoked, invoke.Name) {
			return true
		}
		w.invoked = append(w.invoked, invoke.Name)
		defer func() { w.invoked = w.invoked[:len(w.invoked)-1] }()
		return w.list(requestRoutes, caddyhttp.RouteList{*route})
	}
	v := reflect.Indirect(reflect.ValueOf(h))
	if v.Kind() != reflect.Struct {
		return true
	}
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		switch held := v.Field(i).Interface().(type) {
		case caddyhttp.RouteList:
			if !w.list(requestRoutes, held) {
				return false
			}
		case *caddyhttp.HTTPErrorConfig:
			if held != nil && !w.list(errorRoutes, held.Routes) {
				return false
			}
		case []caddyhttp.ResponseHandler:
			for _, r := range held {
				if !w.list(responseRoutes, r.Routes) {
					return false
				}
			}
		}
	}
	return true
}

// module returns the handler's module ID without its namespace, such as "reverse_proxy".
func (h *routedHandler) module() string {
	return strings.TrimPrefix(caddy.GetModuleID(h.handler), "http.handlers.")
}

// inErrorRoute reports whether the handler is reached only after an error.
func (h *routedHandler) inErrorRoute() bool { return h.under(errorRoutes) }

// inResponseRoute reports whether the handler is reached only for a response.
func (h *routedHandler) inResponseRoute() bool { return h.under(responseRoutes) }

func (h *routedHandler) under(kind routeKind) bool {
	return slices.ContainsFunc(h.path, func(s routeStep) bool { return s.kind == kind })
}

// matchers returns the matcher sets of a step's route: one of them must match for a request to
// enter the route. None match every request.
func (s routeStep) matchers() caddyhttp.MatcherSets { return s.routes[s.route].MatcherSets }

// fork returns the index of the first step at which the paths of h and other part. It is -1 where they
// never meet in one list, or one holds the other.
func (h *routedHandler) fork(other *routedHandler) int {
	if h.server != other.server {
		return -1
	}
	for i := range min(len(h.path), len(other.path)) {
		a, b := h.path[i], other.path[i]
		if a.kind != b.kind || len(a.routes) != len(b.routes) || len(a.routes) > 0 && &a.routes[0] != &b.routes[0] {
			return -1
		}
		if a.route != b.route || a.handler != b.handler {
			return i
		}
	}
	return -1
}

// precedes reports whether h comes before other in the same flow: a request that matches the routes of
// both meets h first and may go on to other. Routes of one group exclude each other, and nothing comes after
// a terminal route, so none of these precedes another.
func (h *routedHandler) precedes(other *routedHandler) bool {
	i := h.fork(other)
	if i < 0 {
		return false
	}
	a, b := h.path[i], other.path[i]
	if a.route == b.route {
		return a.handler < b.handler
	}
	route := &a.routes[a.route]
	return a.route < b.route && !route.Terminal && (route.Group == "" || route.Group != b.routes[b.route].Group)
}

// covers reports whether every request that reaches other has matched the routes that lead to h: those
// after the fork have no matchers, or the same ones at the fork.
func (h *routedHandler) covers(other *routedHandler) bool {
	i := h.fork(other)
	if i < 0 {
		return false
	}
	if a, b := h.path[i], other.path[i]; a.route != b.route && len(a.matchers()) > 0 && !reflect.DeepEqual(a.matchers(), b.matchers()) {
		return false
	}
	return !slices.ContainsFunc(h.path[i+1:], func(s routeStep) bool { return s.kind != requestRoutes || len(s.matchers()) > 0 })
}

// site names the site that the handler belongs to, for messages: its hosts, else the addresses that
// its server listens on.
func (h *routedHandler) site() string {
	for _, s := range h.path {
		for _, set := range s.matchers() {
			for _, m := range set {
				if hosts, ok := m.(*caddyhttp.MatchHost); ok {
					return strings.Join(*hosts, ", ")
				}
				if hosts, ok := m.(caddyhttp.MatchHost); ok {
					return strings.Join(hosts, ", ")
				}
			}
		}
	}
	return strings.Join(h.server.Listen, ", ")
}
