package redact

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ServeError answers a request whose handlers returned err, as Server.ServeHTTP does: with the
// server's error routes, or with only the status. It writes the line to the error log, without
// keys, and returns nil, so that the server logs nothing. It returns err unchanged if err is nil
// or there is no server. w is the innermost writer. Panics of error routes pass through.
func (a *RequestLog) ServeError(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil || a.server == nil {
		return err
	}
	duration := a.duration()
	err = a.secrets.err(err)

	// Error routes get the request as it arrived, except for its headers, its body, and keys in
	// the query.
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

// bareError writes only the status, if no error route has answered.
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

// errorValues returns the status, message and fields for an error's log line.
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

// err returns an error whose text holds no keys, or err itself if its text holds none. errors.Is
// and errors.As still find the errors that err wraps.
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

// cleanedError is an error with another text.
type cleanedError struct {
	text string
	err  error
}

func (e *cleanedError) Error() string { return e.text }

// Is reports whether the original error matches target. There is no Unwrap, because it would
// return the original text.
func (e *cleanedError) Is(target error) bool { return errors.Is(e.err, target) }

// As finds target in the original error, as Is does.
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
