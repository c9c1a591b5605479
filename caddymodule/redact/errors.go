package redact

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ServeError answers the request for an error that its handlers returned, as Server.ServeHTTP does: by the server's
// error routes, or with the bare status. It writes the line to the error log, without keys, and returns nil, so
// that the server logs nothing. It returns err where err is nil or there is no server. w is the innermost
// writer. Panics of error routes pass through.
func (a *RequestLog) ServeError(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil || a.server == nil {
		return err
	}
	duration := a.duration()
	err = a.secrets.err(err)

	// Error routes see the request as it arrived, except for headers, body, and keys in the query.
	if o, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r.Method, r.RemoteAddr = o.Method, o.RemoteAddr
		if a.ErrorMethod != "" {
			r.Method = a.ErrorMethod
		}
		r.RequestURI = a.URI(o.RequestURI)
		*r.URL = *o.URL
		if r.URL.RawQuery != "" && (r.RequestURI != o.RequestURI || !strings.HasSuffix(o.RequestURI, "?"+r.URL.RawQuery)) {
			r.URL.RawQuery = strings.TrimPrefix(a.secrets.uri("?"+r.URL.RawQuery), "?")
		}
	}
	status, message, fields := errorValues(err)
	fields = append([]zap.Field{zap.Duration("duration", duration)}, fields...)
	r = a.server.Errors.WithError(r, err)

	if a.server.Errors == nil || len(a.server.Errors.Routes) == 0 {
		level := zapcore.DebugLevel
		if status >= 500 {
			level = zapcore.ErrorLevel
		}
		a.logError(level, message, fields)
		w.WriteHeader(status)
		return nil
	}
	err2 := a.server.Errors.Routes.Compile(caddyhttp.HandlerFunc(bareError)).ServeHTTP(w, r)
	if err2 == nil {
		a.logError(zapcore.DebugLevel, message, fields)
		return nil
	}
	a.logError(zapcore.ErrorLevel, "error handling handler error", append([]zap.Field{
		fields[0],
		zap.String("error", a.secrets.Text(err2.Error())),
		zap.Namespace("first_error"),
		zap.String("msg", message),
	}, fields[1:]...))
	var he caddyhttp.HandlerError
	if errors.As(err, &he) {
		w.WriteHeader(he.StatusCode)
	} else {
		w.WriteHeader(http.StatusInternalServerError)
	}
	return nil
}

// bareError ends a chain of error routes of which none has answered.
func bareError(w http.ResponseWriter, r *http.Request) error {
	status := http.StatusInternalServerError
	if he, ok := r.Context().Value(caddyhttp.ErrorCtxKey).(caddyhttp.HandlerError); ok {
		status = he.StatusCode
	}
	w.WriteHeader(status)
	return nil
}

func (a *RequestLog) logError(level zapcore.Level, message string, fields []zap.Field) {
	var all []zap.Field
	for _, logger := range a.loggers(&a.logs.errors) {
		entry := logger.Check(level, message)
		if entry == nil {
			continue
		}
		if all == nil {
			all = append([]zap.Field{a.request(a.arrived)}, fields...)
		}
		entry.Write(all...)
	}
}

// errorValues returns the status, message and fields of an error's line.
func errorValues(err error) (status int, message string, fields []zap.Field) {
	he, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok {
		return http.StatusInternalServerError, err.Error(), []zap.Field{zap.Error(err)}
	}
	message = err.Error()
	if he.Err != nil {
		message = he.Err.Error()
	}
	return he.StatusCode, message, []zap.Field{
		zap.Int("status", he.StatusCode),
		zap.String("err_id", he.ID),
		zap.String("err_trace", he.Trace),
	}
}

// err returns err without keys in its text, err itself where there are none. The errors that it wraps stay.
func (s *Secrets) err(err error) error {
	text := err.Error()
	safe := s.Text(text)
	if safe == text {
		return err
	}
	if he, ok := err.(caddyhttp.HandlerError); ok && he.Err != nil { //nolint:errorlint // a wrapped one stays in its wrapper
		he.Err = s.err(he.Err)
		return he
	}
	return &cleanedError{safe, err}
}

// cleanedError shows text in place of the text of err.
type cleanedError struct {
	text string
	err  error
}

// Error implements error.
func (e *cleanedError) Error() string { return e.text }

// Is reports whether errors.Is finds target in the original, which Unwrap must not return.
func (e *cleanedError) Is(target error) bool { return errors.Is(e.err, target) }

// As does the same for errors.As.
func (e *cleanedError) As(target any) bool {
	if he, ok := target.(*caddyhttp.HandlerError); ok {
		found, ok := errors.AsType[caddyhttp.HandlerError](e.err)
		if ok {
			found.Err = errors.New(e.text)
			*he = found
		}
		return ok
	}
	return errors.As(e.err, target)
}
