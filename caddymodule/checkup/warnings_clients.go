package checkup

import (
	"log/slog"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/keygate-dev/keygate/caddymodule/config"
)

// chosenByClients warns of keygate directives with a matcher of what clients send as they like, where no
// other directive checks the requests that the matcher leaves out.
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
			message: "a client chooses whether this keygate checks a request, because its matcher looks at headers, the query or variables: " +
				"remove the matcher and name the paths that need a key inside the block, such as `protect /api/*`"})
	}
	return out
}

// checksAfter reports whether h stands in the same list of routes as before, without a matcher.
func (h *routedHandler) checksAfter(before *routedHandler) bool {
	return len(h.path) == len(before.path) && len(h.path[len(h.path)-1].matchers()) == 0
}

// clientsChoose reports whether a matcher looks at what a client can send as it likes without asking for anything else.
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
