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

// routedHandler is one handler of the HTTP app, with the path of routes that leads to it.
type routedHandler struct {
	handler    caddyhttp.MiddlewareHandler
	server     *caddyhttp.Server
	serverName string
	// path has one step per list of routes. The first step is in the server's list, the last in
	// the handler's own.
	path []routeStep
}

// routeStep is a position in one list of routes.
type routeStep struct {
	kind   routeKind
	routes caddyhttp.RouteList
	// route is the index in routes, handler the index in that route's Handlers.
	route, handler int
}

// routeKind is the reason why a request enters a list of routes.
type routeKind uint8

const (
	// requestRoutes handle every request: those of a server, a subroute, a handle block or a named
	// route.
	requestRoutes routeKind = iota
	// errorRoutes handle a request after an error: those of handle_errors.
	errorRoutes
	// responseRoutes handle responses that a matcher selects: those of handle_response in
	// reverse_proxy, forward_auth and intercept.
	responseRoutes
)

// routedHandlers iterates over the handlers of all servers of a provisioned HTTP app. Servers come
// in order of their names, handlers in order of the configuration, and a handler before the
// handlers that it contains. The walk enters subroutes (handle, route, handle_path,
// handle_errors), the response routes of reverse_proxy, forward_auth and intercept, invoked named
// routes, and every other handler with routes in its exported fields. app may be nil.
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

// configuredHTTP returns the configuration's HTTP app, or nil if there is none. The app must be
// provisioned, so the earliest place for a call is an app's Start.
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
	// invoked are the named routes that the walk is currently inside. Named routes may invoke each
	// other in a cycle.
	invoked []string
}

// list visits the handlers in one list of routes. It returns false if the walk must stop.
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

// inside visits the routes that a handler contains. It returns false if the walk must stop.
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

// inErrorRoute reports whether requests reach the handler only after an error.
func (h *routedHandler) inErrorRoute() bool { return h.under(errorRoutes) }

// inResponseRoute reports whether requests reach the handler only for a response.
func (h *routedHandler) inResponseRoute() bool { return h.under(responseRoutes) }

func (h *routedHandler) under(kind routeKind) bool {
	return slices.ContainsFunc(h.path, func(s routeStep) bool { return s.kind == kind })
}

// matchers returns the matcher sets of the step's route. A request enters the route if one set
// matches, or if there are none.
func (s routeStep) matchers() caddyhttp.MatcherSets { return s.routes[s.route].MatcherSets }

// fork returns the index of the first step at which the paths of h and other differ. It returns -1
// if they share no list of routes, or if one handler contains the other.
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

// precedes reports whether a request that matches the routes of both reaches h first and may then
// reach other. Routes of one group exclude each other, and a terminal route ends the list, so
// their handlers do not precede others.
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

// covers reports whether every request that reaches other also matches the routes to h. That is so if two conditions hold:
// at the fork, the route of h has no matchers or the same matchers as the route of other; and below the fork, the routes of
// h have no matchers.
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

// site returns the name of the handler's site for messages: its hosts, else the addresses on which
// its server listens.
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
