package usage_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/usage"
)

var quiet = slog.New(slog.DiscardHandler)

func openStore(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s := teststore.SQLite(t, path, quiet)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func startTracker(t testing.TB, s usage.Store) *usage.Tracker {
	t.Helper()
	tr := usage.NewTracker("n1", quiet)
	if err := tr.Start(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	return tr
}

// count counts a request as a handler does.
func count(c *usage.Counter, r usage.Request) {
	c.Begin()
	r.Began = time.Now()
	c.Count(&r)
}

// total returns the sum and the number of the store's rows of a key, or of all keys for "".
func total(t testing.TB, s usage.Store, key string) (sum usage.Counts, rows int) {
	t.Helper()
	q := usage.Query{Keyspace: "default", Key: key, From: time.Unix(0, 0), To: time.Now().Add(24 * time.Hour)}
	if err := s.ReadUsage(t.Context(), q, func(r *usage.Row) error {
		rows++
		sum.Merge(r.Counts)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return sum, rows
}

// stuckStore is a store whose writes of usage wait, once stuck is set, until their context ends.
type stuckStore struct {
	usage.Store
	stuck   atomic.Bool
	waiting chan struct{}
}

func (s *stuckStore) WriteUsage(ctx context.Context, b *usage.Batch) error {
	if s.stuck.Load() {
		s.waiting <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.WriteUsage(ctx, b)
}

// Close cancels a write that the store does not answer, and its own write ends with its context.
func TestCloseCancelsAWrite(t *testing.T) {
	s := &stuckStore{Store: openStore(t, filepath.Join(t.TempDir(), "keygate.db")), waiting: make(chan struct{}, 2)}
	tr := startTracker(t, s)
	s.stuck.Store(true)
	count(tr.Counter("default", "acme", "key_1"), usage.Request{Status: 200})
	<-s.waiting // This value shows that the write of the tracker's loop waits.
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-s.waiting // This value shows that the write of Close waits.
		cancel()
	}()
	if err := tr.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close returned %v, want its context's error", err)
	}
}

// After Close the store holds each counted request once, although batches are written and counters
// replaced meanwhile.
func TestTrackerCountsEachOnce(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "keygate.db"))
	tr := startTracker(t, s)
	const keys, workers, each = 5, 8, 500
	stop := make(chan struct{})
	var flushing, counting sync.WaitGroup
	flushing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := tr.Flush(context.Background()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	counters := make([]*usage.Counter, keys)
	for i := range counters {
		counters[i] = tr.Counter("default", "acme", fmt.Sprint("key_", i))
	}
	for w := range workers {
		counting.Go(func() {
			for n := range each {
				c := counters[(w+n)%keys]
				if n%50 == 0 {
					// The gateway makes a new counter when it has dropped the key's state.
					c = tr.Counter("default", "acme", fmt.Sprint("key_", (w+n)%keys))
				}
				r := usage.Request{Status: 200, Credits: 2, BytesIn: 3, BytesOut: 5}
				switch n % 4 {
				case 1:
					r.Reason = gateway.RateLimited
				case 2:
					r.Status = 503
				}
				count(c, r)
			}
		})
	}
	counting.Wait()
	close(stop)
	flushing.Wait()
	before := time.Now()
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	sum, _ := total(t, s, "")
	const all = workers * each
	if sum.Requests != all || sum.Allowed != all*3/4 || sum.Rejected[gateway.RateLimited] != all/4 || sum.UpstreamErrors != all/4 ||
		sum.Credits != 2*all || sum.BytesIn != 3*all || sum.BytesOut != 5*all {
		t.Errorf("counted %+v of %d requests", sum, all)
	}
	var latencies int64
	for _, n := range sum.Latency {
		latencies += int64(n)
	}
	if latencies != sum.Allowed {
		t.Errorf("%d latencies of %d allowed requests", latencies, sum.Allowed)
	}
	if until := tr.CompleteUntil(); until.Before(before) {
		t.Errorf("CompleteUntil is only %v", until)
	}
}

// unreliable is a store in which two of three writes return an error. Of these two, it commits one write and discards the
// other.
type unreliable struct {
	usage.Store
	mu sync.Mutex
	n  int
}

var errUnconfirmed = errors.New("the connection broke")

func (f *unreliable) WriteUsage(ctx context.Context, b *usage.Batch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.n%3 == 1 {
		return errUnconfirmed // the batch was not committed
	}
	err := f.Store.WriteUsage(ctx, b)
	if f.n%3 == 2 {
		return errUnconfirmed // the batch was committed
	}
	return err
}

// A batch whose commit was not confirmed is written again, and counts once. What was counted
// meanwhile is in the next batch.
func TestTrackerUnconfirmedCommit(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "keygate.db"))
	tr := startTracker(t, &unreliable{Store: s})
	c := tr.Counter("default", "acme", "key_1")
	log := &usage.Log{Keep: 100, For: time.Hour, Clean: func(s string) string { return s }}
	const all = 50
	for range all {
		began := time.Now()
		count(c, usage.Request{Status: 200, Log: log, Method: "GET", Path: "/"})
		if err := tr.Flush(t.Context()); err != nil && !errors.Is(err, errUnconfirmed) {
			t.Fatal(err)
		} else if err != nil && tr.CompleteUntil().After(began) {
			t.Error("CompleteUntil covers a batch that may be lost")
		}
	}
	for tr.Close(t.Context()) != nil {
	}
	if sum, _ := total(t, s, "key_1"); sum.Requests != all {
		t.Errorf("counted %d, want %d", sum.Requests, all)
	}
	n := 0
	chunks, err := s.RecentRequests(t.Context(), "default", "key_1")
	for _, ch := range chunks {
		n += ch.Count
	}
	if err != nil || n != all {
		t.Errorf("the store has %d last requests (%v), want %d", n, err, all)
	}
}

// TestCompleteUntilCoversWhatIsStored checks that CompleteUntil covers a request only after the request is in the store, and
// that a restart keeps the time.
func TestCompleteUntilCoversWhatIsStored(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "keygate.db"))
	tr := startTracker(t, s)
	c := tr.Counter("default", "acme", "key_1")
	for range 200 {
		ended := time.Now()
		count(c, usage.Request{Status: 200})
		if tr.CompleteUntil().After(ended) {
			t.Fatal("CompleteUntil covers a request that was not written")
		}
		if err := tr.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if until := tr.CompleteUntil(); until.Before(ended) {
			t.Fatalf("complete until %v after a flush, a request ended at %v", until, ended)
		}
	}
	if sum, _ := total(t, s, "key_1"); sum.Requests != 200 {
		t.Errorf("counted %d", sum.Requests)
	}
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The tracker of the next process begins with the stored time.
	next := startTracker(t, s)
	if next.CompleteUntil().IsZero() || next.CompleteUntil().After(time.Now()) {
		t.Errorf("after a restart complete until %v", next.CompleteUntil())
	}
	_ = next.Close(t.Context())
}

// Close waits for a request that still runs.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &memory{}
		tr := startTracker(t, s)
		c := tr.Counter("default", "acme", "key_1")
		c.Begin()
		closed := make(chan error, 1)
		go func() { closed <- tr.Close(context.Background()) }()
		synctest.Wait() // Close waits
		if len(closed) != 0 {
			t.Fatal("Close returned before the request ended")
		}
		c.Count(&usage.Request{Status: 200})
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		if s.requests != 1 {
			t.Errorf("the store has %d requests, want 1", s.requests)
		}
	})
}

// memory is a store that only adds requests up.
type memory struct {
	usage.Store
	requests int64
}

func (*memory) UsageUntil(context.Context) (time.Time, error) { return time.Time{}, nil }

func (*memory) RollUsage(context.Context, func(string) time.Time) (bool, error) { return false, nil }

func (m *memory) WriteUsage(_ context.Context, b *usage.Batch) error {
	for _, r := range b.Rows {
		m.requests += r.Requests
	}
	return nil
}

// The last requests of a key are bounded in number, hold no key, and survive a restart.
func TestRecentRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openStore(t, path)
	tr := startTracker(t, s)
	c := tr.Counter("default", "acme", "key_1")
	log := &usage.Log{Keep: 10, For: time.Hour, Address: usage.AddressPrefix, Clean: func(s string) string {
		return strings.ReplaceAll(s, "kg_live_secret", "kg_live_…")
	}}
	n := 0
	request := func(log *usage.Log) {
		n++
		count(c, usage.Request{
			Status: 429, Reason: gateway.RateLimited, Log: log, Method: "POST", Addr: netip.MustParseAddr("192.0.2.77"),
			Path: fmt.Sprintf("/v1/%d/kg_live_secret/ü", n),
		})
	}
	for batch := range 60 {
		for range batch%7 + batch/50*20 {
			request(log)
		}
		if err := tr.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	request(log)
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path)
	chunks, err := s.RecentRequests(t.Context(), "default", "key_1")
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, ch := range chunks {
		kept += ch.Count
		if strings.Contains(string(ch.Entries), "secret") {
			t.Fatalf("a key is stored: %s", ch.Entries)
		}
	}
	if kept < log.Keep || kept > log.Keep*5 {
		t.Errorf("%d requests are kept in %d chunks, want about %d", kept, len(chunks), log.Keep)
	}
	last := string(chunks[0].Entries)
	for _, want := range []string{fmt.Sprintf(`"path":"/v1/%d/kg_live_…/%%C3%%BC"`, n), `"192.0.2.0/24"`, `"rate_limited"`, `"status":429`} {
		if !strings.Contains(last, want) {
			t.Errorf("the last one is %s, without %s", last, want)
		}
	}
	if err := s.PruneUsage(t.Context(), time.Now().Add(2*time.Hour), time.Now()); err != nil {
		t.Fatal(err)
	}
	if chunks, err = s.RecentRequests(t.Context(), "default", "key_1"); err != nil || len(chunks) != 0 {
		t.Errorf("%d chunks are left after they expired (%v)", len(chunks), err)
	}
}

// BenchmarkCount measures the cost of counting one request.
func BenchmarkCount(b *testing.B) {
	log := &usage.Log{Keep: 100, For: time.Hour, Clean: func(s string) string { return s }}
	addr := netip.MustParseAddr("192.0.2.77")
	for _, bm := range []struct {
		name string
		log  *usage.Log
	}{{"counts", nil}, {"counts and last requests", log}} {
		b.Run(bm.name, func(b *testing.B) {
			tr := usage.NewTracker("n1", quiet)
			c := tr.Counter("default", "acme", "key_1")
			r := usage.Request{Began: time.Now(), Status: 200, Credits: 1, BytesIn: 100, BytesOut: 1000, Log: bm.log, Method: "GET", Path: "/v1/things", Addr: addr}
			b.ReportAllocs()
			for b.Loop() {
				c.Begin()
				c.Count(&r)
			}
		})
	}
	b.Run("flushing each 500 ms, parallel, one key", func(b *testing.B) {
		s := openStore(b, filepath.Join(b.TempDir(), "keygate.db"))
		tr := startTracker(b, s)
		c := tr.Counter("default", "acme", "key_1")
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			r := usage.Request{Began: time.Now(), Status: 200, Log: log, Method: "GET", Path: "/v1/things", Addr: addr}
			for pb.Next() {
				c.Begin()
				c.Count(&r)
			}
		})
		b.StopTimer()
		_ = tr.Close(context.Background())
	})
}

// BenchmarkFlush measures the cost of writing the counts of 1,000 keys.
func BenchmarkFlush(b *testing.B) {
	s := openStore(b, filepath.Join(b.TempDir(), "keygate.db"))
	tr := usage.NewTracker("n1", quiet)
	log := &usage.Log{Keep: 100, For: time.Hour, Clean: func(s string) string { return s }}
	counters := make([]*usage.Counter, 1000)
	for i := range counters {
		counters[i] = tr.Counter("default", "acme", fmt.Sprintf("key_%04d", i))
	}
	if err := tr.Start(context.Background(), s); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, c := range counters {
			count(c, usage.Request{Status: 200, Log: log, Method: "GET", Path: "/v1/things"})
		}
		if err := tr.Flush(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	_ = tr.Close(context.Background())
}
