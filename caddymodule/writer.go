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

// errEnded is returned to a handler that writes after its request was ended early.
var errEnded = errors.New("the request's API key is no longer valid")

// responseWriter records the response's status and replaces the upstream's headers by Keygate's
// when the header is sent. Another goroutine can end the request while a handler writes. Flushing,
// hijacking, deadlines and ReadFrom work as on the wrapped writer.
type responseWriter struct {
	*caddyhttp.ResponseWriterWrapper
	x      *exchange
	status int
	// wrote is the number of body bytes written. failed reports whether a write to the client
	// failed.
	wrote  int64
	failed bool
	// drains makes writes succeed after the client has left. drained counts the bytes of these writes, and gaveUp reports
	// whether there were too many or they took too long.
	drains, gaveUp bool
	drained        int64

	// mu guards the fields below, because end runs on another goroutine than the handler.
	mu      sync.Mutex
	sent    bool           // the final header was sent
	ended   gateway.Reason // ended is the reason why the request was ended early. It is Allowed if the request was not ended.
	closed  bool           // closed reports whether the handler has returned, so that the wrapped writer must not be used any more.
	left    bool           // the exchange's scratch must not be used
	refused bool           // refused reports whether the request was ended before its header was sent, so that the rejection can be written.
	conn    net.Conn
	writing int // writing counts running calls that may block on the client or use the scratch of the exchange.
	control *http.ResponseController
}

// stopped reports whether the handler must not write any more. The caller holds w.mu.
func (w *responseWriter) stopped() bool { return w.ended != gateway.Allowed && !w.refused }

// WriteHeader sends the response's header. Informational headers (1xx) may come before it.
func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		// This call may run on another goroutine than the handler's, which waits for it.
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

// begin must be called before each operation that may block on the client. Unless it returns an
// error, done must be called afterwards.
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

func (w *responseWriter) Write(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.done()
	if w.failed && w.drains {
		return w.discard(p)
	}
	n, err := w.ResponseWriter.Write(p)
	w.wrote += int64(n)
	w.failed = w.failed || err != nil
	if err != nil && w.drains {
		return w.discard(p)
	}
	return n, err
}

// ReadFrom lets the kernel copy files and sockets to the client directly, as the wrapped writer
// does.
func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.drains {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	if err := w.begin(); err != nil {
		return 0, err
	}
	defer w.done()
	n, err := w.ResponseWriterWrapper.ReadFrom(r)
	w.wrote += n
	return n, err
}

// FlushError is called by http.ResponseController.
func (w *responseWriter) FlushError() error {
	if err := w.begin(); err != nil {
		return err
	}
	defer w.done()
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if w.drains {
		w.failed, err = w.failed || err != nil && !errors.Is(err, http.ErrNotSupported), nil
	}
	return err
}

func (w *responseWriter) Flush() { _ = w.FlushError() }

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

// end stops all reading from and writing to the client. Otherwise Go's HTTP/2 client would not
// notice the canceled request while it still sends a body, and a slow client would keep a writer
// blocked. Before the header is sent, end stops only reading, so that a rejection can still be
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
	// Caddy's wrapper of the reader allows calls from another goroutine; its wrapper of the writer
	// does not.
	_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(gone)
	w.stopWriting()
}

// gone is a deadline in the past.
var gone = time.Unix(1, 0)

// stopWriting makes writes to the client fail, even if the client does not read. The caller holds
// w.mu. A handler may set a later deadline for its next chunk, so stopWriting repeats until no
// write is running.
func (w *responseWriter) stopWriting() {
	if !w.sent || w.closed {
		return
	}
	if w.control == nil {
		// If Caddy wraps the connection with idle timeouts, the deadline must be set behind that
		// wrapper.
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
// before its header was sent. In that case the caller must write the rejection, and the writer
// works again. After close, w.ended does not change.
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

// dropHeaders removes from the header of an informational response the fields that only Keygate
// may set. They are in the final response.
func (x *exchange) dropHeaders() {
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		delete(hdr, rule.Actual)
	}
	if x.checked && !x.observed && x.dec.Outcome.N > 0 {
		deleteLimitHeaders(hdr)
	}
}

// writeHeaders replaces the upstream's limit headers, caching headers and CORS headers by
// Keygate's. It is called when the response's header is sent.
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

// limitHeaders are the response headers about limits. If Keygate writes any of them, the
// upstream's are removed.
var limitHeaders = [...]string{
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Ratelimit", "Ratelimit-Policy",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
}

// deleteLimitHeaders removes the upstream's limit headers. Most responses have none.
func deleteLimitHeaders(hdr http.Header) {
	for name := range hdr {
		if (strings.HasPrefix(name, "Ratelimit") || strings.HasPrefix(name, "X-Ratelimit-")) && slices.Contains(limitHeaders[:], name) {
			delete(hdr, name)
		}
	}
}

const exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, Retry-After"

// exposeHeaders allows scripts of other origins to read the limit headers (Fetch Standard, section
// 3.3.4).
func exposeHeaders(hdr http.Header) {
	hdr["Access-Control-Expose-Headers"] = append(hdr["Access-Control-Expose-Headers"], exposed)
}
