package usage

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// flushInterval is how often counts are written: after a crash at most this much
	// and the write itself are lost.
	flushInterval = 900 * time.Millisecond
	// recentEvery is with how many flushes the last requests are written too: they are no accounts, and
	// who asks for them has them written first.
	recentEvery = 5
	// pruneInterval is how often the store is told to drop what has expired.
	pruneInterval = 10 * time.Minute
	// writerSilence is after how long without a batch a writer is forgotten.
	writerSilence = 24 * time.Hour
	// maxBehind is how far the clock may have gone back over a restart for counting to
	// go on where it was.
	maxBehind = time.Hour
	// rollInterval is how often it is looked for hours to be added up to days, and rollPause how long others
	// have the store to themselves between one transaction of that and the next.
	rollInterval = 10 * time.Minute
	rollPause    = 200 * time.Millisecond
	// drainTimeout is how long Close waits for requests that still run.
	drainTimeout = 2 * time.Second
)

// Tracker counts for all keys, and writes what was counted. Made by NewTracker. Safe
// for concurrent use.
type Tracker struct {
	// KeepHours says for how long a keyspace's usage is kept by hour, before it is added up to
	// days. nil: DefaultHours. Not to be changed after Start.
	KeepHours func(keyspace string) time.Duration

	log  *slog.Logger
	node string

	// cut is when the newest batch was closed, in Unix nanoseconds.
	cut atomic.Int64
	// until is up to when everything is in the store, in Unix nanoseconds; 0 before it is known.
	until atomic.Int64
	// waiting is how many of all keys' last requests are not written yet.
	waiting atomic.Int64
	// open is how many requests that will be counted still run.
	open atomic.Int64

	mu sync.Mutex
	// listed are the counters that have counted since the last flush, remembering those
	// that have requests to be written.
	listed, remembering []*Counter

	// flushMu is held by whoever writes, and guards what follows.
	flushMu sync.Mutex
	store   Store
	writer  string
	seq     int64
	// pending is a batch that may or may not have been committed: until that is known, it is written
	// again as it is.
	pending *pending
	failing bool

	stop    context.CancelFunc
	running sync.WaitGroup
}

// pending is a batch with what it is made of.
type pending struct {
	Batch
	tallies []*tally
	waiting int64
}

// NewTracker returns a tracker whose counters count, and which writes nothing before
// Start. node names this process among those that share the store.
func NewTracker(node string, log *slog.Logger) *Tracker {
	return &Tracker{log: log, node: node, writer: rand.Text()}
}

// Counter returns a counter for a key. A key may have several, one after the other.
func (t *Tracker) Counter(keyspace, tenant, key string) *Counter {
	return &Counter{tracker: t, keyspace: keyspace, tenant: tenant, key: key}
}

// list has the next flush look at c; c.mu is held.
func (t *Tracker) list(c *Counter) {
	t.mu.Lock()
	t.listed = append(t.listed, c)
	t.mu.Unlock()
}

func (t *Tracker) listRecent(c *Counter) {
	t.mu.Lock()
	t.remembering = append(t.remembering, c)
	t.mu.Unlock()
}

// Start begins to write to the store. It asks the store up to when usage was complete,
// within ctx. Idempotent; after a failure it may be called again.
func (t *Tracker) Start(ctx context.Context, s Store) error {
	t.flushMu.Lock()
	defer t.flushMu.Unlock()
	if t.store != nil {
		return nil
	}
	until, err := s.UsageUntil(ctx)
	if err != nil {
		return fmt.Errorf("reading how far usage was counted: %w", err)
	}
	t.store = s
	if !until.IsZero() && time.Until(until) < maxBehind {
		t.cut.Store(max(t.cut.Load(), until.UnixNano()))
		t.until.Store(until.UnixNano())
	}
	run, cancel := context.WithCancel(context.Background())
	t.stop = cancel
	t.running.Go(func() { t.loop(run) })
	t.running.Go(func() { t.rollLoop(run) })
	return nil
}

// Close writes what was counted, after waiting shortly for requests that still run.
// What is counted later is lost. Idempotent. The store must still be open.
func (t *Tracker) Close(ctx context.Context) error {
	t.flushMu.Lock()
	stop := t.stop
	t.flushMu.Unlock()
	if stop == nil {
		return nil
	}
	for deadline := time.Now().Add(drainTimeout); t.open.Load() > 0 && time.Now().Before(deadline) && ctx.Err() == nil; {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	t.running.Wait()
	return t.Flush(ctx)
}

// CompleteUntil returns up to when everything is in the store: no request that ended before will change what
// is read from now on. The zero time before that is known.
func (t *Tracker) CompleteUntil() time.Time {
	if n := t.until.Load(); n != 0 {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

func (t *Tracker) loop(ctx context.Context) {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	var pruned time.Time
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := t.flush(ctx, n%recentEvery == 0)
		if now := time.Now(); err == nil && now.Sub(pruned) > pruneInterval {
			pruned = now
			err = t.store.PruneUsage(ctx, now, now.Add(-writerSilence))
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !t.failing {
			t.log.Error("usage cannot be written; it is kept in memory until it can", "error", err)
		}
		if err == nil && t.failing {
			t.log.Info("usage is written again")
		}
		t.failing = err != nil
	}
}

// DefaultHours is for how long usage is kept by hour.
const DefaultHours = 90 * 24 * time.Hour

// rollLoop adds old hours up to days, beside the flushes, which must not wait for it.
func (t *Tracker) rollLoop(ctx context.Context) {
	wait := time.NewTimer(rollPause)
	defer wait.Stop()
	for failed := false; ; {
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		more, err := t.roll(ctx, time.Now())
		if err != nil && !failed && ctx.Err() == nil {
			t.log.Error("old usage could not be added up from hours to days; it stays as it is, and will be tried again", "error", err)
		}
		if failed = err != nil; more && !failed {
			wait.Reset(rollPause)
		} else {
			wait.Reset(rollInterval)
		}
	}
}

func (t *Tracker) roll(ctx context.Context, now time.Time) (more bool, err error) {
	return t.store.RollUsage(ctx, func(keyspace string) time.Time {
		keep := DefaultHours
		if t.KeepHours != nil {
			keep = t.KeepHours(keyspace)
		}
		return now.Add(-keep)
	})
}

// Flush writes what was counted, and the requests that were remembered, since the last
// time. What can't be written is kept and written by a later Flush.
func (t *Tracker) Flush(ctx context.Context) error { return t.flush(ctx, true) }

// flush is Flush; all says that the requests are written too.
func (t *Tracker) flush(ctx context.Context, all bool) error {
	t.flushMu.Lock()
	defer t.flushMu.Unlock()
	if t.store == nil {
		return nil
	}
	if t.pending != nil {
		if err := t.write(ctx); err != nil {
			return err
		}
	}
	t.pending = t.collect(all)
	return t.write(ctx)
}

// write writes the pending batch.
func (t *Tracker) write(ctx context.Context) error {
	p := t.pending
	if len(p.Rows) > 0 || len(p.Chunks) > 0 {
		if err := t.store.WriteUsage(ctx, &p.Batch); err != nil {
			return err
		}
		t.seq = p.Seq
	}
	t.until.Store(p.Until.UnixNano())
	t.pending = nil
	t.waiting.Add(-p.waiting)
	for _, one := range p.tallies {
		one.release()
	}
	return nil
}

// collect closes a batch.
func (t *Tracker) collect(all bool) *pending {
	t.mu.Lock()
	now := max(time.Now().UnixNano(), t.cut.Load())
	counters, remembering := t.listed, []*Counter(nil)
	t.listed = nil
	if all {
		remembering, t.remembering = t.remembering, nil
	}
	t.cut.Store(now)
	t.mu.Unlock()

	p := &pending{Batch: Batch{Writer: t.writer, Seq: t.seq + 1, Node: t.node, Until: time.Unix(0, now).UTC()}}
	for _, c := range counters {
		first := c.take()
		p.tallies = append(p.tallies, first)
		for one := first; one != nil; one = one.older {
			p.Rows = append(p.Rows, Row{
				Keyspace: c.keyspace, Tenant: c.tenant, Key: c.key,
				Hour: time.Unix(one.hour, 0).UTC(), Counts: &one.Counts,
			})
		}
	}
	for _, c := range remembering {
		recent := c.takeRecent()
		p.waiting += int64(len(recent.entries))
		if chunk, err := recent.chunk(c); err == nil {
			p.Chunks = append(p.Chunks, chunk)
		} else {
			t.log.Error("a key's last requests cannot be written", "key_id", c.key, "error", err)
		}
		recent.release()
	}
	return p
}
