package redis_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// fault is a way to lose Redis, and to restore it.
type fault struct {
	lose, restore func(s *testserver.Redis, p *testserver.Proxy)
}

var faults = map[string]fault{
	"killed": {
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Kill() },
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Start() },
	},
	"stopped": {
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Pause() },
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Resume() },
	},
	"slow": {
		func(_ *testserver.Redis, p *testserver.Proxy) { p.Delay(time.Second) },
		func(_ *testserver.Redis, p *testserver.Proxy) { p.Restore() },
	},
	"cut off": {
		func(_ *testserver.Redis, p *testserver.Proxy) { p.Refuse() },
		func(_ *testserver.Redis, p *testserver.Proxy) { p.Restore() },
	},
	"out of memory": {
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Do("CONFIG", "SET", "maxmemory", "1") },
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Do("CONFIG", "SET", "maxmemory", "0") },
	},
	"without replicas": {
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Do("CONFIG", "SET", "min-replicas-to-write", "1") },
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Do("CONFIG", "SET", "min-replicas-to-write", "0") },
	},
	"busy with a script": {
		func(s *testserver.Redis, _ *testserver.Proxy) {
			s.Do("CONFIG", "SET", "lua-time-limit", "1")
			go func() { _, _ = s.Ask("EVAL", "while true do end", "0") }()
		},
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Do("SCRIPT", "KILL") },
	},
	"can't save": {
		func(s *testserver.Redis, _ *testserver.Proxy) {
			s.Do("CONFIG", "SET", "save", "3600 1")
			if err := os.RemoveAll(s.Dir()); err != nil {
				panic(err)
			}
			s.Do("BGSAVE")
			for { // The save fails in the background.
				if _, err := s.Ask("SET", "keygate:x", "y"); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		},
		func(s *testserver.Redis, _ *testserver.Proxy) { s.Do("CONFIG", "SET", "save", "") },
	},
	"silent": {
		func(_ *testserver.Redis, p *testserver.Proxy) { p.Hold() },
		func(_ *testserver.Redis, p *testserver.Proxy) { p.Restore() },
	},
}

// TestOutage loses Redis in every way of the list. While Redis is unreachable, the Outage of each bill decides and requests
// stop waiting for Redis. After the fault, the node uses Redis again.
func TestOutage(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, outagesWith)
}

func outagesWith(t *testing.T, kind testserver.RedisKind) {
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := kind.New(t)
			proxy := testserver.NewProxy(t, server.Addr())
			n := newNode(t, "redis://"+proxy.Addr(), options{timeout: 100 * time.Millisecond, nodes: 5})
			l := limits{tenant: []string{"q 1000/month"}, key: []string{"r 100/d", "c 10"}}
			b := n.bill(l)
			if passed := n.admitted(b, 5); passed != 5 {
				t.Fatalf("%d passed while Redis answers", passed)
			}
			f.lose(server, proxy)
			// The first requests notice the outage.
			testkit.Eventually(t, "the outage is noticed", func() bool {
				bill := *b
				var o ratelimit.Outcome
				if err := n.shared.Charge(context.Background(), time.Now(), &bill, &o); err != nil {
					t.Fatal(err)
				}
				n.shared.Release(&bill)
				return n.redis.Unreachable()
			})
			since := n.redis.Stats().Since
			if s := n.redis.Stats(); s.Problem == "" || s.Since.IsZero() {
				t.Errorf("the outage is not explained: %+v", s)
			}

			closed := *b
			closed.Outage = ratelimit.OutageClosed
			var o ratelimit.Outcome
			if err := n.shared.Charge(context.Background(), time.Now(), &closed, &o); !errors.Is(err, ratelimit.ErrUnavailable) {
				t.Errorf("closed: error %v", err)
			}
			open := *b
			open.Outage = ratelimit.OutageOpen
			if passed := n.admitted(&open, 200); passed != 200 {
				t.Errorf("open: %d of 200 passed", passed)
			}

			// The requests that OutageOpen allowed are counted too. So the fifth of the limit that belongs to this node is used up.
			if passed := n.admitted(b, 50); passed != 0 {
				t.Errorf("local: %d passed after the share was used up", passed)
			}
			other := n.bill(limits{key: []string{"r 100/d", "c 10"}})
			other.Key = ratelimit.Party{Subject: n.subject("k:shop:two")}
			other.Key.Lines = other.Key.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "r 100/d")})
			if passed := n.admitted(other, 50); passed != 20 {
				t.Errorf("local: %d passed, not a fifth of 100", passed)
			}

			if s := n.redis.Stats(); !s.Unreachable || s.Since != since {
				t.Errorf("the outage ended although Redis can't charge: %+v", s)
			}
			f.restore(server, proxy)
			testkit.Eventually(t, "Redis is used again", func() bool { return !n.redis.Unreachable() })
			// Requests allowed during the outage are counted in Redis afterwards.
			var peek ratelimit.Outcome
			testkit.Eventually(t, "Peek succeeds", func() bool {
				return n.shared.Peek(context.Background(), time.Now(), other, &peek) == nil && !n.redis.Unreachable()
			})
			for _, b := range []*ratelimit.Bill{other, b} {
				if passed := n.admitted(b, 100); passed != 0 {
					t.Errorf("%s: %d passed after the outage, though the bucket was empty", b.Key.Subject.ID(), passed)
				}
			}
		})
	}
}

// When Redis is lost and restored under load, no request waits much longer than the timeout, and
// only a few wait at all.
func TestRequestsDoNotWaitForRedis(t *testing.T) {
	t.Parallel()
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testserver.NewRedis(t)
			proxy := testserver.NewProxy(t, server.Addr())
			const timeout = 50 * time.Millisecond
			n := newNode(t, "redis://"+proxy.Addr(), options{timeout: timeout, nodes: 1})
			b := n.bill(limits{key: []string{"r 1000000/s"}})
			var slowest atomic.Int64
			var slow, all atomic.Int64
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
						}
						bill := *b
						var o ratelimit.Outcome
						began := time.Now()
						err := n.shared.Charge(context.Background(), began, &bill, &o)
						took := time.Since(began)
						if err != nil || o.Denied {
							t.Errorf("denied %v, error %v", o.Denied, err)
							return
						}
						all.Add(1)
						if took >= timeout {
							slow.Add(1)
						}
						for old := slowest.Load(); int64(took) > old && !slowest.CompareAndSwap(old, int64(took)); old = slowest.Load() {
						}
					}
				})
			}
			asked := func() int64 { return n.shared.Stats().Asked }
			testkit.Eventually(t, "requests ask", func() bool { return asked() > 20 })
			f.lose(server, proxy)
			testkit.Eventually(t, "the outage is noticed", n.redis.Unreachable)
			before := all.Load()
			testkit.Eventually(t, "requests go on", func() bool { return all.Load() > before+100 })
			f.restore(server, proxy)
			testkit.Eventually(t, "Redis is reachable again", func() bool { return !n.redis.Unreachable() })
			mark := asked()
			testkit.Eventually(t, "requests ask again", func() bool { return asked() > mark+20 })
			close(stop)
			wg.Wait()
			t.Logf("slowest %s, %d of %d waited for the timeout", time.Duration(slowest.Load()), slow.Load(), all.Load())
			// The bound is generous, for a busy machine; a request without a timeout would hang.
			if d := time.Duration(slowest.Load()); d > timeout+20*time.Second {
				t.Errorf("a request waited %s", d)
			}
		})
	}
}

// A node that starts while Redis is down decides requests locally, and uses Redis as soon as it
// answers.
func TestStartWithoutRedis(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t)
	server.Kill()
	n := startNode(t, server.URL(), options{nodes: 2})
	b := n.bill(limits{key: []string{"r 10/h"}})
	if passed := n.admitted(b, 10); passed != 5 {
		t.Errorf("%d passed, not half of 10", passed)
	}
	server.Start()
	testkit.Eventually(t, "Redis is used", func() bool { return !n.redis.Unreachable() })
	if _, err := n.redis.Ask(context.Background(), nil, true); err != nil {
		t.Error(err)
	}
}

// A charge that a stopped Redis runs after the request's deadline takes nothing.
func TestLateCallsAreNotCharged(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, lateCallsAreNotCharged)
}

func lateCallsAreNotCharged(t *testing.T, kind testserver.RedisKind) {
	server := kind.New(t)
	// The timeout is so long that only the answers of the stopped server are late.
	n := newNode(t, server.URL(), options{timeout: 500 * time.Millisecond})
	b := n.bill(limits{tenant: []string{"q 1000/month"}})
	passed := n.admitted(b, 10)
	server.Pause()
	for !n.redis.Unreachable() {
		passed += n.admitted(b, 1)
	}
	// A node's estimate of the server's clock is as exact as the answers are fast, so the pause is
	// longer than the timeout.
	time.Sleep(time.Second)
	server.Resume()
	testkit.Eventually(t, "Redis is used again", func() bool { return !n.redis.Unreachable() })
	// Requests that were decided without Redis are sent with the next asks. Redis must not have charged them before.
	var left int64
	for range 5 {
		passed += n.admitted(b, 1)
		var o ratelimit.Outcome
		if err := n.shared.Peek(context.Background(), time.Now(), b, &o); err != nil {
			t.Fatal(err)
		}
		if left = o.Standings[0].Remaining; left == int64(1000-passed) {
			return
		}
	}
	t.Errorf("%d left, not %d: %d were decided without Redis", left, 1000-passed, n.shared.Stats().Outage)
}
