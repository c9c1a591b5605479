package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// storeHealth is what is known of the store. Reading and writing fail, and come back,
// each by itself: a full disk, or a lock of another process, keeps only from writing.
type storeHealth struct {
	// errors counts the times that the store did not answer.
	errors           atomic.Int64
	reading, writing fault
}

// fault is one way in which the store fails.
type fault struct {
	failing atomic.Bool
	// lowPriority is the latest error's text.
	last atomic.Pointer[string]
}

// probeTimeout bounds how long a store that failed is asked whether it answers again.
const probeTimeout = 2 * time.Second

// failed notes a failure and says whether it is the first of a run. That whoever asked
// went away says nothing of the store.
func (h *storeHealth) failed(f *fault, err error) (first bool) {
	if errors.Is(err, context.Canceled) {
		return false
	}
	h.errors.Add(1)
	text := err.Error()
	f.last.Store(&text)
	return !f.failing.Swap(true)
}

// allPassed says that a run of failures ended now.
func (f *fault) cleared() bool { return f.failing.Load() && f.failing.Swap(false) }

// problem returns why the store fails, "" where it does not.
func (h *storeHealth) problem() string {
	for _, f := range []*fault{&h.reading, &h.writing} {
		if p := f.last.Load(); p != nil && f.failing.Load() {
			return *p
		}
	}
	return ""
}

// degraded says that it fails.
func (h *storeHealth) degraded() bool { return h.reading.failing.Load() || h.writing.failing.Load() }

// readFailed notes that the store could not be read. It logs the first failure of a run,
// not each: known keys go on, and a flood of lines would help nobody.
func (g *Gateway) readFailed(doing string, err error) {
	if g.health.failed(&g.health.reading, err) {
		g.log.Error("the store does not answer: keys in memory go on working, everything else is refused with 503 until it does",
			"while", doing, "error", err)
	}
}

// readWorked notes that it could.
func (g *Gateway) readWorked() {
	if g.health.reading.cleared() {
		g.log.Info("the store answers again")
	}
}

// writeFailed notes that the store could not be written.
func (g *Gateway) writeFailed(doing string, err error) {
	if g.health.failed(&g.health.writing, err) {
		g.log.Error("the store cannot be written: keys go on working and are counted in memory, changes are refused with 503 until it can",
			"while", doing, "error", err)
	}
}

// writeWorked notes that it could.
func (g *Gateway) writeWorked() {
	if g.health.writing.cleared() {
		g.log.Info("the store can be written again")
	}
}

// probe asks a store that failed whether it works again, where no request does.
func (g *Gateway) probe(ctx context.Context) {
	if !g.health.degraded() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if g.health.reading.failing.Load() && g.store.Ping(ctx) == nil {
		g.readWorked()
	}
	// What could not be written is written again by the flush before; this renews the leases.
	if g.health.writing.failing.Load() && g.nothingDirty() && g.store.WriteFlush(ctx, g.node, &Flush{At: time.Now()}) == nil {
		g.writeWorked()
	}
}

// nothingDirty says that nothing waits to be written.
func (g *Gateway) nothingDirty() bool {
	g.dirtyMu.Lock()
	defer g.dirtyMu.Unlock()
	return len(g.dirty) == 0 && len(g.dirtyAddresses) == 0
}
