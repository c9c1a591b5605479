package caddymodule

import (
	"errors"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/keygate-dev/keygate/caddymodule/redact"
)

// refuser answers rejected requests for a directive.
type refuser struct {
	refusals *refusals
	ctx      caddy.Context
	// errors holds the error routes of each *caddyhttp.Server for rejected requests.
	errors sync.Map
}

// answerRefusal answers r instead of the upstream. The site's handle_errors is asked
// first, as for any handler's error; where none of its routes answers, the
// directive's own words are sent.
func (f *refuser) answerRefusal(w http.ResponseWriter, r *http.Request, ref *refusal) error {
	words := f.refusals
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Errors == nil || len(server.Errors.Routes) == 0 {
		words.write(w, r, ref)
		return nil
	}
	words.header(w.Header(), ref)
	cause := caddyhttp.HandlerError{
		StatusCode: words.answers[ref.reason].status,
		Err:        errors.New(ref.reason.String()),
	}
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	if shared := stateOf(redact.Of(vars)); shared != nil {
		shared.rejected = cause
	}
	held := &heldWriter{ResponseWriter: w, refusal: cause.StatusCode, before: describes(w.Header())}
	req := server.Errors.WithError(r, cause)
	// The routes end where they write nothing.
	end := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := f.errorRoutes(server).Compile(end).ServeHTTP(held, req); err != nil {
		// What went wrong while the error was handled must not decide whether it is one.
		if held.sent {
			return err
		}
	}
	if !held.sent {
		words.write(w, r, ref)
	}
	return nil
}

// errorRoutes returns a server's error routes as rejected requests take them.
func (f *refuser) errorRoutes(server *caddyhttp.Server) caddyhttp.RouteList {
	if routes, ok := f.errors.Load(server); ok {
		return routes.(caddyhttp.RouteList)
	}
	routes, _, err := (&pageRoutes{f.ctx, server, nil}).guard(server.Errors.Routes)
	if err != nil {
		// Without them Keygate answers by itself.
		f.ctx.Logger().Error("the site's error routes are not used for rejected requests", zap.Error(err))
		routes = nil
	}
	f.errors.Store(server, routes)
	return routes
}

// heldWriter holds the header back until an error route answers: with a body, with another status than
// the refusal's, or with a status and what describes a body, as for HEAD. The refusal's status alone is what
// Caddy writes at the end of routes none of which answered.
type heldWriter struct {
	http.ResponseWriter
	// refusal is the refusal's status.
	refusal int
	// before is what described a body before the error routes ran.
	before int
	status int
	sent   bool
}

func (w *heldWriter) WriteHeader(status int) {
	if w.sent || status < 200 {
		return
	}
	w.status = status
	if status != w.refusal || describes(w.Header()) > w.before {
		w.send()
	}
}

func (w *heldWriter) send() {
	w.sent = true
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.ResponseWriter.WriteHeader(w.status)
}

func (w *heldWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !w.sent {
		w.send()
	}
	return w.ResponseWriter.Write(p)
}

// FlushError does nothing before an answer: flushing would send the header.
func (w *heldWriter) FlushError() error {
	if !w.sent {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// describes counts the fields of a header that describe a body or take its place.
func describes(hdr http.Header) (n int) {
	for _, name := range [...]string{"Content-Type", "Content-Length", "Location"} {
		if _, ok := hdr[name]; ok {
			n++
		}
	}
	return n
}
