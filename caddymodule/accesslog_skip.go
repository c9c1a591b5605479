package caddymodule

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Caddy's access line is kept back by a variable of the request, which is set before
// the request goes on: a proxy that is still dialling reads the same variables, from
// another goroutine, after the request was given up, and must not meet a write. Only
// where a route of the server may itself leave the line out is it set at the end, since what is
// set already could not be told from what that route sets.

// skipsLog says whether some route of the server has a log_skip.
func (l *requestLogs) skipsLog(server *caddyhttp.Server) bool {
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
