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

// answers reports whether h answers each request that reaches it, so that none goes on to the next handler,
// and by which name a Caddyfile has it. all are the app's handlers.
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
		return name, !h.goesOn(all)
	case "keygate_proxy", "keygate_console", "error", "metrics", "file_server":
		return name, true
	}
	return "", false
}

// goesOn reports whether h has routes for a response that answer nothing: the request then goes on to the
// handlers after h, as with forward_auth.
func (h *routedHandler) goesOn(all []*routedHandler) bool {
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

// misplaced warns of keygate directives behind a handler that answers: of those that no request reaches, and of
// those behind which nothing answers while something before them does.
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
			w.message = fmt.Sprintf("keygate checks no request of this site: %s comes before it and answers each", before)
		case partly != "" && !guards:
			w.message = fmt.Sprintf("keygate protects nothing on this site: %s comes before it and answers, and nothing that answers comes after it", partly)
		default:
			continue
		}
		w.message += "; remove the global option `order keygate …`, which is not needed, or put keygate before it in the route block"
		out = append(out, w)
	}
	return out
}

// servedErrors warns of error routes of sites with keygate that serve files, or proxy to the upstream, by the path
// of the request: an error page that no rewrite names is the very response that was protected.
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
			message = "handle_errors has file_server without a rewrite that holds for each error: a request that keygate rejected gets no page there, since that would be the file of its own path; name the page before it, such as `rewrite * /error.html`"
		case *reverseproxy.Handler:
			if ProxiesAgain(h.server, p) {
				message = "handle_errors has reverse_proxy to an upstream of the site, without a rewrite that holds for each error: a request that keygate rejected is not sent there, since the upstream would answer it; name the page before it, such as `rewrite * /error`"
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

// ProxiesAgain reports whether a proxy of an error route sends requests, under the path that they have, to an
// upstream that the server's other routes protect.
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
