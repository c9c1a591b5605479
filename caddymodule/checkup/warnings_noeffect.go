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

// methods are the request methods in IANA's registry, and PURGE, which caches use.
var methods = []string{
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LABEL", "LINK", "LOCK",
	"MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH", "PATCH", "POST",
	"PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK",
	"UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// withoutEffect warns of lines without an effect: rules for methods that no client sends, and
// on_redis_down if limits are not counted in Redis.
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
				message: fmt.Sprintf("a rule names the method %s, which is not a registered HTTP method, so usual requests never match the rule: check the spelling", method)})
		}
	}
	if a.Limits != nil && a.Limits.Type == config.LimitsRedis {
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(a.Configured())) {
		for i, plan := range a.Configured()[name].Plans {
			if plan.OnRedisDown != "" {
				out = append(out, warning{level: slog.LevelWarn, at: at.Field(fmt.Sprintf("keyspaces.%s.plans[%d]", name, i)), attrs: []any{"keyspace", name, "plan", plan.Name},
					message: "on_redis_down has no effect, because limits are counted in this process: add `limits redis {env.REDIS_URL}`, or remove on_redis_down"})
			}
		}
	}
	return out
}

// unknownMethods returns the methods in patterns that are not registered with IANA, without duplicates.
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
