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

// endHook learns when a Caddy server has finished a request: after all of its handlers and its own access line, still
// on the request's goroutine.
//
// The request's context does not show that. It ends when the client goes away, or, over HTTP/2, when the
// response is complete, while handlers still run and add to the line. But the last call of
// Server.ServeHTTP makes its IdleTimeoutReader remove the read deadline that a handler may have set. So the
// hook takes the place of the connection in that reader, lets the reader set a deadline that never reaches
// the connection, and waits for its removal.
//
// It uses exported names of Caddy alone, but that order of calls is not documented. Until it was seen for a protocol
// (see endsVerified), RequestLog.End writes the line after the end of the context as well.
//
// The fields are guarded by the reader's lock, under which the reader calls the hook, apart from those that are set
// before the handlers run.
type endHook struct {
	http.ResponseWriter // nil: a ResponseController looks for the deadline's method alone
	reader              *caddyhttp.IdleTimeoutReader
	conn                *http.ResponseController
	arming              bool
	armed               bool
	atEnd               bool
	pretended           time.Time
	set                 bool // a handler has set a deadline since the hook was installed
	log                 *RequestLog
}

// install puts the hook in its place. It must be called on the request's goroutine.
func (h *endHook) install(reader *caddyhttp.IdleTimeoutReader) {
	h.reader, h.conn = reader, reader.Ctrl
	reader.Ctrl = http.NewResponseController(h)
}

// never is the deadline that does not reach the connection.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// arm has the log's line written at the request's end, and reports whether that can be promised. No other goroutine
// may be reading the request's body.
func (h *endHook) arm(log *RequestLog) bool {
	if h.reader == nil {
		return false
	}
	h.log, h.pretended = log, never
	if hard := h.reader.Deadline.HardDeadline; !hard.IsZero() {
		// The reader sets the earlier of the two.
		h.pretended = hard.Add(-1)
	}
	h.arming = true
	err := h.reader.SetReadDeadline(h.pretended)
	h.arming = false
	return err == nil && h.armed
}

// endsVerified reports by protocol (HTTP/1, 2 or 3) whether a request was seen to end as endHook expects.
var endsVerified [4]atomic.Bool

// verified reports whether the hook will certainly be called at the request's end. A reader past its hard deadline may
// leave the deadline as it is.
func (h *endHook) verified() bool {
	return h.reader.Deadline.HardDeadline.IsZero() && endsVerified[h.log.r.ProtoMajor&3].Load()
}

// SetReadDeadline stands in for the connection's.
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
			// The connection has no deadline to remove, and may serve another request by now.
			return nil
		}
	}
	h.set = h.set || !t.IsZero()
	return h.conn.SetReadDeadline(t)
}

// sync waits until the reader's lock is free, so that the caller sees the writes of its last holder.
func (h *endHook) sync() {
	d := &h.reader.Deadline
	h.reader.Override(d.Timeout, d.MinRate)()
}

// requestBody knows whether the body is still being read when its handler has returned, and rejects later reads:
// net/http allows neither.
type requestBody struct {
	io.ReadCloser
	// server is where the server counts the bytes, those of hijacked connections included; nil where that is unknown.
	server *int

	mu      sync.Mutex
	count   int
	reading int
	ended   bool
}

// Read implements io.Reader.
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

// end rejects further reads and reports whether none is in progress.
func (b *requestBody) end() (idle bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	return b.reading == 0
}

// length returns how many bytes were read.
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
