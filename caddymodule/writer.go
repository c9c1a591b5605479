package caddymodule

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// errEnded is what a handler gets that goes on writing after its request was ended.
var errEnded = errors.New("the request's API key is no longer valid")

// responseWriter learns the response's status, puts our headers in place of the
// upstream's when the header goes out, and can be ended while a handler writes to it.
// Flushing, hijacking, deadlines and ReadFrom work as on the writer it wraps.
type responseWriter struct {
	*caddyhttp.ResponseWriterWrapper
	x      *exchange
	status int
	// wrote is how much of the body was written, and failed says that the client did not take all.
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

// stopped says, mu being held, that a handler must not write any more.
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

// begin comes before whatever may block on the client; done must follow where it
// returns no error.
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

// FlushError is what http.ResponseController flushes by.
func (w *responseWriter) FlushError() error {
	if err := w.begin(); err != nil {
		return err
	}
	defer w.done()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// Hijack is what http.ResponseController hijacks by.
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

// end makes whoever reads from or writes to the client stop: a body still being sent
// keeps Go's HTTP/2 client from seeing that the request was cancelled, and a slow client keeps a
// writer blocked. Before the header went out only reading stops, so that a
// refusal can still be written.
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

// gone is a deadline that has gone by.
var gone = time.Unix(1, 0)

// stopWriting, mu being held, makes a write to a client that does not read fail. What
// writes may set another deadline after this one, for its next chunk: so it is set again
// until nothing is being written.
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

// close says that the handler has returned. It reports whether the request was ended
// before its header went out: the refusal is then still to be written, on a writer that
// works again. From then on ended does not change.
func (w *responseWriter) close() (refuse bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.refused = w.ended != gateway.Allowed && !w.sent
	return w.refused
}

// leave says that the exchange's work goes to another request. It reports whether
// somebody is still at it.
func (w *responseWriter) leave() (busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.left = true, true
	return w.writing > 0
}
