package management

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxLeaksWaiting bounds how many reports of leaks wait, of keys that are known, and as many of those that
	// could not be looked up yet.
	maxLeaksWaiting = 1000
	// leakTimeout bounds how long the report of a leak waits for its turn.
	leakTimeout = 5 * time.Second
	// leakRetry is after how long a report is dealt with again that the store did not take.
	leakRetry = time.Second
	// dropsLogged is how often the log tells of reports that were dropped.
	dropsLogged = time.Minute
)

// leakHandler deals with the report of a leak. It reports whether it wrote something.
type leakHandler func(ctx context.Context) (wrote bool, err error)

// leakQueue holds the reports of leaks that had no turn in time. The zero leakQueue is empty.
type leakQueue struct {
	mu sync.Mutex
	// known are of keys that are known, unchecked of others; each key waits once.
	known, unchecked []waitingLeak
	// stop ends the worker, which closes stopped at its end; nil while none runs.
	stop    context.CancelFunc
	stopped chan struct{}
	// dropped are those since logged.
	dropped int
	logged  time.Time
}

type waitingLeak struct {
	id     string
	handle leakHandler
}

// ReportLeak deals with the report of a leak of a known key as RecordLeak does: in its turn among those that others
// send, or later where none comes in time or the store does not take it.
func (m *Manager) ReportLeak(ctx context.Context, a Actor, addr netip.Addr, keyspace, id string, l Leak) {
	deal := func(ctx context.Context) (bool, error) { return m.RecordLeak(ctx, a, keyspace, id, l) }
	waiting, cancel := context.WithTimeout(ctx, leakTimeout)
	done, err := m.reports.Enter(waiting, nil, addr, false)
	cancel()
	if err != nil || !m.handleLeak(ctx, deal, done) {
		m.enqueueLeak(&m.leaks.known, keyspace+"/"+id, deal)
	}
}

// ReportUnchecked deals with the report of a leak once deal can look the key up; id names the key.
func (m *Manager) ReportUnchecked(id string, deal func(ctx context.Context) (wrote bool, err error)) {
	m.enqueueLeak(&m.leaks.unchecked, id, deal)
}

// handleLeak deals with a report, in a turn that done ends. It reports false where that must be done again.
func (m *Manager) handleLeak(ctx context.Context, deal leakHandler, done func(cost float64)) bool {
	cost := 0.0
	defer func() { done(cost) }()
	wrote, err := deal(ctx)
	if wrote {
		cost = 1
	}
	var refusal *Error
	switch {
	case err == nil:
	case errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable:
		if refusal.Status != http.StatusNotFound { // else the key was deleted just now
			m.log.Warn("a reported leak of a key could not be dealt with", "error", err)
		}
	default:
		return false
	}
	return true
}

// enqueueLeak puts a report into one of the queue's lists, and sees to it that it is worked off.
func (m *Manager) enqueueLeak(list *[]waitingLeak, id string, deal leakHandler) {
	q := &m.leaks
	q.mu.Lock()
	defer q.mu.Unlock()
	if slices.ContainsFunc(*list, func(w waitingLeak) bool { return w.id == id }) {
		return
	}
	if len(*list) >= maxLeaksWaiting {
		q.dropped++
		if time.Since(q.logged) >= dropsLogged {
			m.log.Error("more leaks of keys are reported than can be dealt with: reports were dropped; where they are of keys that leaked, they must be sent again",
				"dropped", q.dropped, "waiting", len(q.known)+len(q.unchecked))
			q.dropped, q.logged = 0, time.Now()
		}
		return
	}
	*list = append(*list, waitingLeak{id, deal})
	if q.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		q.stop, q.stopped = stop, make(chan struct{})
		go m.drainLeaks(ctx, q.stopped)
	}
}

// next takes the next report out of the queue; false where there is none.
func (q *leakQueue) next() (w waitingLeak, list *[]waitingLeak, ok bool) {
	for _, list := range []*[]waitingLeak{&q.known, &q.unchecked} {
		if len(*list) > 0 {
			w, *list = (*list)[0], (*list)[1:]
			return w, list, true
		}
	}
	return waitingLeak{}, nil, false
}

// drainLeaks deals with what waits, each in its turn, until nothing does or ctx ends.
func (m *Manager) drainLeaks(ctx context.Context, stopped chan struct{}) {
	defer close(stopped)
	q := &m.leaks
	for {
		q.mu.Lock()
		w, list, ok := q.next()
		if !ok || ctx.Err() != nil {
			if ok {
				*list = append(*list, w)
			}
			q.stop()
			q.stop = nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		done, err := m.reports.Enter(ctx, nil, netip.Addr{}, false)
		if err == nil && m.handleLeak(ctx, w.handle, done) {
			continue
		}
		q.mu.Lock()
		*list = append(*list, w)
		q.mu.Unlock()
		select {
		case <-time.After(leakRetry):
		case <-ctx.Done():
		}
	}
}

// FinishLeaks deals with the reports of leaks that wait, without further turns, until ctx ends. It drops, and logs,
// those that are left. Call it before the store is closed, while a configuration runs.
func (m *Manager) FinishLeaks(ctx context.Context) {
	q := &m.leaks
	q.mu.Lock()
	stop, stopped := q.stop, q.stopped
	q.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
	lost := 0
	for {
		q.mu.Lock()
		w, _, ok := q.next()
		q.mu.Unlock()
		if !ok {
			break
		}
		if ctx.Err() != nil || !m.handleLeak(ctx, w.handle, func(float64) {}) {
			lost++
		}
	}
	if lost > 0 {
		m.log.Error("reports of leaks were dropped at the stop: where they are of keys that leaked, they must be sent again", "dropped", lost)
	}
}
