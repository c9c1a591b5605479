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

// probeText stands for a key in the lines that are encoded to see whether a log would show it.
const probeText = "0b9cf1c6d3a84e7fa1d25e06"

// LeakingLogs returns the names, sorted, of the configuration's logs that would write an X-Api-Key header in clear when
// a request meets no keygate directive: those that take lines of the HTTP server and have no filter for it. It
// writes no line. The configuration must be provisioned under ctx.
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

// coreOf returns the core that takes the HTTP app's lines for one log.
func coreOf(name string, log *caddy.CustomLog) zapcore.Core {
	return (&caddy.Logging{Logs: map[string]*caddy.CustomLog{name: log}}).Logger(httpApp{}).Core()
}

// takesRequests reports whether log takes lines that carry requests.
func takesRequests(name string, log *caddy.CustomLog) bool {
	core := coreOf(name, log)
	loggers := []string{"http.log.error", "http.log.access"}
	for _, included := range log.Include {
		// The log of one site: http.log.access.log0.
		if strings.HasPrefix(included, "http.") {
			loggers = append(loggers, included)
		}
	}
	return slices.ContainsFunc(loggers, func(logger string) bool {
		return core.Check(zapcore.Entry{LoggerName: logger, Level: zapcore.ErrorLevel}, nil) != nil
	})
}

// showsHeader reports whether log's encoder, including its filters, lets the header through.
func showsHeader(name string, log *caddy.CustomLog) bool {
	// LoggableHTTPRequest looks for client_ip among the variables.
	vars := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{})
	req := &http.Request{Header: http.Header{"X-Api-Key": {probeText}}}
	return shows(encodersOf(name, log), zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: req.WithContext(vars)}), probeText)
}

// shows reports whether a log with the encoders would write text in a line with the field f. It is true where that is
// not known.
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

// encodersOf returns copies of the encoders of a log that takes lines of the HTTP app: one, and those of further cores.
// A core has its encoder write the fields that it is extended by, and an inline field is handed that encoder.
func encodersOf(name string, log *caddy.CustomLog) (encoders []zapcore.Encoder) {
	coreOf(name, log).With([]zap.Field{zap.Inline(zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		if e, ok := enc.(zapcore.Encoder); ok {
			encoders = append(encoders, e)
		}
		return nil
	}))})
	return encoders
}

// debugFields are the text fields that only lines of level DEBUG have.
var debugFields = [...]string{"request_path", "result", "filename", "path", "from_path", "to_path", "error"}

// debugLines returns the fields in which lines of level DEBUG show a part of a request's URL: those of rewrite,
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

// DebugLeak is a log of level DEBUG that would write keys in URLs.
type DebugLeak struct {
	// Log is the log's name.
	Log string
	// Lines are the lines that its `format filter` lacks.
	Lines []string
}

// LeakingDebugLogs returns the configuration's logs, sorted by name, of level DEBUG whose format lacks the filter for
// lines that only that level has. prefix is the prefix of a key. The configuration must be provisioned under ctx.
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

// takesDebug reports whether log takes lines of level DEBUG from handlers.
func takesDebug(name string, log *caddy.CustomLog) bool {
	return coreOf(name, log).Check(zapcore.Entry{LoggerName: "http.handlers.file_server", Level: zapcore.DebugLevel}, nil) != nil
}
