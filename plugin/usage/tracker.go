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
	// flushInterval is how often counts are written. A crash loses at most the counts of this time and of the time of a write.
	flushInterval = 900 * time.Millisecond
	// recentEvery is the number of flushes after which the last requests are written too.
	// Service.Requests writes them before it reads them.
	recentEvery = 5
	// pruneInterval is how often the store drops expired rows.
	pruneInterval = 10 * time.Minute
	// writerRetention is how long the record of a writer is kept after its last batch.
	writerRetention = 24 * time.Hour
	// maxClockStep is how far the clock may be behind the time of the last stored batch at Start.
	// Within this bound, counting continues from the batch's time.
	maxClockStep = time.Hour
	// rollInterval is how often the tracker looks for hours to combine into days. rollPause is the pause between two such
	// transactions, in which other transactions can use the store.
	rollInterval = 10 * time.Minute
	rollPause    = 200 * time.Millisecond
	// drainTimeout is how long Close waits for running requests.
	drainTimeout = 2 * time.Second
)

// Tracker counts the requests of all keys, and writes the counts. Use NewTracker to make one. Safe for concurrent use.
type Tracker struct {
	// KeepHours returns how long a keyspace's usage is kept by hour, before it is combined into days. nil: DefaultHours.
	// It must not be changed after Start.
	KeepHours func(keyspace string) time.Duration

	log  *slog.Logger
	node string

	// cut is when the newest batch was closed, in Unix nanoseconds.
	cut atomic.Int64
	// until is the time up to which all counts are in the store, in Unix nanoseconds; 0 before it is known.
	until atomic.Int64
	// waiting counts the last requests of all keys that are not written yet.
	waiting atomic.Int64
	// open counts the running requests that will be counted.
	open atomic.Int64

	mu sync.Mutex
	// listed holds the counters that have counted requests since the last flush. remembering holds the counters that have last
	// requests to write.
	listed, remembering []*Counter
	// stop ends the loops; nil before Start.
	stop context.CancelFunc

	// flushMu is held during a write, and guards the fields below.
	flushMu sync.Mutex
	store   Store
	writer  string
	seq     int64
	// pending is a batch that was sent to the store without a confirmed commit. Until the commit is known, the batch is written
	// again unchanged.
	pending *pending
	failing bool

	running sync.WaitGroup
}

// pending is a batch, and the tallies and the number of requests that it was made from.
type pending struct {
	Batch
	tallies []*tally
	waiting int64
}

// NewTracker returns a tracker that counts at once, and writes from Start on. node names this process among those that
// share the store.
func NewTracker(node string, log *slog.Logger) *Tracker {
	return &Tracker{log: log, node: node, writer: rand.Text()}
}

// Counter returns a counter for a key. A key may have several, one after the other.
func (t *Tracker) Counter(keyspace, tenant, key string) *Counter {
	return &Counter{tracker: t, keyspace: keyspace, tenant: tenant, key: key}
}

// list makes the next flush collect c. The caller holds c.mu.
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

// Start starts to write to the store. It first reads, within ctx, up to which time the stored
// usage is complete. Idempotent; it may be called again after a failure.
func (t *Tracker) Start(ctx context.Context, s Store) error {
	t.flushMu.Lock()
	defer t.flushMu.Unlock()
	if t.store != nil {
		return nil
	}
	until, err := s.UsageUntil(ctx)
	if err != nil {
		return fmt.Errorf("reading up to when usage was counted: %w", err)
	}
	t.store = s
	if !until.IsZero() && time.Until(until) < maxClockStep {
		t.cut.Store(max(t.cut.Load(), until.UnixNano()))
		t.until.Store(until.UnixNano())
	}
	run, cancel := context.WithCancel(context.Background())
	t.mu.Lock()
	t.stop = cancel
	t.mu.Unlock()
	t.running.Go(func() { t.loop(run) })
	t.running.Go(func() { t.rollLoop(run) })
	return nil
}

// Close waits at most drainTimeout for running requests, and writes all counts. Later counts are
// lost. Idempotent. The store must still be open.
func (t *Tracker) Close(ctx context.Context) error {
	// A write to a store that does not answer keeps flushMu locked until stop cancels the write.
	t.mu.Lock()
	stop := t.stop
	t.mu.Unlock()
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

// CompleteUntil returns the time up to which all counts are in the store. Requests that ended before it will not change any
// report. It returns the zero time as long as that time is unknown.
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
			err = t.store.PruneUsage(ctx, now, now.Add(-writerRetention))
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !t.failing {
			t.log.Error("usage counts cannot be written to the store: they stay in memory until it accepts them", "error", err)
		}
		if err == nil && t.failing {
			t.log.Info("usage counts are written to the store again")
		}
		t.failing = err != nil
	}
}

// DefaultHours is how long hourly usage is kept by default.
const DefaultHours = 90 * 24 * time.Hour

// rollLoop combines old hours into days. It is separate from the flushes, which must not wait for it.
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
			t.log.Error("old hourly usage could not be combined into days: it stays hourly, and the gateway retries", "error", err)
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

// Flush writes the counts and the last requests since the last Flush. If the write fails, a later Flush writes them.
func (t *Tracker) Flush(ctx context.Context) error { return t.flush(ctx, true) }

// flush does the work of Flush, but writes the last requests only if all is true.
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

// collect makes a batch of the counts since the last batch. If all is true, the batch also has the last requests.
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
			t.log.Error("a key's last requests could not be encoded, and are lost", "key_id", c.key, "error", err)
		}
		recent.release()
	}
	return p
}
