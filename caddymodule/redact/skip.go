package redact

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A request variable makes Caddy skip its access log line. This package sets the variable before the request goes to the
// next handler. After the request has ended, a proxy that is still dialing may read the variables on another goroutine, so
// setting one then would be a data race. There is one exception: if a route of the server has log_skip, which sets the same
// variable, this package sets the variable at the end of the request, because it could not be distinguished otherwise who
// set it.

// skipsLog reports whether a route of the server has log_skip.
func (l *Logs) skipsLog(server *caddyhttp.Server) bool {
	if v, ok := l.skips.Load(server); ok {
		return v.(bool)
	}
	found := routesSkip(server.Routes)
	for _, route := range server.NamedRoutes {
		found = found || routesSkip(caddyhttp.RouteList{*route})
	}
	l.skips.Store(server, found)
	return found
}

func routesSkip(routes caddyhttp.RouteList) bool {
	for _, route := range routes {
		for _, h := range route.Handlers {
			if handlerSkips(h) {
				return true
			}
		}
	}
	return false
}

func handlerSkips(h caddyhttp.MiddlewareHandler) bool {
	switch h := h.(type) {
	case *caddyhttp.VarsMiddleware:
		_, ok := (*h)[caddyhttp.LogSkipVar]
		return ok
	case caddyhttp.VarsMiddleware:
		_, ok := h[caddyhttp.LogSkipVar]
		return ok
	case *caddyhttp.Subroute:
		return routesSkip(h.Routes)
	case *reverseproxy.Handler:
		return responsesSkip(h.HandleResponse)
	case *intercept.Intercept:
		return responsesSkip(h.HandleResponse)
	}
	return false
}

func responsesSkip(handlers []caddyhttp.ResponseHandler) bool {
	for _, h := range handlers {
		if routesSkip(h.Routes) {
			return true
		}
	}
	return false
}
