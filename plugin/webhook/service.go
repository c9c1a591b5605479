package webhook

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

// Service delivers events and announces those that happen by themselves. Make one with New. It
// implements gateway.Watcher.
type Service struct {
	Options
	watch   watch
	results chan result
	// freed receives when it was written down how an attempt ended.
	freed chan struct{}

	clientsMu sync.Mutex
	// clients are the keyspaces', each for the addresses that it may reach.
	clients map[string]*client

	mu sync.Mutex
	// running is how many attempts each webhook has now, total all of them.
	running map[string]int
	total   int
	// slow are webhooks whose last attempt got no answer.
	slow map[string]bool

	saidMu sync.Mutex
	// said is when it was last logged what goes wrong, by what was being done.
	said map[string]time.Time

	startOnce, closeOnce sync.Once
	stop                 context.CancelFunc
	// loops take and announce; attempts send; writing ends with results.
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
	}{{&o.Timeout, defaultTimeout}, {&o.Poll, defaultPoll}, {&o.Scan, defaultScan}, {&o.ScanUnused, defaultUnused}, {&o.Heads, defaultHeads}} {
		if *d.to <= 0 {
			*d.to = d.def
		}
	}
	return &Service{
		Options: o, watch: newWatch(), results: make(chan result, inAll), freed: make(chan struct{}, 1),
		clients: map[string]*client{}, running: map[string]int{}, slow: map[string]bool{},
	}
}

// Start begins. It does not block; what the store does not answer is asked for again.
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

// Close ends what is under way; attempts that did not end are made again by the next
// Service of this node, at once. It returns within ctx, before the store may be closed.
func (s *Service) Close(ctx context.Context) error {
	s.startOnce.Do(func() {}) // never started: it never will be
	if s.stop == nil {
		return nil
	}
	var err error
	s.closeOnce.Do(func() {
		s.stop()
		s.loops.Wait()
		s.attempts.Wait() // soon: their contexts have ended
		close(s.results)
		s.writing.Wait()
		err = s.release(ctx)
		s.closeClients()
	})
	return err
}

// release makes what this node took, and did not end, due.
func (s *Service) release(ctx context.Context) error {
	return s.Store.Update(ctx, func(tx management.Tx) error { return tx.ReleaseDeliveries(s.Node, s.now()) })
}

// now is the time as the store keeps it.
func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// sayEvery is how often it is said that the same goes wrong, while it does.
const sayEvery = time.Minute

// failed logs what went wrong in doing something that will be done again, where err is not nil.
func (s *Service) failed(ctx context.Context, doing string, err error) {
	s.saidMu.Lock()
	defer s.saidMu.Unlock()
	if err == nil {
		delete(s.said, doing)
		return
	}
	if ctx.Err() == nil && time.Since(s.said[doing]) >= sayEvery {
		s.say(doing)
		s.Logger.Error("webhooks: the store did not take or give what it was asked; it will be asked again", "while", doing, "error", err)
	}
}

// say notes that something is logged now. s.saidMu is held.
func (s *Service) say(about string) {
	if s.said == nil {
		s.said = map[string]time.Time{}
	}
	maps.DeleteFunc(s.said, func(_ string, at time.Time) bool { return time.Since(at) >= sayEvery })
	s.said[about] = time.Now()
}

// pause returns when d has passed, or ctx ends; false then.
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

// jitter returns d, a tenth more or less, so that what failed together is not tried together.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
