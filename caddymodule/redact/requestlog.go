// Package redact keeps API keys out of logs and traces. It has four parts:
//
//   - [RequestLog] writes a request's access and error lines instead of Caddy, in Caddy's form, without keys.
//   - [LogFilter] and [LogFormat] are Caddy modules that remove keys from other log lines.
//   - [CleanSpans] removes keys from the spans of Caddy's tracing directive.
//   - [LeakingLogs] and [LeakingDebugLogs] find logs of a configuration that would still show a key.
//
// The package finds keys by their shape, and by the places of a request where keys may be: see
// [Secrets]. It imports no other package of caddymodule. The code that depends on Caddy's
// internals is in caddyinside.go; [CheckCaddy] verifies them before the gateway starts.
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

// Logs writes the access and error lines for requests that reach one directive. Caddy's own lines
// show the request as it arrived, so only a log filter could remove keys from them. Therefore Logs
// stops Caddy from writing these lines and writes lines of the same form to the same loggers,
// without keys.
//
// Safe for concurrent use.
type Logs struct {
	access, errors namedLogger
	secrets        Secrets
	// forwardedText removes keys from values of headers that are forwarded to an upstream.
	forwardedText func(string) string
	// keptHeaders are the names of the headers that are forwarded unchanged.
	keptHeaders []string
	// skips caches the result of skipsLog for each *caddyhttp.Server.
	skips sync.Map
}

// NewLogs returns the logs of a directive that is being provisioned under ctx. forwarded removes
// keys from values of headers that are forwarded to an upstream, and should keep more of the text
// than a log line needs. If it is nil, secrets' own cleaner does that.
func NewLogs(ctx caddy.Context, secrets Secrets, forwarded func(string) string) *Logs {
	// caddyhttp.App.Provision gives the same loggers to its servers.
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

// httpApp has the module ID of Caddy's HTTP app. Caddy chooses loggers by that ID.
type httpApp struct{}

func (httpApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http", New: func() caddy.Module { return httpApp{} }}
}

// requestLogVar is the request variable with the request's first RequestLog.
const requestLogVar = "keygate.access_log"

// RequestLog writes the log lines of one request. Begin must be called first.
type RequestLog struct {
	// State is for the directives that handle the request; this package does not use it. Only the
	// State of the request's first log counts: see First.
	State any
	// ErrorMethod is the method that error routes see; empty for the request's original method.
	ErrorMethod string

	logs   *Logs
	server *caddyhttp.Server
	r      *http.Request
	ctx    context.Context
	vars   map[string]any // vars are the variables of the request, from the request's context.

	// The fields below are set only if Caddy would write an access log line.

	on bool
	// suppressed is true if Caddy's line was suppressed before the request went to the next
	// handler.
	suppressed bool
	// arrived is the request's header as it reached the directive.
	arrived *loggedHeader
	// cleanedURI caches the result of URI.
	cleanedURI cleanedText
	w          caddyhttp.ResponseRecorder
	body       requestBody
	hook       endHook
	secrets    Secrets
	written    atomic.Bool
}

// Of returns the first log of the request with these variables, or nil if no log has begun.
func Of(vars map[string]any) *RequestLog {
	log, _ := vars[requestLogVar].(*RequestLog)
	return log
}

// Begin returns a new log for r after calling [RequestLog.Begin].
func Begin(logs *Logs, r *http.Request) *RequestLog {
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	a := new(RequestLog)
	a.Begin(logs, r, vars)
	return a
}

// Begin takes over the log lines of r, which must be unchanged since it reached the handler. vars
// are the variables of r. The caller must defer End, and pass each error to ServeError instead of
// returning it.
func (a *RequestLog) Begin(logs *Logs, r *http.Request, vars map[string]any) {
	ctx := r.Context()
	a.logs, a.r, a.ctx, a.vars, a.secrets = logs, r, ctx, vars, logs.secrets
	a.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if outer := Of(vars); outer != nil {
		// An outer directive writes the access log line, so its log must also remove the keys of
		// this directive.
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

// First returns the request's first log: a itself, or the log of an outer directive.
func (a *RequestLog) First() *RequestLog {
	if first := Of(a.vars); first != nil {
		return first
	}
	return a
}

// Add adds a text to the request's access log line. It replaces a text with the same key.
func (a *RequestLog) Add(key, text string) {
	if extra, ok := a.ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok && a.server != nil && a.server.Logs != nil {
		extra.Set(zap.String(key, text))
	}
}

// Text returns t without keys.
func (a *RequestLog) Text(t string) string { return a.secrets.Text(t) }

// URI returns a request target without keys. It caches the last result, because several lines and
// fields show the same target.
func (a *RequestLog) URI(uri string) string {
	if a.cleanedURI.in != uri {
		a.cleanedURI = cleanedText{uri, a.secrets.uri(uri)}
	}
	return a.cleanedURI.out
}

// cleanedText is a text, in, and the same text without keys, out.
type cleanedText struct{ in, out string }

// CleanURI removes keys from r.RequestURI, which later handlers log. r.URL stays unchanged,
// because it names the resource.
func (a *RequestLog) CleanURI(r *http.Request) { r.RequestURI = a.URI(r.RequestURI) }

// CleanHeader removes keys from one header of h that is forwarded to an upstream, because later
// handlers may log it. It skips headers that are places for keys, since the caller removes the key
// there. It also skips headers that belong to the application and that Caddy logs only on request.
// If there is an access log line, CleanHeader does nothing, and CleanHeaders does all the work.
//
// The caller calls it for each header that stays, and CleanHeaders after the last one, so that the
// headers are iterated only once.
func (a *RequestLog) CleanHeader(h http.Header, name string, values []string) {
	if !a.on {
		a.logs.cleanForwarded(h, name, values)
	}
}

// CleanHeaders does what CleanHeader does for each header in which the preparation of the access
// log line found a key.
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

// End stops Caddy from writing its access log line, and makes this log's line appear when Caddy
// would write its own. Outer handlers such as log_append may add fields until then. w is the
// writer that the handler was given. End must be deferred, because reverse_proxy panics if an
// upstream closes the connection within a response.
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
		// If this version of Caddy ends requests in another way, the line is late instead of
		// missing.
		context.AfterFunc(a.ctx, func() {
			if !a.written.Load() {
				time.AfterFunc(endGrace, func() { a.hook.sync(); a.write() })
			}
		})
		return
	}
	if a.ctx.Err() != nil {
		// The client has closed the connection, so no later event shows that the other handlers
		// have returned.
		a.write()
		return
	}
	context.AfterFunc(a.ctx, a.write)
}

// endGrace is the delay from the end of a request's context to the writing of its line, if no line
// was written before.
const endGrace = time.Second

// write writes the access log line. Only the first call has an effect.
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

// user returns the name of the authenticated user, without keys.
func (a *RequestLog) user() string {
	repl, ok := a.ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString("http.auth.user.id")
	return a.secrets.Text(user)
}

// duration returns the time since the request began.
func (a *RequestLog) duration() time.Duration {
	start, ok := a.vars["start_time"].(time.Time)
	if !ok {
		return 0
	}
	return time.Since(start)
}

// writeError returns an error if the response exceeded the write timeout, as Server.ServeHTTP
// does. It flushes the response, so it must run after all handlers.
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

// serverRecorder returns the recorder that the server put around w, or nil if there is none. It is
// the innermost of the recorders in w.
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
