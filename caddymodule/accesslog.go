package caddymodule

import (
	"context"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// requestLogs writes the access and error log lines of the requests that meet one
// directive in Caddy's place, in the same form and to the same loggers, but without
// keys. Caddy's own lines carry the request as it arrived, and nothing but a log
// filter could clean them: so Caddy is kept from writing them.
//
// Safe for concurrent use.
type requestLogs struct {
	access, errors *zap.Logger
	secrets        logSecrets
	// onward cleans the headers that go on to an upstream, where that is not to be done as
	// for a log line, which loses nothing by too much.
	onward func(string) string
	// skips remembers for each *caddyhttp.Server what skipsLog found.
	skips sync.Map
}

// newRequestLogs returns the logs of a directive that is being provisioned under ctx.
// Keys are told by clean, which returns a text without those in it, and by the places
// where a request may hold them.
func newRequestLogs(ctx caddy.Context, clean func(string) string, places []apikey.Place) *requestLogs {
	// The loggers that caddyhttp.App.Provision gives its servers.
	log := ctx.Logger(httpApp{})
	return &requestLogs{
		access:  log.Named("log.access"),
		errors:  log.Named("log.error"),
		secrets: logSecrets{clean: []func(string) string{clean, management.CleanTokens}, places: places},
	}
}

// httpApp has the module ID of Caddy's HTTP app: loggers are chosen by it.
type httpApp struct{}

// CaddyModule returns the Caddy module information.
func (httpApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http", New: func() caddy.Module { return httpApp{} }}
}

// accessLogVar holds the accessLog of a request that already has one.
const accessLogVar = "keygate.access_log"

// accessLog writes the lines of one request.
type accessLog struct {
	*requestLogs
	server *caddyhttp.Server
	r      *http.Request
	ctx    context.Context

	// What follows is set only where Caddy would write an access line.
	on bool
	// kept says that Caddy was kept from writing its line when the request came.
	kept    bool
	header  http.Header // as it arrived at the directive
	w       caddyhttp.ResponseRecorder
	body    *requestBody
	hook    *endHook
	secrets logSecrets
	written atomic.Bool
}

// beginAccessLog takes over the log lines of r, which must be the request as it came to the
// handler, with nothing removed from it. The caller must defer end, and give every
// error to serveError instead of returning it.
func beginAccessLog(logs *requestLogs, r *http.Request) *accessLog {
	ctx := r.Context()
	a := &accessLog{requestLogs: logs, r: r, ctx: ctx, secrets: logs.secrets}
	a.server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if a.server == nil || !shouldLogRequest(a.server.Logs, r.Host) {
		return a
	}
	if outer, ok := caddyhttp.GetVar(ctx, accessLogVar).(*accessLog); ok {
		// Another directive has taken the access line; it must now know our keys too.
		outer.secrets = outer.secrets.and(logs.secrets)
		a.secrets = outer.secrets
		return a
	}
	caddyhttp.SetVar(ctx, accessLogVar, a)
	a.on = true
	if skip, _ := caddyhttp.GetVar(ctx, caddyhttp.LogSkipVar).(bool); skip {
		a.on = false // nobody wants the line
		return a
	}
	if a.kept = !logs.skipsLog(a.server); a.kept {
		caddyhttp.SetVar(ctx, caddyhttp.LogSkipVar, true)
	}
	a.header = r.Header.Clone()
	a.body = &requestBody{ReadCloser: r.Body, outer: bytesRead(r.Body)}
	r.Body = a.body
	if reader, _ := caddyhttp.IdleTimeoutsFromContext(ctx); reader != nil {
		a.hook = newEndHook(reader)
	}
	return a
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
		if skip, ok := caddyhttp.GetVar(a.ctx, caddyhttp.LogSkipVar).(bool); ok && skip {
			return
		}
		caddyhttp.SetVar(a.ctx, caddyhttp.LogSkipVar, true)
	}
	a.w = serverRecorder(w)
	idle := a.body.end()
	if a.hook != nil && idle && a.hook.arm(a.write) {
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
	get := func(name string) any { return caddyhttp.GetVar(a.ctx, name) }
	duration := a.duration()

	var status, size int
	var header http.Header
	var writeErr error
	if a.w != nil {
		writeErr = a.writeError(duration)
		status, size, header = a.w.Status(), a.w.Size(), a.w.Header()
	}
	message := "handled request"
	if nop, ok := get("unhandled").(bool); ok && nop {
		message = "NOP"
	}
	level := zapcore.InfoLevel
	if status >= 500 {
		level = zapcore.ErrorLevel
	}
	if name, ok := get(caddyhttp.LogLevelVar).(string); ok {
		if l, err := zapcore.ParseLevel(name); err == nil && l >= zapcore.DebugLevel && l <= zapcore.ErrorLevel {
			level = l
		}
	}

	var fields []zap.Field
	for _, logger := range namedLoggers(a.server.Logs, a.access, a.r) {
		entry := logger.Check(level, message)
		if entry == nil {
			continue
		}
		if fields == nil {
			user := ""
			if repl, ok := a.ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
				user, _ = repl.GetString("http.auth.user.id")
			}
			fields = []zap.Field{
				a.request(),
				zap.Int("bytes_read", a.body.length()),
				zap.String("user_id", a.secrets.text(user)),
				zap.Duration("duration", duration),
				zap.Int("size", size),
				zap.Int("status", status),
				zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{
					Header:               a.secrets.header(header),
					ShouldLogCredentials: a.server.Logs.ShouldLogCredentials,
				}),
			}
			if writeErr != nil {
				fields = append(fields, zap.NamedError("write_error", writeErr))
			}
			extra, _ := a.ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
			for _, f := range extraFields(extra) {
				fields = append(fields, a.secrets.field(f))
			}
		}
		entry.Write(fields...)
	}
}

// duration is how long the request has taken so far.
func (a *accessLog) duration() time.Duration {
	start, ok := caddyhttp.GetVar(a.ctx, "start_time").(time.Time)
	if !ok {
		return 0
	}
	return time.Since(start)
}

// writeError finds, as Server.ServeHTTP does, that the response went past the write
// timeout. It ends the response's header, so that it may run only once all is handled.
func (a *accessLog) writeError(duration time.Duration) error {
	limit := time.Duration(a.server.WriteTimeout)
	if limit <= 0 || a.r.ProtoMajor != 1 || duration < limit || a.hook == nil || !a.hook.atEnd {
		return nil
	}
	err := http.NewResponseController(a.w).Flush()
	if err == nil || isAny(err, http.ErrHijacked, http.ErrNotSupported) {
		return nil
	}
	return err
}

// request is the request as Caddy logs it: as it arrived, but for its keys.
func (a *accessLog) request() zap.Field {
	header := a.header
	if header == nil {
		header = a.r.Header
	}
	method, uri, remote := a.r.Method, a.r.RequestURI, a.r.RemoteAddr
	if o, ok := a.ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		method, uri, remote = o.Method, o.RequestURI, o.RemoteAddr
	}
	s := &a.secrets
	req := &http.Request{
		Method:           s.text(method),
		RequestURI:       s.uri(uri),
		RemoteAddr:       remote,
		Proto:            a.r.Proto,
		Host:             s.text(a.r.Host),
		Header:           s.requestHeader(header),
		TransferEncoding: a.r.TransferEncoding,
	}
	if a.r.TLS != nil {
		state := *a.r.TLS
		state.ServerName = s.text(state.ServerName)
		req.TLS = &state
	}
	return zap.Object("request", caddyhttp.LoggableHTTPRequest{
		Request:              req.WithContext(varsContext(caddyhttp.GetVar(a.ctx, caddyhttp.ClientIPVarKey))),
		ShouldLogCredentials: a.server.Logs != nil && a.server.Logs.ShouldLogCredentials,
	})
}

// varsContext returns a context from which LoggableHTTPRequest takes client_ip, without
// sharing the variables of a request that may still run.
func varsContext(clientIP any) context.Context {
	return context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: clientIP})
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
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || v.Elem().Type().PkgPath() != serverPkg {
		return nil
	}
	length := v.Elem().FieldByName("Length")
	if !length.IsValid() || !length.CanAddr() || !length.CanInterface() {
		return nil
	}
	n, _ := length.Addr().Interface().(*int)
	return n
}

var serverPkg = reflect.TypeFor[caddyhttp.Server]().PkgPath()
