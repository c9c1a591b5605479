package leaks

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

const (
	// maxLeaksWaiting bounds the waiting reports of known keys, and those of keys that could not
	// be looked up yet.
	maxLeaksWaiting = 1000
	// leakTimeout bounds how long a report waits for its turn before it is queued.
	leakTimeout = 5 * time.Second
	// leakRetry is the pause before a report is handled again after the store failed.
	leakRetry = time.Second
	// dropsLogged is the shortest time between two log lines about dropped reports.
	dropsLogged = time.Minute
)

// handler handles a report, and reports whether it wrote anything.
type handler func(ctx context.Context) (wrote bool, err error)

// queue holds the reports that got no turn in time. The zero queue is empty.
type queue struct {
	mu sync.Mutex
	// known holds reports of known keys, and unchecked holds reports of keys that were not looked up yet. Each list holds a key
	// at most once.
	known, unchecked []report
	// stop ends the worker, which then closes stopped. Both are nil while no worker runs.
	stop    context.CancelFunc
	stopped chan struct{}
	// dropped counts the dropped reports since the last log line about them.
	dropped int
	logged  time.Time
}

type report struct {
	id      string
	handler handler
}

// Report handles a report of a known key as Record does. It waits for its turn among the reports
// of all clients. If no turn comes in time or the store fails, a worker handles the report later.
func (rep *Reporter) Report(ctx context.Context, a management.Actor, addr netip.Addr, keyspace, id string, l Leak) {
	deal := func(ctx context.Context) (bool, error) { return rep.Record(ctx, a, keyspace, id, l) }
	waiting, cancel := context.WithTimeout(ctx, leakTimeout)
	done, err := rep.reports.Enter(waiting, nil, addr, false)
	cancel()
	if err != nil || !rep.handle(ctx, deal, done) {
		rep.enqueue(&rep.queue.known, keyspace+"/"+id, deal)
	}
}

// ReportUnchecked queues a report of a key that could not be looked up. deal looks the key up and
// handles the report. id names the key.
func (rep *Reporter) ReportUnchecked(id string, deal func(ctx context.Context) (wrote bool, err error)) {
	rep.enqueue(&rep.queue.unchecked, id, deal)
}

// handle handles a report, and ends its turn by done. It returns false if the report must be
// handled again.
func (rep *Reporter) handle(ctx context.Context, deal handler, done func(cost float64)) bool {
	cost := 0.0
	defer func() { done(cost) }()
	wrote, err := deal(ctx)
	if wrote {
		cost = 1
	}
	var rejected *management.Error
	switch {
	case err == nil:
	case errors.As(err, &rejected) && rejected.Status != http.StatusServiceUnavailable:
		if rejected.Status != http.StatusNotFound { // A key that is not found was deleted just now, which needs no warning.
			rep.log.Warn("a reported leak of a key could not be handled: revoke the key if it leaked", "error", err)
		}
	default:
		return false
	}
	return true
}

// enqueue adds a report to one of the queue's lists, and starts the worker if none runs.
func (rep *Reporter) enqueue(list *[]report, id string, deal handler) {
	q := &rep.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if slices.ContainsFunc(*list, func(w report) bool { return w.id == id }) {
		return
	}
	if len(*list) >= maxLeaksWaiting {
		q.dropped++
		if time.Since(q.logged) >= dropsLogged {
			rep.log.Error("too many leaked keys were reported at once, so some reports were dropped: their senders must send them again",
				"dropped", q.dropped, "waiting", len(q.known)+len(q.unchecked))
			q.dropped, q.logged = 0, time.Now()
		}
		return
	}
	*list = append(*list, report{id, deal})
	if q.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		q.stop, q.stopped = stop, make(chan struct{})
		go rep.drain(ctx, q.stopped)
	}
}

// next removes the next report from the queue and returns it with its list; false for an empty
// queue.
func (q *queue) next() (w report, list *[]report, ok bool) {
	for _, list := range []*[]report{&q.known, &q.unchecked} {
		if len(*list) > 0 {
			w, *list = (*list)[0], (*list)[1:]
			return w, list, true
		}
	}
	return report{}, nil, false
}

// drain handles the waiting reports, each in its turn, until the queue is empty or ctx ends.
func (rep *Reporter) drain(ctx context.Context, stopped chan struct{}) {
	defer close(stopped)
	q := &rep.queue
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
		done, err := rep.reports.Enter(ctx, nil, netip.Addr{}, false)
		if err == nil && rep.handle(ctx, w.handler, done) {
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

// Finish handles the waiting reports, without turns, until ctx ends. It drops the rest and logs
// how many. Call it before the store is closed, while a configuration is active.
func (rep *Reporter) Finish(ctx context.Context) {
	q := &rep.queue
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
		if ctx.Err() != nil || !rep.handle(ctx, w.handler, func(float64) {}) {
			lost++
		}
	}
	if lost > 0 {
		rep.log.Error("some reports of leaked keys were dropped when the gateway stopped: their senders must send them again", "dropped", lost)
	}
}
