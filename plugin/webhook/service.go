package webhook

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Service delivers events and publishes one-shot events. Use New to make one. It implements gateway.Watcher.
type Service struct {
	Options
	registry *webhooks.Registry
	watch    watch
	results  chan result
	// freed receives a signal when the outcome of an attempt was stored.
	freed chan struct{}

	clientsMu sync.Mutex
	// clients holds the client of each keyspace, which dials only the addresses that the keyspace may reach.
	clients map[string]*client

	mu sync.Mutex
	// running counts the attempts in progress of each webhook. total counts those of all webhooks.
	running map[string]int
	total   int
	// slow holds the webhooks whose last attempt got no response.
	slow map[string]bool

	loggedMu sync.Mutex
	// loggedAt holds the time of the last log line by failing operation.
	loggedAt map[string]time.Time

	startOnce, closeOnce sync.Once
	stop                 context.CancelFunc
	// loops claim deliveries and publish events; attempts send; writing stores the results.
	loops, attempts, writing sync.WaitGroup
}

// New returns a Service that does nothing until Start.
func New(o Options) *Service {
	if o.Store == nil || o.Manager == nil || o.Settings == nil || o.Keyspaces == nil {
		panic("webhook: Store, Manager, Settings and Keyspaces must be set")
	}
	if o.Node == "" {
		o.Node = "local"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Schedule == nil {
		o.Schedule = DefaultSchedule()
	}
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{{&o.Timeout, defaultTimeout}, {&o.Poll, defaultPoll}, {&o.Scan, defaultScan}, {&o.ScanUnused, defaultUnused}, {&o.Checkpoints, defaultCheckpoints}} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	return &Service{
		Options: o, registry: webhooks.New(o.Manager, o.Settings), watch: newWatch(), results: make(chan result, maxAttempts), freed: make(chan struct{}, 1),
		clients: map[string]*client{}, running: map[string]int{}, slow: map[string]bool{},
	}
}

// Start starts the goroutines of the Service. It does not block. If the store does not answer, a goroutine tries again.
func (s *Service) Start() {
	s.startOnce.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		s.stop = cancel
		for _, f := range []func(context.Context){s.deliverLoop, s.watchLoop, s.scanLoop} {
			s.loops.Go(func() { f(ctx) })
		}
		s.writing.Go(s.resultLoop)
	})
}

// Close stops the goroutines and returns within ctx. The store must still be open. The next Service of this node repeats
// the unfinished attempts at once.
func (s *Service) Close(ctx context.Context) error {
	s.startOnce.Do(func() {}) // A Service that was closed before it was started can't be started any more.
	if s.stop == nil {
		return nil
	}
	var err error
	s.closeOnce.Do(func() {
		s.stop()
		s.loops.Wait()
		s.attempts.Wait() // This wait is short, because the contexts of the attempts have ended.
		close(s.results)
		s.writing.Wait()
		err = s.release(ctx)
		s.closeClients()
	})
	return err
}

// release makes the unfinished deliveries of this node due.
func (s *Service) release(ctx context.Context) error {
	return s.update(ctx, func(tx webhooks.Tx) error { return tx.ReleaseDeliveries(s.Node, s.now()) })
}

// update runs f in a transaction that writes.
func (s *Service) update(ctx context.Context, f func(webhooks.Tx) error) error {
	return s.Store.Update(ctx, inRows(f))
}

// inRows returns a function that runs f with the transaction's rows of webhooks.
func inRows(f func(webhooks.Tx) error) func(management.Tx) error {
	return func(tx management.Tx) error {
		rows, err := management.Role[webhooks.Tx](tx)
		if err != nil {
			return err
		}
		return f(rows)
	}
}

// now returns the time with the precision of the store.
func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// logInterval is the shortest time between two log lines about the same failure.
const logInterval = time.Minute

// logFailure logs the failure of an operation that will be repeated, if err is not nil.
func (s *Service) logFailure(ctx context.Context, doing string, err error) {
	s.loggedMu.Lock()
	defer s.loggedMu.Unlock()
	if err == nil {
		delete(s.loggedAt, doing)
		return
	}
	if ctx.Err() == nil && time.Since(s.loggedAt[doing]) >= logInterval {
		s.markLogged(doing)
		s.Logger.Error("work on webhooks failed: it is repeated until it succeeds", "while", doing, "error", err)
	}
}

// markLogged records that a failure is logged now. The caller holds s.loggedMu.
func (s *Service) markLogged(about string) {
	if s.loggedAt == nil {
		s.loggedAt = map[string]time.Time{}
	}
	maps.DeleteFunc(s.loggedAt, func(_ string, at time.Time) bool { return time.Since(at) >= logInterval })
	s.loggedAt[about] = time.Now()
}

// pause waits for d, and reports whether ctx has not ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter returns d plus or minus up to a tenth of d, so that attempts that failed together are not repeated together.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
