package checkup

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/keygate-dev/keygate/caddymodule/config"
)

// uncheckedBranches warns of a keygate directive in a route with a path matcher, if another route
// sends the remaining requests to the same upstream without a check. Caddy and the upstream may
// read a path differently, so a client could reach the protected path through the other route.
func uncheckedBranches(app *caddyhttp.App, at *config.AdaptedLines) (out []warning) {
	all := slices.Collect(routedHandlers(app))
	for h, k := range checkingHandlers(app) {
		if slices.ContainsFunc(all, func(other *routedHandler) bool {
			return other.module() == "keygate_paths" && other.precedes(h)
		}) {
			continue
		}
		for _, u := range all {
			if h.excludes(u) && shareUpstream(h, u, all) && !checkedElsewhere(u, app) {
				out = append(out, warning{level: slog.LevelWarn, at: at.Handler(k.HandlerConfig), attrs: []any{"site", h.site()},
					message: "this keygate is in a route with a matcher of the path, and Caddy sends the requests that do not match to the same upstream without a check: " +
						"add the directive `keygate_paths` to the site, or put one keygate before the handle blocks and name the paths that need a key, such as `protect /api/*`"})
				break
			}
		}
	}
	return out
}

// excludes reports whether u is a reverse_proxy in another route than h's, and a path matcher
// selects h's route.
func (h *routedHandler) excludes(u *routedHandler) bool {
	if _, ok := u.handler.(*reverseproxy.Handler); !ok || u.inErrorRoute() || u.inResponseRoute() {
		return false
	}
	i := h.fork(u)
	if i < 0 || h.path[i].route == u.path[i].route {
		return false
	}
	return slices.ContainsFunc(h.path[i].matchers(), func(set caddyhttp.MatcherSet) bool {
		return slices.ContainsFunc(set, matchesPath)
	})
}

// checkedElsewhere reports whether a keygate handler checks every request that reaches u.
func checkedElsewhere(u *routedHandler, app *caddyhttp.App) bool {
	for h, k := range checkingHandlers(app) {
		if len(k.Only)+len(k.Except) == 0 && h.precedes(u) && h.covers(u) {
			return true
		}
	}
	return false
}

// shareUpstream reports whether u and a reverse_proxy after h may send requests to the same
// address.
func shareUpstream(h, u *routedHandler, all []*routedHandler) bool {
	for _, behind := range all {
		if _, ok := behind.handler.(*reverseproxy.Handler); !ok || !h.precedes(behind) {
			continue
		}
		if sameUpstream(behind, u) {
			return true
		}
	}
	return false
}

// sameUpstream reports whether two proxies may send a request to the same address. Addresses that
// are chosen per request may be any.
func sameUpstream(a, b *routedHandler) bool {
	to, other := dials(a), dials(b)
	return to == nil || other == nil || slices.ContainsFunc(to, func(address string) bool { return slices.Contains(other, address) })
}

// dials returns the addresses of a proxy's upstreams, or nil if they are chosen per request.
func dials(h *routedHandler) []string {
	p := h.handler.(*reverseproxy.Handler)
	if p.DynamicUpstreams != nil {
		return nil
	}
	var out []string
	for _, u := range p.Upstreams {
		if strings.Contains(u.Dial, "{") {
			return nil
		}
		out = append(out, u.Dial)
	}
	return out
}

// matchesPath reports whether a matcher looks at a request's path.
func matchesPath(m any) bool {
	if not, ok := m.(*caddyhttp.MatchNot); ok {
		return slices.ContainsFunc(not.MatcherSets, func(set caddyhttp.MatcherSet) bool {
			return slices.ContainsFunc(set, matchesPath)
		})
	}
	module, ok := m.(caddy.Module)
	if !ok {
		return false
	}
	name := strings.TrimPrefix(string(module.CaddyModule().ID), "http.matchers.")
	if e, ok := m.(*caddyhttp.MatchExpression); ok {
		return config.ReadsPath(name, []byte(e.Expr))
	}
	return config.ReadsPath(name, nil)
}
