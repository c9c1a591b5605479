package redact

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// endHook detects that a Caddy server has finished a request: after all handlers and the server's
// own access log line, on the request's goroutine.
//
// The request's context does not show that. It ends when the client closes the connection or, over
// HTTP/2, when the response is complete, while handlers may still run and add fields to the line.
// But the last step of Server.ServeHTTP is that its IdleTimeoutReader removes the read deadline,
// if a handler has set one. So the hook replaces the connection in that reader, makes the reader
// set a deadline that never reaches the connection, and waits for its removal.
//
// The hook uses only exported names of Caddy, but this order of calls is not documented. Until it
// was observed for a protocol (see endsVerified), RequestLog.End also writes the line after the
// end of the context.
//
// The reader calls the hook under the reader's lock. That lock guards the fields, except those
// that are set before the handlers run.
type endHook struct {
	http.ResponseWriter // ResponseWriter is always nil, because a ResponseController looks only for the method SetReadDeadline.
	reader              *caddyhttp.IdleTimeoutReader
	conn                *http.ResponseController
	arming              bool
	armed               bool
	atEnd               bool
	pretended           time.Time
	set                 bool // a handler has set a deadline since the hook was installed
	log                 *RequestLog
}

// install replaces the reader's connection by the hook. It must be called on the request's
// goroutine.
func (h *endHook) install(reader *caddyhttp.IdleTimeoutReader) {
	h.reader, h.conn = reader, reader.Ctrl
	reader.Ctrl = http.NewResponseController(h)
}

// never is the deadline that the hook does not set on the connection.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// arm makes the hook write the log's line at the request's end. It reports whether the end will
// certainly be detected. No other goroutine may read the request's body meanwhile.
func (h *endHook) arm(log *RequestLog) bool {
	if h.reader == nil {
		return false
	}
	h.log, h.pretended = log, never
	if hard := h.reader.Deadline.HardDeadline; !hard.IsZero() {
		// The reader sets the earlier one of its hard deadline and the new deadline, so the new
		// one must be earlier.
		h.pretended = hard.Add(-1)
	}
	h.arming = true
	err := h.reader.SetReadDeadline(h.pretended)
	h.arming = false
	return err == nil && h.armed
}

// endsVerified records for each HTTP version (1, 2 or 3) whether a request was observed to end as
// endHook expects.
var endsVerified [4]atomic.Bool

// verified reports whether the reader will certainly call the hook at the request's end. After its
// hard deadline, a reader may not remove the deadline.
func (h *endHook) verified() bool {
	return h.reader.Deadline.HardDeadline.IsZero() && endsVerified[h.log.r.ProtoMajor&3].Load()
}

// SetReadDeadline receives the deadlines that the reader sets, in place of the connection.
func (h *endHook) SetReadDeadline(t time.Time) error {
	if h.arming {
		h.armed = t.Equal(h.pretended)
		return nil
	}
	if h.armed {
		h.armed = false
		h.atEnd = true
		h.log.write()
		h.atEnd = false
		if verified := &endsVerified[h.log.r.ProtoMajor&3]; !verified.Load() {
			verified.Store(true)
		}
		if t.IsZero() && !h.set {
			// No deadline was set on the connection, so none has to be removed. The connection may
			// serve another request by now.
			return nil
		}
	}
	h.set = h.set || !t.IsZero()
	return h.conn.SetReadDeadline(t)
}

// sync acquires and releases the reader's lock, so that the caller sees all writes made under it.
func (h *endHook) sync() {
	d := &h.reader.Deadline
	h.reader.Override(d.Timeout, d.MinRate)()
}

// requestBody tracks whether a goroutine still reads the body after its handler has returned, and
// rejects later reads. net/http allows neither.
type requestBody struct {
	io.ReadCloser
	// server is the server's count of read bytes, including those of hijacked connections; nil if
	// it is unknown.
	server *int

	mu      sync.Mutex
	count   int
	reading int
	ended   bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	b.reading++
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.reading--
	b.count += n
	b.mu.Unlock()
	return n, err
}

// end rejects further reads and reports whether no read is in progress.
func (b *requestBody) end() (idle bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	return b.reading == 0
}

// length returns the number of bytes read.
func (b *requestBody) length() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil && b.reading == 0 {
		return *b.server
	}
	return b.count
}

func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
