package redact

import (
	"net"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// shouldLogRequest reports whether Caddy writes an access line for host, as
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

// namedLogger caches the loggers that are named under one logger. A configuration has few of them.
type namedLogger struct {
	*zap.Logger
	named sync.Map // named maps names to loggers of the type *zap.Logger.
}

// under returns the logger with this name, or l itself for "". name must come from the
// configuration: names from clients would fill the memory.
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

// loggers returns the loggers for a request's lines, as ServerLogConfig.wrapLogger does: those
// that log_name chose, else those of the host.
func (a *RequestLog) loggers(under *namedLogger) []*zap.Logger {
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

// hostLoggers returns the logger names of a host: those of the host itself, else of the first
// matching wildcard, else the server's default.
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
		return hostport // SplitHostPort would allocate an error for a host without a port, so this case is handled before.
	}
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}
