package caddymodule

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// rejectionStatuses are those that Keygate rejects requests with, unless a keyspace states others.
var rejectionStatuses = [...]int{400, 401, 402, 403, 429, 503}

// warnCaching warns of deferred header directives in front of a keygate directive that would let caches store
// rejections: they have the last word on a response's header.
func (a *App) warnCaching() {
	var deferred []*routedHandler
	for h := range routedHandlers(configuredHTTP(a.ctx)) {
		switch d := h.handler.(type) {
		case *headers.Handler:
			if d.Response != nil && (d.Response.Deferred || d.Response.Require != nil) {
				deferred = append(deferred, h)
			}
		case *Handler:
			if d.StripOnly || h.inErrorRoute() {
				continue
			}
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
		if !lists(hdr["Cache-Control"], "no-store") {
			return strings.Join(hdr["Cache-Control"], ", "), true
		}
	}
	return "", false
}

// debugFields are the text fields that only lines of level DEBUG have.
var debugFields = [...]string{"request_path", "result", "filename", "path", "from_path", "to_path", "error"}

// debugLines are fields in which lines of level DEBUG show a part of a request's URL: those of rewrite,
// file_server, php_fastcgi and reverse_proxy.
func debugLines(text string) []zap.Field {
	fields := []zap.Field{
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: &http.Request{RequestURI: text}}),
		zap.Object("env", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
			enc.AddString("REQUEST_URI", text)
			return nil
		})),
	}
	for _, name := range append([]string{"uri"}, debugFields[:]...) {
		fields = append(fields, zap.String(name, text))
	}
	return fields
}

// warnDebug warns of logs of level DEBUG whose format lacks the filter for lines that only that level has.
func (a *App) warnDebug() {
	cfg, _ := unexported(reflect.ValueOf(&a.ctx).Elem(), "cfg").(*caddy.Config)
	if cfg == nil || cfg.Logging == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Logging.Logs)) {
		log := cfg.Logging.Logs[name]
		enc, _ := unexported(reflect.ValueOf(&log.BaseLog).Elem(), "encoder").(zapcore.Encoder)
		if enc == nil || !takesDebug(name, log) {
			continue
		}
		if lines := a.leakingLines(enc); len(lines) > 0 {
			a.log.Warn("a logger of level DEBUG would write API keys that stand in URLs: state `format keygate` in its log block, or add these lines to its `format filter`",
				"logger", name, "lines", lines)
		}
	}
}

// takesDebug reports whether log takes lines of level DEBUG from handlers.
func takesDebug(name string, log *caddy.CustomLog) bool {
	core := (&caddy.Logging{Logs: map[string]*caddy.CustomLog{name: log}}).Logger(httpApp{}).Core()
	return core.Check(zapcore.Entry{LoggerName: "http.handlers.file_server", Level: zapcore.DebugLevel}, nil) != nil
}

// leakingLines returns the lines that enc's filter lacks.
func (a *App) leakingLines(enc zapcore.Encoder) (lines []string) {
	for _, ks := range a.keyspaces {
		key := ks.Grammar.Shapes()[0].Prefix + "0b9cf1c6d3a84e7fa1d25e06"
		for _, f := range debugLines("/" + key) {
			line, err := enc.Clone().EncodeEntry(zapcore.Entry{}, []zap.Field{f})
			if err != nil {
				continue
			}
			if strings.Contains(line.String(), key) {
				name := f.Key
				if name == "request" {
					name = "request>uri"
				}
				lines = append(lines, name+" keygate")
			}
			line.Free()
		}
		return lines
	}
	return nil
}
