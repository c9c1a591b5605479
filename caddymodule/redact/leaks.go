package redact

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// probeText replaces a key in test lines that show whether a log would write keys.
const probeText = "0b9cf1c6d3a84e7fa1d25e06"

// LeakingLogs returns the sorted names of the configured logs that would write the header
// X-Api-Key unfiltered. They receive lines of the HTTP server about requests that reach no keygate
// directive. LeakingLogs writes no line. The configuration must be provisioned under ctx.
func LeakingLogs(ctx caddy.Context) []string {
	var leaking []string
	for name, log := range configuredLogs(ctx) {
		if takesRequests(name, log) && showsHeader(name, log) {
			leaking = append(leaking, name)
		}
	}
	slices.Sort(leaking)
	return leaking
}

// coreOf returns the core that receives the HTTP app's lines in a configuration with only this
// log.
func coreOf(name string, log *caddy.CustomLog) zapcore.Core {
	return (&caddy.Logging{Logs: map[string]*caddy.CustomLog{name: log}}).Logger(httpApp{}).Core()
}

// takesRequests reports whether the log accepts lines that hold requests.
func takesRequests(name string, log *caddy.CustomLog) bool {
	core := coreOf(name, log)
	loggers := []string{"http.log.error", "http.log.access"}
	for _, included := range log.Include {
		// This is the log of one site, such as http.log.access.log0.
		if strings.HasPrefix(included, "http.") {
			loggers = append(loggers, included)
		}
	}
	return slices.ContainsFunc(loggers, func(logger string) bool {
		return core.Check(zapcore.Entry{LoggerName: logger, Level: zapcore.ErrorLevel}, nil) != nil
	})
}

// showsHeader reports whether the log's encoder, with its filters, writes the header X-Api-Key.
func showsHeader(name string, log *caddy.CustomLog) bool {
	// LoggableHTTPRequest reads client_ip from the request's variables, so there must be some.
	vars := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{})
	req := &http.Request{Header: http.Header{"X-Api-Key": {probeText}}}
	return shows(encodersOf(name, log), zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: req.WithContext(vars)}), probeText)
}

// shows reports whether one of the encoders would write text in a line with the field f. It
// returns true if that is unknown.
func shows(encoders []zapcore.Encoder, f zap.Field, text string) bool {
	return len(encoders) == 0 || slices.ContainsFunc(encoders, func(enc zapcore.Encoder) bool {
		line, err := enc.Clone().EncodeEntry(zapcore.Entry{}, []zap.Field{f})
		if err != nil {
			return true
		}
		defer line.Free()
		return strings.Contains(line.String(), text)
	})
}

// encodersOf returns copies of a log's encoders, one for each of its cores, if the log accepts
// lines of the HTTP app. A core passes its encoder to an inline field, so encodersOf adds such a
// field to get it.
func encodersOf(name string, log *caddy.CustomLog) (encoders []zapcore.Encoder) {
	coreOf(name, log).With([]zap.Field{zap.Inline(zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		if e, ok := enc.(zapcore.Encoder); ok {
			encoders = append(encoders, e)
		}
		return nil
	}))})
	return encoders
}

// debugFields are text fields that occur only in lines at level DEBUG.
var debugFields = [...]string{"request_path", "result", "filename", "path", "from_path", "to_path", "error"}

// debugLines returns the fields with a part of a request's URL in DEBUG lines of rewrite,
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

// DebugLeak is a log at level DEBUG that would write keys in URLs.
type DebugLeak struct {
	// Log is the log's name.
	Log string
	// Lines are the missing lines of the log's `format filter`.
	Lines []string
}

// LeakingDebugLogs returns the logs at level DEBUG, sorted by name, whose format lacks filters for
// DEBUG lines. prefix is the prefix of a key. The configuration must be provisioned under ctx.
func LeakingDebugLogs(ctx caddy.Context, prefix string) (leaks []DebugLeak) {
	logs := configuredLogs(ctx)
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		if !takesDebug(name, logs[name]) {
			continue
		}
		encoders, lines, key := encodersOf(name, logs[name]), []string(nil), prefix+probeText
		for _, f := range debugLines("/" + key) {
			if shows(encoders, f, key) {
				field := f.Key
				if field == "request" {
					field = "request>uri"
				}
				lines = append(lines, field+" keygate")
			}
		}
		if len(lines) > 0 {
			leaks = append(leaks, DebugLeak{name, lines})
		}
	}
	return leaks
}

// takesDebug reports whether the log accepts lines at level DEBUG from handlers.
func takesDebug(name string, log *caddy.CustomLog) bool {
	return coreOf(name, log).Check(zapcore.Entry{LoggerName: "http.handlers.file_server", Level: zapcore.DebugLevel}, nil) != nil
}
