package caddymodule

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// answerRefusal answers r instead of the upstream. The site's handle_errors is asked
// first, as for any handler's error; where none of its routes writes a body, the
// keyspace's own words are sent.
func answerRefusal(w http.ResponseWriter, r *http.Request, words *refusals, ref *refusal) error {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Errors == nil || len(server.Errors.Routes) == 0 {
		words.write(w, r, ref)
		return nil
	}
	words.header(w.Header(), ref)
	held := &heldWriter{ResponseWriter: w}
	req := server.Errors.WithError(r, caddyhttp.HandlerError{
		StatusCode: words.answers[ref.reason].status,
		Err:        errors.New(ref.reason.String()),
	})
	// The routes end where they write nothing.
	end := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := server.Errors.Routes.Compile(end).ServeHTTP(held, req); err != nil {
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

// heldWriter holds the header back until a body comes.
type heldWriter struct {
	http.ResponseWriter
	status int
	sent   bool
}

func (w *heldWriter) WriteHeader(status int) {
	if !w.sent && status >= 200 {
		w.status = status
	}
}

func (w *heldWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !w.sent {
		w.sent = true
		if w.status == 0 {
			w.status = http.StatusOK
		}
		w.ResponseWriter.WriteHeader(w.status)
	}
	return w.ResponseWriter.Write(p)
}

// FlushError does nothing before a body: flushing would send the header.
func (w *heldWriter) FlushError() error {
	if !w.sent {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}
