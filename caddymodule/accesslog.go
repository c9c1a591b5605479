package caddymodule

import (
	"context"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// requestLogs writes the access and error log lines of the requests that meet one
// directive in Caddy's place, in the same form and to the same loggers, but without
// keys. Caddy's own lines carry the request as it arrived, and nothing but a log
// filter could clean them: so Caddy is kept from writing them.
//
// Safe for concurrent use.
type requestLogs struct {
	access, errors namedLogger
	secrets        logSecrets
	// onward cleans the headers that go on to an upstream, where that is not to be done as
	// for a log line, which loses nothing by too much.
	onward func(string) string
	// spared are the names of the headers that onward is not for.
	spared []string
	// skips remembers for each *caddyhttp.Server what skipsLog found.
	skips sync.Map
}

// newRequestLogs returns the logs of a directive that is being provisioned under ctx.
// Keys are told by cleaner, and by the places where a request may hold them.
func newRequestLogs(ctx caddy.Context, cleaner *apikey.Cleaner, places []apikey.Place) *requestLogs {
	// The loggers that caddyhttp.App.Provision gives its servers.
	log := ctx.Logger(httpApp{})
	l := &requestLogs{
		access:  namedLogger{Logger: log.Named("log.access")},
		errors:  namedLogger{Logger: log.Named("log.error")},
		secrets: logSecrets{cleaner, places},
		spared:  []string{"Authorization", "Proxy-Authorization", "Cookie"},
	}
	l.onward = l.secrets.text
	for i := range places {
		l.spared = append(l.spared, headerOf(&places[i]))
	}
	return l
}

// httpApp has the module ID of Caddy's HTTP app: loggers are chosen by it.
type httpApp struct{}

// CaddyModule returns the Caddy module information.
func (httpApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http", New: func() caddy.Module { return httpApp{} }}
}

// accessLogVar holds the accessLog of a request that has met a directive.
const accessLogVar = "keygate.access_log"

// accessLog writes the lines of one request.
type accessLog struct {
	*requestLogs
	server *caddyhttp.Server
	r      *http.Request
	ctx    context.Context
	vars   map[string]any // of ctx
	// checked says that a directive has judged the request: later ones pass it on.
	checked bool
	// rejected is the error by which a directive rejected the request, nil where none did.
	rejected error
	// removed is what was removed of an upgrade, as the request was not checked.
	removed *removedUpgrade

	// What follows is set only where Caddy would write an access line.
	on bool
	// kept says that Caddy was kept from writing its line when the request came.
	kept bool
	// arrived is the header as it arrived at the directive.
	arrived *loggedHeader
	// cleanedURI is what uri remembers.
	cleanedURI cleanedText
	w          caddyhttp.ResponseRecorder
	body       requestBody
	hook       endHook
	secrets    logSecrets
	written    atomic.Bool
}

// beginAccessLog takes over the log lines of r, which must be the request as it came to the
// handler, with nothing removed from it. The caller must defer end, and give every
// error to serveError instead of returning it.
func beginAccessLog(logs *requestLogs, r *http.Request) *accessLog {
	ctx := r.Context()
	vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	a := new(accessLog)
	a.begin(logs, r, vars)
	return a
}

// begin is beginAccessLog for an accessLog that is part of something else; vars are those of r.
func (a *accessLog) begin(logs *requestLogs, r *http.Request, vars map[string]any) {
	ctx := r.Context()
	a.requestLogs, a.r, a.ctx, a.vars, a.secrets = logs, r, ctx, vars, logs.secrets
	a.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if outer, ok := vars[accessLogVar].(*accessLog); ok {
		// Another directive has taken the access line; it must now know our keys too.
		outer.secrets, outer.cleanedURI = outer.secrets.and(logs.secrets), cleanedText{}
		if outer.arrived != nil {
			outer.arrived.clean(&outer.secrets)
		}
		a.secrets = outer.secrets
		return
	}
	if vars != nil {
		vars[accessLogVar] = a
	}
	if a.server == nil || !shouldLogRequest(a.server.Logs, r.Host) {
		return
	}
	a.on = true
	if skip, _ := vars[caddyhttp.LogSkipVar].(bool); skip {
		a.on = false // nobody wants the line
		return
	}
	if a.kept = !logs.skipsLog(a.server); a.kept && vars != nil {
		vars[caddyhttp.LogSkipVar] = true
	}
	a.arrived = loggedHeaderOf(r.Header, a.server.Logs.ShouldLogCredentials, &a.secrets)
	a.body.ReadCloser, a.body.outer = r.Body, bytesRead(r.Body)
	r.Body = &a.body
	if reader, _ := caddyhttp.IdleTimeoutsFromContext(ctx); reader != nil {
		a.hook.hang(reader)
	}
}

// noteChecked notes that the request is judged by the directive whose log a is.
func (a *accessLog) noteChecked() {
	if outer, ok := a.vars[accessLogVar].(*accessLog); ok {
		outer.checked = true
	}
}

// noteRejected notes that the request was rejected, for directives in error routes.
func noteRejected(r *http.Request, err error) {
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	if outer, ok := vars[accessLogVar].(*accessLog); ok {
		outer.rejected = err
	}
}

// observed notes in the access line what would have been refused.
func (a *accessLog) observed(reason gateway.Reason) {
	if extra, ok := a.ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok && a.server != nil && a.server.Logs != nil {
		extra.Set(zap.String("would_refuse", reason.String()))
	}
}

// end keeps Caddy from writing its access line, and has ours written when Caddy would have
// written its own: handlers outside of this one (log_append) still add to it. w is the
// writer that the handler was given. To be deferred, since reverse_proxy panics when an
// upstream dies in mid-body.
func (a *accessLog) end(w http.ResponseWriter) {
	if !a.on {
		return
	}
	if !a.kept {
		if skip, ok := a.vars[caddyhttp.LogSkipVar].(bool); ok && skip {
			return
		}
		if a.vars != nil {
			a.vars[caddyhttp.LogSkipVar] = true
		}
	}
	a.w = serverRecorder(w)
	if a.body.end() && a.hook.arm(a) {
		if a.hook.proven() {
			return
		}
		// Should Caddy come to end requests otherwise, the line is late rather than lost.
		context.AfterFunc(a.ctx, func() {
			if !a.written.Load() {
				time.AfterFunc(endGrace, func() { a.hook.sync(); a.write() })
			}
		})
		return
	}
	if a.ctx.Err() != nil {
		// The client is gone, so nothing more tells when the other handlers are through.
		a.write()
		return
	}
	context.AfterFunc(a.ctx, a.write)
}

// endGrace is how long after its context a request may go on before its line is written.
const endGrace = time.Second

// write writes the line, once.
func (a *accessLog) write() {
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
	for _, logger := range a.loggers(&a.access) {
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

// user is who the request was let in as, by whichever handler.
func (a *accessLog) user() string {
	repl, ok := a.ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString("http.auth.user.id")
	return a.secrets.text(user)
}

// duration is how long the request has taken so far.
func (a *accessLog) duration() time.Duration {
	start, ok := a.vars["start_time"].(time.Time)
	if !ok {
		return 0
	}
	return time.Since(start)
}

// writeError finds, as Server.ServeHTTP does, that the response went past the write
// timeout. It ends the response's header, so that it may run only once all is handled.
func (a *accessLog) writeError(duration time.Duration) error {
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

// serverRecorder returns the recorder that the server has put around w: the last of
// those that w is wrapped in. nil where there is none.
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

// bytesRead returns where the server counts what it reads of a body, hijacked
// connections included; nil where body is not as the server made it.
func bytesRead(body any) *int {
	v := reflect.ValueOf(body)
	if v.Kind() != reflect.Pointer {
		return nil
	}
	t := v.Type()
	field := lengthFields.Load()
	if field == nil || field.of != t {
		if t.Elem().Kind() != reflect.Struct || t.Elem().PkgPath() != serverPkg {
			return nil
		}
		length, ok := t.Elem().FieldByName("Length")
		if !ok || length.Type != reflect.TypeFor[int]() {
			return nil
		}
		field = &lengthField{t, length.Offset}
		lengthFields.Store(field)
	}
	if v.IsNil() {
		return nil
	}
	return (*int)(unsafe.Add(v.UnsafePointer(), field.offset))
}

// lengthField is where bodies of a type count what was read of them.
type lengthField struct {
	of     reflect.Type
	offset uintptr
}

// lengthFields is that of the type that was met last: there is one.
var lengthFields atomic.Pointer[lengthField]

var serverPkg = reflect.TypeFor[caddyhttp.Server]().PkgPath()
