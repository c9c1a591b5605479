package checkup

import (
	"fmt"
	"log/slog"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/keygate-dev/keygate/caddymodule/config"
)

// answers reports whether h answers every request that reaches it, so that none goes to the next
// handler. It also returns the name of h's directive in a Caddyfile. all are the app's handlers.
func (h *routedHandler) answers(all []*routedHandler) (directive string, ok bool) {
	switch v := h.handler.(type) {
	case *caddyhttp.StaticResponse:
		switch {
		case v.Abort:
			return "abort", true
		case v.Headers.Get("Location") != "":
			return "redir", true
		}
		return "respond", true
	case *fileserver.FileServer:
		return "file_server", !v.PassThru
	}
	switch name := h.module(); name {
	case "reverse_proxy":
		return name, !h.continues(all)
	case "keygate_proxy", "keygate_console", "error", "metrics", "file_server":
		return name, true
	}
	return "", false
}

// continues reports whether h has response routes without an answer, as forward_auth has. A request
// then goes to the handlers after h.
func (h *routedHandler) continues(all []*routedHandler) bool {
	held := func(other *routedHandler) bool {
		return other.server == h.server && len(other.path) > len(h.path) && other.path[len(h.path)].kind == responseRoutes &&
			slices.EqualFunc(h.path, other.path[:len(h.path)], func(a, b routeStep) bool {
				return a.route == b.route && a.handler == b.handler && &a.routes[0] == &b.routes[0]
			})
	}
	routes, answered := make(map[*caddyhttp.Route]bool), make(map[*caddyhttp.Route]bool)
	for _, other := range all {
		if !held(other) {
			continue
		}
		list := &other.path[len(h.path)].routes[0]
		routes[list] = true
		if _, ok := other.answers(all); ok || other.module() == "copy_response" {
			answered[list] = true
		}
	}
	return len(routes) > len(answered)
}

// misplaced warns of keygate directives behind a handler that answers requests. Either no request
// reaches the directive, or handlers answer requests only before the directive and none after it.
func misplaced(app *caddyhttp.App, at *config.AdaptedLines) (out []warning) {
	all := slices.Collect(routedHandlers(app))
	for h, k := range checkingHandlers(app) {
		var before, partly string
		guards := false
		for _, other := range all {
			directive, ok := other.answers(all)
			if !ok || other.inErrorRoute() || other.inResponseRoute() {
				continue
			}
			switch {
			case h.precedes(other):
				guards = true
			case !other.precedes(h):
			case other.covers(h):
				before = directive
			default:
				partly = directive
			}
		}
		w := warning{level: slog.LevelWarn, at: at.Handler(k.HandlerConfig), attrs: []any{"site", h.site()}}
		switch {
		case before != "":
			w.message = fmt.Sprintf("keygate checks no request of this site: %s comes before it and answers every request", before)
		case partly != "" && !guards:
			w.message = fmt.Sprintf("keygate protects nothing on this site: %s comes before it and answers requests, and no handler after it answers any", partly)
		default:
			continue
		}
		w.message += "; remove the global option `order keygate …`, which is not needed, or put keygate before it in the route block"
		out = append(out, w)
	}
	return out
}

// servedErrors warns of error routes that serve the request's own path, from files or from the
// upstream, on sites with keygate. Without a rewrite, the error page would be the protected
// response itself.
func servedErrors(app *caddyhttp.App) (out []warning) {
	checked := make(map[*caddyhttp.Server]bool)
	for h := range checkingHandlers(app) {
		checked[h.server] = true
	}
	all := slices.Collect(routedHandlers(app))
	for _, h := range all {
		if !h.inErrorRoute() || !checked[h.server] {
			continue
		}
		var message string
		switch p := h.handler.(type) {
		case *fileserver.FileServer:
			message = "handle_errors has file_server without a rewrite for every error: for a request that keygate rejected, file_server would serve the protected file, so Keygate does not use it; add the page before file_server, such as `rewrite * /error.html`"
		case *reverseproxy.Handler:
			if ProxiesAgain(h.server, p) {
				message = "handle_errors has reverse_proxy to an upstream of the site without a rewrite for every error: the upstream would serve a request that keygate rejected, so Keygate does not send it there; add the page before reverse_proxy, such as `rewrite * /error`"
			}
		}
		if message == "" {
			continue
		}
		if slices.ContainsFunc(all, func(other *routedHandler) bool {
			return other.module() == "rewrite" && other.precedes(h) && other.covers(h)
		}) {
			continue
		}
		out = append(out, warning{level: slog.LevelWarn, message: message, attrs: []any{"site", h.site()}})
	}
	return out
}

// ProxiesAgain reports whether a proxy in an error route sends requests, with their path
// unchanged, to an upstream of the server's other routes.
func ProxiesAgain(server *caddyhttp.Server, p *reverseproxy.Handler) bool {
	if p.Rewrite != nil && p.Rewrite.URI != "" {
		return false
	}
	page := &routedHandler{handler: p}
	for h := range routedHandlers(&caddyhttp.App{Servers: map[string]*caddyhttp.Server{"": server}}) {
		if _, ok := h.handler.(*reverseproxy.Handler); ok && !h.inErrorRoute() && !h.inResponseRoute() && sameUpstream(h, page) {
			return true
		}
	}
	return false
}
