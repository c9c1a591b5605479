package checkup

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/keygate-dev/keygate/caddymodule/config"
)

// chosenByClients warns of keygate directives with a matcher that a client can evade, if no other
// directive checks the requests that the matcher excludes.
func chosenByClients(app *caddyhttp.App, at *config.AdaptedLines) (out []warning) {
	all := slices.Collect(routedHandlers(app))
	for h, k := range checkingHandlers(app) {
		if !slices.ContainsFunc(h.path[len(h.path)-1].matchers(), func(set caddyhttp.MatcherSet) bool {
			return slices.ContainsFunc(set, clientsChoose)
		}) {
			continue
		}
		if slices.ContainsFunc(all, func(other *routedHandler) bool {
			l := checkingOf(other)
			return l != nil && l.HandlerConfig != k.HandlerConfig && h.precedes(other) && other.checksAfter(h)
		}) {
			continue
		}
		out = append(out, warning{level: slog.LevelWarn, at: at.Handler(k.HandlerConfig), attrs: []any{"site", h.site()},
			message: "a client chooses whether this keygate checks its request, because the directive's matcher looks at headers, the query or variables: " +
				"remove the matcher and name the paths that need a key inside the block, such as `protect /api/*`"})
	}
	return out
}

// checksAfter reports whether h is in the same list of routes as before and has no matcher.
func (h *routedHandler) checksAfter(before *routedHandler) bool {
	return len(h.path) == len(before.path) && len(h.path[len(h.path)-1].matchers()) == 0
}

// clientsChoose reports whether a matcher looks at parts of a request that clients can change
// without requesting another resource.
func clientsChoose(m any) bool {
	switch m := m.(type) {
	case *caddyhttp.MatchNot:
		return slices.ContainsFunc(m.MatcherSets, func(set caddyhttp.MatcherSet) bool { return slices.ContainsFunc(set, clientsChoose) })
	case caddyhttp.MatchNot:
		return clientsChoose(&m)
	case caddyhttp.MatchHeader, *caddyhttp.MatchHeader, caddyhttp.MatchHeaderRE, *caddyhttp.MatchHeaderRE,
		caddyhttp.MatchQuery, *caddyhttp.MatchQuery, caddyhttp.VarsMatcher, *caddyhttp.VarsMatcher, caddyhttp.MatchVarsRE, *caddyhttp.MatchVarsRE:
		return true
	case *caddyhttp.MatchExpression:
		return strings.Contains(m.Expr, "header") || strings.Contains(m.Expr, "query") || strings.Contains(m.Expr, "vars")
	}
	return false
}
