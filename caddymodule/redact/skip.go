package redact

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A variable of the request keeps Caddy from writing its access line. It is set before the request goes on: a proxy that
// is still dialling reads the same variables on another goroutine after the request has ended, which must not race
// with a write. Where a route of the server may set the variable itself (log_skip), it is set at the end:
// the two could not be distinguished otherwise.

// skipsLog reports whether a route of the server has a log_skip.
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
