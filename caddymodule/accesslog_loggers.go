package caddymodule

import (
	"net"
	"reflect"
	"strings"
	"sync"
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
	if _, ok := logs.LoggerNames[host]; ok {
		return true
	}
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

// namedLogger is a logger with those that are named under it. Those of a configuration are few, and made once.
type namedLogger struct {
	*zap.Logger
	named sync.Map // *zap.Logger by name
}

// under returns the logger of that name, l itself for none. Only names that a
// configuration states may be given.
func (l *namedLogger) under(name string) *zap.Logger {
	if name == "" {
		return l.Logger
	}
	if named, ok := l.named.Load(name); ok {
		return named.(*zap.Logger)
	}
	named, _ := l.named.LoadOrStore(name, l.Logger.Named(name))
	return named.(*zap.Logger)
}

// loggers returns the loggers that a request's lines go to, as
// ServerLogConfig.wrapLogger does: those of log_name, or those of the host.
func (a *accessLog) loggers(under *namedLogger) []*zap.Logger {
	logs := a.server.Logs
	if logs == nil {
		return []*zap.Logger{under.Logger}
	}
	var out []*zap.Logger
	if names, ok := a.vars[caddyhttp.AccessLoggerNameVarKey].([]any); ok {
		for _, name := range names {
			switch name := name.(type) {
			case string:
				if name == "" {
					out = append(out, under.Logger)
				} else {
					out = append(out, under.Named(name))
				}
			}
		}
		return out
	}
	for _, name := range hostLoggers(logs, a.r.Host) {
		out = append(out, under.under(name))
	}
	return out
}

// hostLoggers returns the names of a host's loggers: those of the host itself, of the first
// wildcard that covers it, or the server's default.
func hostLoggers(logs *caddyhttp.ServerLogConfig, hostport string) []string {
	if len(logs.LoggerNames) == 0 {
		return []string{logs.DefaultLoggerName}
	}
	host := strings.ToLower(hostOnly(hostport))
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
	if strings.IndexByte(hostport, ':') < 0 {
		return hostport // an error would be made of it
	}
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

// extraFields returns what handlers have added to the access line. Caddy keeps it to
// itself; where a Caddy keeps it otherwise than this one, none are seen.
func extraFields(extra *caddyhttp.ExtraLogFields) []zap.Field {
	if extra == nil || !extraFieldsAt.found {
		return nil
	}
	return *(*[]zap.Field)(unsafe.Add(unsafe.Pointer(extra), extraFieldsAt.offset))
}

// extraFieldsAt is where caddyhttp.ExtraLogFields keeps its fields.
var extraFieldsAt = func() (at struct {
	offset uintptr
	found  bool
}) {
	f, ok := reflect.TypeFor[caddyhttp.ExtraLogFields]().FieldByName("fields")
	at.offset, at.found = f.Offset, ok && f.Type == reflect.TypeFor[[]zap.Field]()
	return at
}()

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
