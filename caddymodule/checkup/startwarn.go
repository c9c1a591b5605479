package checkup

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing"

	"github.com/keygate-dev/keygate/caddymodule/redact"
)

// rejectionStatuses are the statuses of Keygate's rejections, unless a keyspace configures others.
var rejectionStatuses = [...]int{400, 401, 402, 403, 429, 503}

// warnCaching warns of deferred header directives before a keygate directive that would let caches
// store rejections. Deferred directives run last, so they can remove Keygate's no-store.
func (a *Checkup) warnCaching() {
	var deferred []*routedHandler
	for h := range routedHandlers(configuredHTTP(a.ctx)) {
		if d, ok := h.handler.(*headers.Handler); ok && d.Response != nil && (d.Response.Deferred || d.Response.Require != nil) {
			deferred = append(deferred, h)
		}
		if checkingOf(h) != nil && !h.inErrorRoute() {
			deferred = slices.DeleteFunc(deferred, func(o *routedHandler) bool {
				if !o.precedes(h) {
					return false
				}
				if value, undone := withoutNoStore(o.handler.(*headers.Handler).Response); undone {
					a.log.Warn("a deferred header directive removes no-store from Keygate's rejections, so caches may store them: remove '>' and defer from the directive",
						"site", o.site(), "cache_control", value)
				}
				return true
			})
		}
	}
}

// withoutNoStore applies ops to the header of a rejection. It returns the resulting Cache-Control,
// and whether no-store is missing.
func withoutNoStore(ops *headers.RespHeaderOps) (value string, undone bool) {
	for _, status := range rejectionStatuses {
		hdr := http.Header{"Cache-Control": {"no-store"}}
		if ops.Require != nil && !ops.Require.Match(status, hdr) {
			continue
		}
		ops.ApplyTo(hdr, caddy.NewReplacer())
		if !hasToken(hdr["Cache-Control"], "no-store") {
			return strings.Join(hdr["Cache-Control"], ", "), true
		}
	}
	return "", false
}

// hasToken reports whether one of the lines, each a comma-separated list, contains the token.
func hasToken(lines []string, token string) bool {
	return slices.ContainsFunc(strings.Split(strings.Join(lines, ","), ","), func(t string) bool {
		return strings.EqualFold(strings.TrimSpace(t), token)
	})
}

// warnDebug warns of logs at level DEBUG whose format lacks filters for DEBUG lines.
func (a *Checkup) warnDebug() {
	for _, ks := range a.keyspaces {
		for _, leak := range redact.LeakingDebugLogs(a.ctx, ks.Grammar.Shapes()[0].Prefix) {
			a.log.Warn("a logger at level DEBUG would write API keys in URLs: set `format keygate` in its log block, or add these lines to its `format filter`",
				"logger", leak.Log, "lines", leak.Lines)
		}
		return // The result does not depend on the prefix of a key, so checking one keyspace is enough.
	}
}

// CleanTraces makes every tracing handler of the configuration remove keys from its spans, and
// warns if that is impossible.
func (a *Checkup) CleanTraces() {
	found := false
	for h := range routedHandlers(configuredHTTP(a.ctx)) {
		t, ok := h.handler.(*tracing.Tracing)
		if !ok {
			continue
		}
		if !found {
			found = true
			if !redact.CleanSpans(t) {
				a.log.Warn("spans of the tracing directive may hold API keys, because Keygate can't filter the spans of this Caddy version: remove the directive",
					"site", h.site())
			}
		}
		if names := redact.LeakingAttributes(t.SpanAttributes); len(names) > 0 {
			a.log.Warn("span_attributes of the tracing directive contain a part of the request that may hold an API key: remove these lines, or use {keygate.key_id}",
				"site", h.site(), "attributes", names)
		}
	}
}
