package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// endHook learns when a Caddy server has done with a request: after all of its
// handlers and its own access line, still on the request's goroutine.
//
// The request's context does not tell. It ends when the client goes away, or, over
// HTTP/2, when the response is complete, while handlers still run and write what the line is
// made of. But the last thing that Server.ServeHTTP does is to have its
// IdleTimeoutReader undo the read deadline that a handler may have set. So the hook
// stands between that reader and the connection, pretends that a
// deadline was set, and waits for it to be undone.
//
// Its fields are guarded by the reader's lock, under which the reader calls it, apart
// from those set before the handlers run.
type endHook struct {
	http.ResponseWriter // nil: a ResponseController asks for the deadline's method alone
	reader              *caddyhttp.IdleTimeoutReader
	conn                *http.ResponseController
	arming              bool
	armed               bool
	atEnd               bool
	pretended           time.Time
	set                 bool // a deadline was set in earnest since the hook stands here
	log                 *accessLog
}

// hang puts the hook in its place. It must be called on the request's goroutine.
func (h *endHook) hang(reader *caddyhttp.IdleTimeoutReader) {
	h.reader, h.conn = reader, reader.Ctrl
	reader.Ctrl = http.NewResponseController(h)
}

// never is the deadline that is pretended. It is never set on a connection.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// arm has the log's line written at the request's end; false where that can't be promised. Nobody
// may read the request's body any more.
func (h *endHook) arm(log *accessLog) bool {
	if h.reader == nil {
		return false
	}
	h.log, h.pretended = log, never
	if hard := h.reader.Deadline.HardDeadline; !hard.IsZero() {
		// The earlier one would be set, and not ours.
		h.pretended = hard.Add(-1)
	}
	h.arming = true
	err := h.reader.SetReadDeadline(h.pretended)
	h.arming = false
	return err == nil && h.armed
}

// endsProven says by protocol (HTTP/1, 2 or 3) that this Caddy ends requests as it is thought to.
var endsProven [4]atomic.Bool

// proven says that the hook can be relied upon to be called at the request's end. Of a request that
// went past a hard deadline the reader may leave things as they are.
func (h *endHook) proven() bool {
	return h.reader.Deadline.HardDeadline.IsZero() && endsProven[h.log.r.ProtoMajor&3].Load()
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
		if proven := &endsProven[h.log.r.ProtoMajor&3]; !proven.Load() {
			proven.Store(true)
		}
		if t.IsZero() && !h.set {
			// It was only pretended, and the connection may be somebody else's by now.
			return nil
		}
	}
	h.set = h.set || !t.IsZero()
	return h.conn.SetReadDeadline(t)
}

// sync returns once the reader's lock was free: what its holder did before is then
// seen by the caller.
func (h *endHook) sync() {
	d := &h.reader.Deadline
	h.reader.Override(d.Timeout, d.MinRate)()
}

// requestBody notices whether somebody still reads the body when its handler has
// returned, and lets nobody read it later: net/http allows neither.
type requestBody struct {
	io.ReadCloser
	// outer is where the server counts the bytes; nil where that is not known.
	outer *int

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

// end refuses further reads and says whether none is under way.
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
	if b.outer != nil && b.reading == 0 {
		return *b.outer
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
