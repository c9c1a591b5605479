package redis_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// trial is one row of the matrix: so many nodes that share a limit are offered so much of it.
type trial struct {
	leased  bool
	nodes   int
	limit   int
	window  time.Duration
	offered float64 // of the limit
	windows int     // how long
}

func (tr trial) String() string {
	mode := "exact"
	if tr.leased {
		mode = "leased"
	}
	return fmt.Sprintf("%s/%d nodes/%d per %s/%g", mode, tr.nodes, tr.limit, tr.window, tr.offered)
}

// result is what came of a trial.
type result struct {
	sent, admitted, ideal int
	// most is what burst + rate × time allows, over the trial as a whole.
	most float64
	// over is by how many requests the limit was exceeded in whatever interval within.
	over   float64
	waited float64 // share of requests that waited for Redis
	asked  float64 // calls per request
}

// arrival is one request: when it began, when it was decided, and how.
type arrival struct {
	begun, ended time.Time
	passed       bool
}

// run offers the load, at random times, and compares with one bucket that sees the same requests.
func (tr trial) run(t testing.TB, url string) (r result) {
	t.Helper()
	text := fmt.Sprintf("r %d/%s", tr.limit, tr.window)
	var nodes []*node
	for range tr.nodes {
		nodes = append(nodes, newNode(t, url, options{leased: tr.leased, nodes: int64(tr.nodes)}))
	}
	perNode := tr.offered * float64(tr.limit) / tr.window.Seconds() / float64(tr.nodes)
	workers := min(max(int(perNode/100), 1), 16)
	pause := time.Duration(float64(workers) / perNode * float64(time.Second))
	length := time.Duration(tr.windows) * tr.window

	var mu sync.Mutex
	var all []arrival
	var wg sync.WaitGroup
	begin := time.Now().Add(20 * time.Millisecond)
	for i, n := range nodes {
		b := n.bill(limits{key: []string{text}})
		for w := range workers {
			random := rand.New(rand.NewPCG(uint64(i), uint64(w)))
			wg.Go(func() {
				var mine []arrival
				for next := begin; ; {
					next = next.Add(time.Duration(random.ExpFloat64() * float64(pause)))
					if next.Sub(begin) >= length {
						break
					}
					time.Sleep(time.Until(next))
					bill := *b
					var o ratelimit.Outcome
					a := arrival{begun: time.Now()}
					if err := n.shared.Charge(context.Background(), a.begun, &bill, &o); err != nil {
						t.Error(err)
						return
					}
					a.ended, a.passed = time.Now(), !o.Denied
					mine = append(mine, a)
				}
				mu.Lock()
				all = append(all, mine...)
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b arrival) int { return a.begun.Compare(b.begun) })
	var stats ratelimit.SharedStats
	for _, n := range nodes {
		s := n.shared.Stats()
		if s.Outage > 0 {
			t.Errorf("Redis was away for %d requests: %s", s.Outage, n.redis.Stats().Problem)
		}
		stats.Asked += s.Asked
		stats.Waited += s.Waited
	}
	rate := float64(tr.limit) / tr.window.Seconds()
	burst := float64(tr.limit)
	r.sent = len(all)
	r.waited, r.asked = float64(stats.Waited)/float64(r.sent), float64(stats.Asked)/float64(r.sent)
	if r.sent == 0 {
		return r
	}
	var late time.Duration
	last := all[0].ended
	tokens, at := burst, all[0].begun
	for _, a := range all {
		tokens, at = min(burst, tokens+a.begun.Sub(at).Seconds()*rate), a.begun
		if tokens >= 1 {
			tokens--
			r.ideal++
		}
		if a.passed {
			r.admitted++
		}
		late = max(late, a.ended.Sub(a.begun))
		if a.ended.After(last) {
			last = a.ended
		}
	}
	r.most = burst + rate*last.Sub(all[0].begun).Seconds()
	// A request was charged at some time between its begin and its end.
	level, at := 0.0, all[0].begun
	for _, a := range all {
		if a.passed {
			level, at = max(0, level-a.begun.Sub(at).Seconds()*rate)+1, a.begun
			r.over = max(r.over, level-burst-late.Seconds()*rate)
		}
	}
	return r
}

// check holds a result to its mode's word.
func (tr trial) check(t testing.TB, r result, atLeast float64) {
	t.Helper()
	t.Logf("%-40s sent %6d admitted %6d of %6d (%.2f%%), waited %.2f%%, asked %.2f per request", tr, r.sent, r.admitted, r.ideal,
		100*float64(r.admitted)/float64(max(r.ideal, 1)), 100*r.waited, r.asked)
	if float64(r.admitted) > r.most {
		t.Errorf("%s: %d admitted, at most %.1f may be", tr, r.admitted, r.most)
	}
	if r.over > 1e-6 {
		t.Errorf("%s: over by %.2f in some interval", tr, r.over)
	}
	if float64(r.admitted) < atLeast*float64(r.ideal)-1 {
		t.Errorf("%s: %d admitted of %d", tr, r.admitted, r.ideal)
	}
}

// A few rows of the matrix; the whole is a soak test. Never more, on however busy a machine; not
// many fewer, on one that is idle.
func TestLimitsHoldOverNodes(t *testing.T) {
	t.Parallel()
	for _, tr := range []trial{
		{false, 3, 10, time.Second, 2, 3},
		{false, 5, 200, 2 * time.Second, 1.5, 1},
		{true, 3, 10, time.Second, 2, 3},
		{true, 3, 400, 2 * time.Second, 1.5, 2},
		{true, 1, 1000, 2 * time.Second, 0.9, 1},
	} {
		t.Run(tr.String(), func(t *testing.T) {
			t.Parallel()
			tr.check(t, tr.run(t, testserver.RedisURL(t)), 0.5)
		})
	}
	// The server makes little difference: two rows for each.
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		for _, leased := range []bool{false, true} {
			tr := trial{leased, 3, 100, time.Second, 1.5, 2}
			t.Run(tr.String(), func(t *testing.T) {
				t.Parallel()
				tr.check(t, tr.run(t, kind.URL(t)), 0.5)
			})
		}
	})
}
