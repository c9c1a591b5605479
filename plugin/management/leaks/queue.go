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

// handler deals with the report of a leak. It reports whether it wrote something.
type handler func(ctx context.Context) (wrote bool, err error)

// queue holds the reports of leaks that had no turn in time. The zero queue is empty.
type queue struct {
	mu sync.Mutex
	// known are of keys that are known, unchecked of others; each key waits once.
	known, unchecked []report
	// stop ends the worker, which closes stopped at its end; nil while none runs.
	stop    context.CancelFunc
	stopped chan struct{}
	// dropped are those since logged.
	dropped int
	logged  time.Time
}

type report struct {
	id      string
	handler handler
}

// Report deals with the report of a leak of a known key as Record does: in its turn among those that others
// send, or later where none comes in time or the store does not take it.
func (rep *Reporter) Report(ctx context.Context, a management.Actor, addr netip.Addr, keyspace, id string, l Leak) {
	deal := func(ctx context.Context) (bool, error) { return rep.Record(ctx, a, keyspace, id, l) }
	waiting, cancel := context.WithTimeout(ctx, leakTimeout)
	done, err := rep.reports.Enter(waiting, nil, addr, false)
	cancel()
	if err != nil || !rep.handle(ctx, deal, done) {
		rep.enqueue(&rep.queue.known, keyspace+"/"+id, deal)
	}
}

// ReportUnchecked deals with the report of a leak once deal can look the key up; id names the key.
func (rep *Reporter) ReportUnchecked(id string, deal func(ctx context.Context) (wrote bool, err error)) {
	rep.enqueue(&rep.queue.unchecked, id, deal)
}

// handle deals with a report, in a turn that done ends. It reports false where that must be done again.
func (rep *Reporter) handle(ctx context.Context, deal handler, done func(cost float64)) bool {
	cost := 0.0
	defer func() { done(cost) }()
	wrote, err := deal(ctx)
	if wrote {
		cost = 1
	}
	var refusal *management.Error
	switch {
	case err == nil:
	case errors.As(err, &refusal) && refusal.Status != http.StatusServiceUnavailable:
		if refusal.Status != http.StatusNotFound { // else the key was deleted just now
			rep.log.Warn("a reported leak of a key could not be dealt with", "error", err)
		}
	default:
		return false
	}
	return true
}

// enqueue puts a report into one of the queue's lists, and sees to it that it is worked off.
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
			rep.log.Error("more leaks of keys are reported than can be dealt with: reports were dropped; where they are of keys that leaked, they must be sent again",
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

// next takes the next report out of the queue; false where there is none.
func (q *queue) next() (w report, list *[]report, ok bool) {
	for _, list := range []*[]report{&q.known, &q.unchecked} {
		if len(*list) > 0 {
			w, *list = (*list)[0], (*list)[1:]
			return w, list, true
		}
	}
	return report{}, nil, false
}

// drain deals with what waits, each in its turn, until nothing does or ctx ends.
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

// Finish deals with the reports of leaks that wait, without further turns, until ctx ends. It drops, and logs,
// those that are left. Call it before the store is closed, while a configuration runs.
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
		rep.log.Error("reports of leaks were dropped at the stop: where they are of keys that leaked, they must be sent again", "dropped", lost)
	}
}
