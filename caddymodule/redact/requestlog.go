// Package redact keeps API keys out of logs and traces. It has four parts:
//
//   - [RequestLog] writes a request's access and error lines in Caddy's place, in Caddy's form, without keys.
//   - [LogFilter] and [LogFormat] are Caddy modules that take keys out of lines which others write.
//   - [CleanSpans] takes keys out of the spans of Caddy's tracing directive.
//   - [LeakingLogs] and [LeakingDebugLogs] find the logs of a configuration that would still show a key.
//
// The package knows keys by their shape and by the places of a request where they stand: see [Secrets]. It imports
// no other package of caddymodule. What it must know about the inside of Caddy is in caddyinside.go, and
// [CheckCaddy] verifies that before the gateway starts.
package redact

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Logs writes the access and error lines of the requests that meet one directive. Caddy's own lines show the request
// as it arrived, which only a log filter could clean: so Logs keeps Caddy from writing them, and writes
// lines of the same form to the same loggers, without keys.
//
// Safe for concurrent use.
type Logs struct {
	access, errors namedLogger
	secrets        Secrets
	// forwardedText cleans the values of headers that go on to an upstream.
	forwardedText func(string) string
	// keptHeaders are the names of the headers that go on as they are.
	keptHeaders []string
	// skips remembers for each *caddyhttp.Server what skipsLog found.
	skips sync.Map
}

// NewLogs returns the logs of a directive that is being provisioned under ctx. forwarded cleans the values of headers
// that go on to an upstream, where less may be lost than in a log line; nil stands for secrets' own cleaner.
func NewLogs(ctx caddy.Context, secrets Secrets, forwarded func(string) string) *Logs {
	// caddyhttp.App.Provision gives its servers the same loggers.
	log := ctx.Logger(httpApp{})
	l := &Logs{
		access:        namedLogger{Logger: log.Named("log.access")},
		errors:        namedLogger{Logger: log.Named("log.error")},
		secrets:       secrets,
		forwardedText: forwarded,
		keptHeaders:   []string{"Authorization", "Proxy-Authorization", "Cookie"},
	}
	if forwarded == nil {
		l.forwardedText = l.secrets.Text
	}
	for i := range secrets.places {
		l.keptHeaders = append(l.keptHeaders, secrets.places[i].header)
	}
	return l
}

// httpApp has the module ID of Caddy's HTTP app, by which Caddy chooses loggers.
type httpApp struct{}

// CaddyModule returns the Caddy module information.
func (httpApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http", New: func() caddy.Module { return httpApp{} }}
}

// requestLogVar holds the first RequestLog of a request.
const requestLogVar = "keygate.access_log"

// RequestLog writes the lines of one request. The zero value is ready for Begin.
type RequestLog struct {
	// State belongs to the directives that share the request; this package does not read it. Only that of the first
	// log counts: see First.
	State any
	// ErrorMethod is the method that error routes see; empty for the one that the request arrived with.
	ErrorMethod string

	logs   *Logs
	server *caddyhttp.Server
	r      *http.Request
	ctx    context.Context
	vars   map[string]any // of ctx

	// The fields below are set only where Caddy would write an access line.

	on bool
	// suppressed reports whether Caddy was kept from writing its line when the request came.
	suppressed bool
	// arrived is the header as it arrived at the directive.
	arrived *loggedHeader
	// cleanedURI is what URI remembers.
	cleanedURI cleanedText
	w          caddyhttp.ResponseRecorder
	body       requestBody
	hook       endHook
	secrets    Secrets
	written    atomic.Bool
}

// Of returns the first log of the request with these variables, nil where none has begun.
func Of(vars map[string]any) *RequestLog {
	log, _ := vars[requestLogVar].(*RequestLog)
	return log
}

// Begin returns a new log that has begun: see [RequestLog.Begin].
func Begin(logs *Logs, r *http.Request) *RequestLog {
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	a := new(RequestLog)
	a.Begin(logs, r, vars)
	return a
}

// Begin takes over the lines of r, which must be as it came to the handler, with nothing removed from it. vars are
// the variables of r. The caller must defer End, and give each error to ServeError instead of returning it.
func (a *RequestLog) Begin(logs *Logs, r *http.Request, vars map[string]any) {
	ctx := r.Context()
	a.logs, a.r, a.ctx, a.vars, a.secrets = logs, r, ctx, vars, logs.secrets
	a.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if outer := Of(vars); outer != nil {
		// Another directive has taken the access line; it must know the keys of this one too.
		outer.secrets, outer.cleanedURI = outer.secrets.And(logs.secrets), cleanedText{}
		if outer.arrived != nil {
			outer.arrived.clean(&outer.secrets)
		}
		a.secrets = outer.secrets
		return
	}
	if vars != nil {
		vars[requestLogVar] = a
	}
	if a.server == nil || !shouldLogRequest(a.server.Logs, r.Host) {
		return
	}
	if skip, _ := vars[caddyhttp.LogSkipVar].(bool); skip {
		return
	}
	a.on = true
	if a.suppressed = !logs.skipsLog(a.server); a.suppressed && vars != nil {
		vars[caddyhttp.LogSkipVar] = true
	}
	a.arrived = newLoggedHeader(r.Header, a.server.Logs.ShouldLogCredentials, &a.secrets)
	a.body.ReadCloser, a.body.server = r.Body, bytesRead(r.Body)
	r.Body = &a.body
	if reader, _ := caddyhttp.IdleTimeoutsFromContext(ctx); reader != nil {
		a.hook.install(reader)
	}
}

// First returns the request's first log, which is a itself or that of an outer directive.
func (a *RequestLog) First() *RequestLog {
	if first := Of(a.vars); first != nil {
		return first
	}
	return a
}

// Add adds a text to the request's access line, in place of one with the same key.
func (a *RequestLog) Add(key, text string) {
	if extra, ok := a.ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok && a.server != nil && a.server.Logs != nil {
		extra.Set(zap.String(key, text))
	}
}

// Text returns t without keys.
func (a *RequestLog) Text(t string) string { return a.secrets.Text(t) }

// URI returns a request target without keys. It remembers the last one, which several lines and fields show.
func (a *RequestLog) URI(uri string) string {
	if a.cleanedURI.in != uri {
		a.cleanedURI = cleanedText{uri, a.secrets.uri(uri)}
	}
	return a.cleanedURI.out
}

// cleanedText is a text and the same text without keys.
type cleanedText struct{ in, out string }

// CleanURI takes keys out of the request target that later handlers log. The URL stays, since it names the resource.
func (a *RequestLog) CleanURI(r *http.Request) { r.RequestURI = a.URI(r.RequestURI) }

// CleanHeader takes keys out of the values of one header of h, which goes on to an upstream: later handlers may log
// it. It leaves the headers that may hold a key, which the caller empties of it, and those that Caddy
// logs only on request, since they belong to the application. Where an access line is to be written, it
// does nothing, and CleanHeaders does it all.
//
// Call it for each header that stays, and CleanHeaders after the last: so that the header is walked only once.
func (a *RequestLog) CleanHeader(h http.Header, name string, values []string) {
	if !a.on {
		a.logs.cleanForwarded(h, name, values)
	}
}

// CleanHeaders is CleanHeader for the headers in which a key was found when the access line was prepared.
func (a *RequestLog) CleanHeaders(h http.Header) {
	if !a.on {
		return
	}
	for _, name := range a.arrived.suspects {
		if values := h[name]; values != nil {
			a.logs.cleanForwarded(h, name, values)
		}
	}
}

// End keeps Caddy from writing its access line, and has this one written when Caddy would write its own: handlers
// around this one (log_append) may still add to it. w is the writer that the handler was given. End must be
// deferred, since reverse_proxy panics when an upstream closes the connection within a response.
func (a *RequestLog) End(w http.ResponseWriter) {
	if !a.on {
		return
	}
	if !a.suppressed {
		if skip, ok := a.vars[caddyhttp.LogSkipVar].(bool); ok && skip {
			return
		}
		if a.vars != nil {
			a.vars[caddyhttp.LogSkipVar] = true
		}
	}
	a.w = serverRecorder(w)
	if a.body.end() && a.hook.arm(a) {
		if a.hook.verified() {
			return
		}
		// If this Caddy ends requests in another way, the line is late rather than lost.
		context.AfterFunc(a.ctx, func() {
			if !a.written.Load() {
				time.AfterFunc(endGrace, func() { a.hook.sync(); a.write() })
			}
		})
		return
	}
	if a.ctx.Err() != nil {
		// The client is gone: no later event shows that the other handlers have returned.
		a.write()
		return
	}
	context.AfterFunc(a.ctx, a.write)
}

// endGrace is how long a request may go on after the end of its context before its line is written.
const endGrace = time.Second

// write writes the line, once.
func (a *RequestLog) write() {
	if a.written.Swap(true) {
		return
	}
	duration := a.duration()
	var status, size int
	var writeErr error
	if a.w != nil {
		writeErr = a.writeError(duration)
		status, size = a.w.Status(), a.w.Size()
	}
	message := "handled request"
	if nop, ok := a.vars["unhandled"].(bool); ok && nop {
		message = "NOP"
	}
	level := zapcore.InfoLevel
	if status >= 500 {
		level = zapcore.ErrorLevel
	}
	if name, ok := a.vars[caddyhttp.LogLevelVar].(string); ok {
		if l, err := zapcore.ParseLevel(name); err == nil && l >= zapcore.DebugLevel && l <= zapcore.ErrorLevel {
			level = l
		}
	}

	var fields []zap.Field
	for _, logger := range a.loggers(&a.logs.access) {
		entry := logger.Check(level, message)
		if entry == nil {
			continue
		}
		if fields == nil {
			extra, _ := a.ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
			added := extraFields(extra)
			fields = make([]zap.Field, 0, 8+len(added))
			fields = append(fields,
				a.request(a.arrived),
				zap.Int("bytes_read", a.body.length()),
				zap.String("user_id", a.user()),
				zap.Duration("duration", duration),
				zap.Int("size", size),
				zap.Int("status", status),
				zap.Object("resp_headers", (*loggedResponse)(a)),
			)
			if writeErr != nil {
				fields = append(fields, zap.NamedError("write_error", writeErr))
			}
			for _, f := range added {
				fields = append(fields, a.secrets.field(f))
			}
		}
		entry.Write(fields...)
	}
}

// user returns the user that some handler has authenticated, without keys.
func (a *RequestLog) user() string {
	repl, ok := a.ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString("http.auth.user.id")
	return a.secrets.Text(user)
}

// duration returns how long the request has taken so far.
func (a *RequestLog) duration() time.Duration {
	start, ok := a.vars["start_time"].(time.Time)
	if !ok {
		return 0
	}
	return time.Since(start)
}

// writeError returns the error of a response that went past the write timeout, as Server.ServeHTTP finds it. It flushes
// the response, so that it may run only after all handlers.
func (a *RequestLog) writeError(duration time.Duration) error {
	limit := time.Duration(a.server.WriteTimeout)
	if limit <= 0 || a.r.ProtoMajor != 1 || duration < limit || !a.hook.atEnd {
		return nil
	}
	err := http.NewResponseController(a.w).Flush()
	if err == nil || isAny(err, http.ErrHijacked, http.ErrNotSupported) {
		return nil
	}
	return err
}

// serverRecorder returns the recorder that the server has put around w, which is the innermost of the recorders in w;
// nil where there is none.
func serverRecorder(w http.ResponseWriter) (rec caddyhttp.ResponseRecorder) {
	for w != nil {
		if r, ok := w.(caddyhttp.ResponseRecorder); ok {
			rec = r
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	return rec
}
