package caddymodule

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// errEnded is returned to a handler that writes after its request was ended.
var errEnded = errors.New("the request's API key is no longer valid")

// responseWriter records the response's status, replaces the upstream's headers by ours when the
// header is sent, and can be ended while a handler writes to it. Flushing, hijacking, deadlines and
// ReadFrom work as on the writer that it wraps.
type responseWriter struct {
	*caddyhttp.ResponseWriterWrapper
	x      *exchange
	status int
	// wrote is how many bytes of the body were written. failed reports whether the client did not
	// take all.
	wrote  int64
	failed bool

	// mu guards what end touches, from another goroutine than the handler's.
	mu      sync.Mutex
	sent    bool           // the final header went out
	ended   gateway.Reason // why the request was ended early, Allowed where it was not
	closed  bool           // the handler returned: the writer must not be touched
	left    bool           // nothing of the exchange's work must be touched
	refused bool           // ended before the header went out: the refusal is still to be written
	conn    net.Conn
	writing int // calls under way that may block on the client, or touch the exchange's work
	control *http.ResponseController
}

// stopped reports whether a handler must not write any more. w.mu is held.
func (w *responseWriter) stopped() bool { return w.ended != gateway.Allowed && !w.refused }

// WriteHeader implements http.ResponseWriter. Informational headers pass through.
func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		// It may be on another goroutine than the handler's, which then waits.
		w.mu.Lock()
		if w.stopped() || w.left {
			w.mu.Unlock()
			return
		}
		w.writing++
		w.mu.Unlock()
		defer w.done()
		w.x.dropHeaders()
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.mu.Lock()
	if w.sent || w.stopped() || w.left {
		w.mu.Unlock()
		return
	}
	w.sent = true
	w.writing++
	w.mu.Unlock()
	defer w.done()
	w.status = status
	w.x.writeHeaders()
	w.ResponseWriter.WriteHeader(status)
}

// begin must be called before anything that may block on the client, and done after it, unless
// begin returns an error.
func (w *responseWriter) begin() error {
	w.mu.Lock()
	sent, ended := w.sent, w.stopped()
	if !ended {
		w.writing++
	}
	w.mu.Unlock()
	if ended {
		return errEnded
	}
	if !sent {
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

func (w *responseWriter) done() {
	w.mu.Lock()
	w.writing--
	w.mu.Unlock()
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.done()
	n, err := w.ResponseWriter.Write(p)
	w.wrote += int64(n)
	w.failed = w.failed || err != nil
	return n, err
}

// ReadFrom implements io.ReaderFrom, so that files and sockets are still spliced.
func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.done()
	n, err := w.ResponseWriterWrapper.ReadFrom(r)
	w.wrote += n
	return n, err
}

// FlushError implements the interface that http.ResponseController flushes with.
func (w *responseWriter) FlushError() error {
	if err := w.begin(); err != nil {
		return err
	}
	defer w.done()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// Hijack implements http.Hijacker.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return conn, rw, err
	}
	w.mu.Lock()
	w.conn, w.sent = conn, true
	ended := w.stopped()
	w.mu.Unlock()
	if ended {
		_ = conn.Close()
	}
	return conn, rw, nil
}

// end stops all reading from and writing to the client. Otherwise a body that is still being sent
// keeps Go's HTTP/2 client from noticing that the request was cancelled, and a slow client keeps a
// writer blocked. Before the header is sent only reading stops, so that a rejection can still be
// written.
func (w *responseWriter) end(reason gateway.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != gateway.Allowed || w.closed {
		return
	}
	w.ended = reason
	if w.conn != nil {
		_ = w.conn.Close()
		return
	}
	// Of Caddy's wrappers the reader's may be asked from here, the writer's not.
	_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(gone)
	w.stopWriting()
}

// gone is a deadline in the past.
var gone = time.Unix(1, 0)

// stopWriting makes a write to a client that does not read fail. w.mu is held. The handler may set
// a later deadline for its next chunk, so stopWriting repeats until nothing is being written.
func (w *responseWriter) stopWriting() {
	if !w.sent || w.closed {
		return
	}
	if w.control == nil {
		// Where Caddy has put its idle timeouts before the connection, it is behind them.
		if _, idle := caddyhttp.IdleTimeoutsFromContext(w.x.r.Context()); idle != nil {
			w.control = idle.Ctrl
		} else {
			w.control = http.NewResponseController(w.ResponseWriter)
		}
	}
	_ = w.control.SetWriteDeadline(gone)
	if w.writing > 0 {
		time.AfterFunc(20*time.Millisecond, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.stopWriting()
		})
	}
}

// close must be called when the handler has returned. It reports whether the request was ended
// before its header was sent: then the rejection is still to be written, and the writer works
// again. After close, ended does not change.
func (w *responseWriter) close() (refuse bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.refused = w.ended != gateway.Allowed && !w.sent
	return w.refused
}

// leave must be called before the exchange's scratch is reused. It reports whether a goroutine
// still uses the scratch.
func (w *responseWriter) leave() (busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.left = true, true
	return w.writing > 0
}

// dropHeaders removes from the header of an informational response the fields that only Keygate may
// set. The final response has them.
func (x *exchange) dropHeaders() {
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		delete(hdr, rule.Actual)
	}
	if x.checked && !x.observed && x.dec.Outcome.N > 0 {
		deleteLimitHeaders(hdr)
	}
}

// writeHeaders replaces the upstream's limit headers, caching headers and CORS headers by ours,
// when the response's header is sent.
func (x *exchange) writeHeaders() {
	x.writeCacheHeaders()
	x.writeCORS()
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		if v := hdr[rule.Actual]; len(v) > 0 {
			x.actual = v[0]
			delete(hdr, rule.Actual)
		}
		if t := hdr["Trailer"]; len(t) > 0 {
			if t = stripTokens(t, func(tok string) bool { return strings.EqualFold(tok, rule.Actual) }); len(t) == 0 {
				delete(hdr, "Trailer")
			} else {
				hdr["Trailer"] = t
			}
		}
	}
	if !x.checked || x.observed || x.dec.Outcome.N == 0 {
		return
	}
	deleteLimitHeaders(hdr)
	x.dec.Outcome.WriteHeaders(hdr, x.req.Now, x.h.headers)
	if len(x.r.Header["Origin"]) > 0 {
		exposeHeaders(hdr)
	}
}

// limitHeaders are the response headers that only Keygate writes, where it writes any.
var limitHeaders = [...]string{
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Ratelimit", "Ratelimit-Policy",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
}

// deleteLimitHeaders deletes the limit headers of the upstream. Most responses have none.
func deleteLimitHeaders(hdr http.Header) {
	for name := range hdr {
		if (strings.HasPrefix(name, "Ratelimit") || strings.HasPrefix(name, "X-Ratelimit-")) && slices.Contains(limitHeaders[:], name) {
			delete(hdr, name)
		}
	}
}

const exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, Retry-After"

// exposeHeaders lets scripts of other origins read the limit headers (Fetch Standard, section
// 3.3.4).
func exposeHeaders(hdr http.Header) {
	hdr["Access-Control-Expose-Headers"] = append(hdr["Access-Control-Expose-Headers"], exposed)
}
