package checkup

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// methods are those of IANA's registry that requests use, and PURGE, which caches know.
var methods = []string{
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LABEL", "LINK", "LOCK",
	"MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH", "PATCH", "POST",
	"PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK",
	"UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// withoutEffect warns of lines that change nothing: rules for methods that no client sends, and what holds
// without Redis where limits are not counted there.
func (a *Checkup) withoutEffect(app *caddyhttp.App, at *config.AdaptedLines) (out []warning) {
	for h, k := range checkingHandlers(app) {
		patterns := slices.Concat(k.Public, k.Optional, k.Protect)
		for _, r := range k.Scopes {
			patterns = append(patterns, r.Pattern)
		}
		for _, r := range k.Costs {
			patterns = append(patterns, r.Pattern)
		}
		for _, method := range unknownMethods(patterns) {
			out = append(out, warning{level: slog.LevelWarn, at: at.Handler(k.HandlerConfig), attrs: []any{"site", h.site()},
				message: fmt.Sprintf("a rule names the method %s, which is not registered: the rule holds for no usual request; correct the method if it is misspelled", method)})
		}
	}
	if a.Limits != nil && a.Limits.Type == config.LimitsRedis {
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(a.Configured())) {
		for i, plan := range a.Configured()[name].Plans {
			if plan.OnRedisDown != "" {
				out = append(out, warning{level: slog.LevelWarn, at: at.Field(fmt.Sprintf("keyspaces.%s.plans[%d]", name, i)), attrs: []any{"keyspace", name, "plan", plan.Name},
					message: "on_redis_down has no effect: limits are counted in this process; state `limits redis {env.REDIS_URL}`, or remove on_redis_down"})
			}
		}
	}
	return out
}

// unknownMethods returns the methods of patterns that are not registered, each once.
func unknownMethods(patterns []rules.Pattern) (out []string) {
	for _, p := range patterns {
		for _, method := range p.Methods {
			if !slices.Contains(methods, method) && !slices.Contains(out, method) {
				out = append(out, method)
			}
		}
	}
	return out
}
