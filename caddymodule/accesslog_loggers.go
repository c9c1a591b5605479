package caddymodule

import (
	"net"
	"net/http"
	"reflect"
	"strings"
	"unsafe"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// shouldLogRequest says whether Caddy writes an access line for host, as
// Server.shouldLogRequest does.
func shouldLogRequest(logs *caddyhttp.ServerLogConfig, host string) bool {
	if logs == nil {
		return false
	}
	host = hostOnly(host)
	for name := range logs.LoggerNames {
		if certmagic.MatchWildcard(host, name) {
			return true
		}
	}
	for _, skipped := range logs.SkipHosts {
		if certmagic.MatchWildcard(host, skipped) {
			return false
		}
	}
	return !logs.SkipUnmappedHosts
}

// namedLoggers returns the loggers that a request's lines go to, as
// ServerLogConfig.wrapLogger does: those of log_name, or those of the host.
func namedLoggers(logs *caddyhttp.ServerLogConfig, logger *zap.Logger, r *http.Request) []*zap.Logger {
	if logs == nil {
		return []*zap.Logger{logger}
	}
	var out []*zap.Logger
	add := func(name string) {
		if name == "" {
			out = append(out, logger)
			return
		}
		out = append(out, logger.Named(name))
	}
	if names, ok := caddyhttp.GetVar(r.Context(), caddyhttp.AccessLoggerNameVarKey).([]any); ok {
		for _, name := range names {
			if name, ok := name.(string); ok {
				add(name)
			}
		}
		return out
	}
	for _, name := range hostLoggers(logs, hostOnly(r.Host)) {
		add(name)
	}
	return out
}

// hostLoggers returns the names of a host's loggers: those of the host itself, of the first
// wildcard that covers it, or the server's default.
func hostLoggers(logs *caddyhttp.ServerLogConfig, host string) []string {
	host = strings.ToLower(host)
	if names, ok := logs.LoggerNames[host]; ok {
		return names
	}
	labels := strings.Split(host, ".")
	for i := range labels {
		if labels[i] == "" {
			continue
		}
		labels[i] = "*"
		if names, ok := logs.LoggerNames[strings.Join(labels, ".")]; ok {
			return names
		}
	}
	return []string{logs.DefaultLoggerName}
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// extraFields returns what handlers have added to the access line. Caddy keeps it to
// itself; where a Caddy keeps it otherwise than this one, none are seen.
func extraFields(extra *caddyhttp.ExtraLogFields) []zap.Field {
	if extra == nil {
		return nil
	}
	fields, _ := unexported(reflect.ValueOf(extra).Elem(), "fields").([]zap.Field)
	return fields
}

// unexported returns the value of a field of v, an addressable struct; nil where it has no
// such field.
func unexported(v reflect.Value, field string) any {
	if v.Kind() != reflect.Struct || !v.CanAddr() {
		return nil
	}
	f := v.FieldByName(field)
	if !f.IsValid() {
		return nil
	}
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Interface()
}
