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

// rejectionStatuses are those that Keygate rejects requests with, unless a keyspace states others.
var rejectionStatuses = [...]int{400, 401, 402, 403, 429, 503}

// warnCaching warns of deferred header directives in front of a keygate directive that would let caches store
// rejections: they have the last word on a response's header.
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
					a.log.Warn("a deferred header directive lets caches store rejections: write it without '>' and defer, so that Keygate's no-store comes after it",
						"site", o.site(), "cache_control", value)
				}
				return true
			})
		}
	}
}

// withoutNoStore returns what Cache-Control a rejection has after ops, and whether no-store is gone from it.
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

// hasToken reports whether a list of tokens over several lines holds one.
func hasToken(lines []string, token string) bool {
	return slices.ContainsFunc(strings.Split(strings.Join(lines, ","), ","), func(t string) bool {
		return strings.EqualFold(strings.TrimSpace(t), token)
	})
}

// warnDebug warns of logs of level DEBUG whose format lacks the filter for lines that only that level has.
func (a *Checkup) warnDebug() {
	for _, ks := range a.keyspaces {
		for _, leak := range redact.LeakingDebugLogs(a.ctx, ks.Grammar.Shapes()[0].Prefix) {
			a.log.Warn("a logger of level DEBUG would write API keys that stand in URLs: state `format keygate` in its log block, or add these lines to its `format filter`",
				"logger", leak.Log, "lines", leak.Lines)
		}
		return // the prefix of one keyspace stands for those of all
	}
}

// CleanTraces keeps keys out of the spans of every tracing handler of the configuration, and warns where that fails.
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
				a.log.Warn("spans of the tracing directive may hold API keys, because this version of Caddy traces in another way: remove the directive",
					"site", h.site())
			}
		}
		if names := redact.LeakingAttributes(t.SpanAttributes); len(names) > 0 {
			a.log.Warn("span_attributes of the tracing directive write a part of the request, which may hold an API key: remove these lines, or use {keygate.key_id}",
				"site", h.site(), "attributes", names)
		}
	}
}
