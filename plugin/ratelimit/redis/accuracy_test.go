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

// trial is a test run: a number of nodes that share one limit, and the load on them.
type trial struct {
	leased  bool
	nodes   int
	limit   int
	window  time.Duration
	offered float64 // offered is the number of requests, as a multiple of the limit.
	windows int     // windows is the duration of the trial.
}

func (tr trial) String() string {
	mode := "exact"
	if tr.leased {
		mode = "leased"
	}
	return fmt.Sprintf("%s/%d nodes/%d per %s/%g", mode, tr.nodes, tr.limit, tr.window, tr.offered)
}

// result is the measurement of a trial.
type result struct {
	sent, admitted, ideal int
	// most is burst + rate × time for the whole trial.
	most float64
	// over is the largest number of requests above the limit in any interval of the trial.
	over   float64
	waited float64 // waited is the share of requests that waited for Redis.
	asked  float64 // asked is the number of Redis calls per request.
}

// arrival is one request: its start, the time of its decision, and the decision.
type arrival struct {
	begun, ended time.Time
	passed       bool
}

// run sends the load at random times, and compares the result with one bucket that sees the same
// requests.
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
			t.Errorf("Redis was unreachable for %d requests: %s", s.Outage, n.redis.Stats().Problem)
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
	// Each request was charged at an unknown time between its start and its end.
	level, at := 0.0, all[0].begun
	for _, a := range all {
		if a.passed {
			level, at = max(0, level-a.begun.Sub(at).Seconds()*rate)+1, a.begun
			r.over = max(r.over, level-burst-late.Seconds()*rate)
		}
	}
	return r
}

// check fails the test if the limit was exceeded, or if fewer than atLeast of the ideal number
// were admitted.
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

// Nodes that share a limit never exceed it, however busy the machine, and admit at least half of
// it. The soak test measures all combinations.
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
	// Redis and Valkey run the same scripts, so two rows for each kind of server are enough.
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
