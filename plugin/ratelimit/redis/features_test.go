package redis_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// peek returns the standings of a bill's lines, by the policies' names.
func (n *node) peek(b *ratelimit.Bill) map[string]ratelimit.Standing {
	n.t.Helper()
	var o ratelimit.Outcome
	if err := n.shared.Peek(context.Background(), time.Now(), b, &o); err != nil {
		n.t.Fatal(err)
	}
	out := map[string]ratelimit.Standing{}
	for i := range o.N {
		out[o.Standings[i].Policy.Name] = o.Standings[i]
	}
	return out
}

// Nodes count running requests together, and a slot is free for all of them when its request ends.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		one, two := newNode(t, url, options{leased: leased}), newNode(t, url, options{leased: leased})
		l := limits{tenant: []string{"c 4 per tenant"}, key: []string{"c 3"}}
		var running []*ratelimit.Bill
		start := func(n *node) bool {
			b := n.bill(l)
			o := n.charge(b)
			if !o.Denied {
				running = append(running, b)
			} else if o.Kind != ratelimit.Concurrency || o.RetryAfter() < time.Second {
				t.Errorf("denied by %s, retry after %s", o.Kind, o.RetryAfter())
			}
			return !o.Denied
		}
		if !start(one) || !start(two) || !start(one) {
			t.Fatal("fewer than 3 pass")
		}
		if start(two) || start(one) {
			t.Fatal("more than 3 pass")
		}
		one.shared.Release(running[0])
		one.shared.Release(running[0]) // A second Release does nothing.
		testkit.Eventually(t, "the slot is free for another node", func() bool { return start(two) })
		if start(one) {
			t.Error("more than 3 pass")
		}
	})
}

// The slots of a node that was killed expire. A running node renews its slots as long as their
// requests run.
func TestSlotsExpire(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, slotsExpire)
}

func slotsExpire(t *testing.T, kind testserver.RedisKind) {
	url := kind.URL(t)
	one, killed := newNode(t, url, options{}), newNode(t, url, options{})
	l := limits{key: []string{"c 2"}}
	live := one.bill(l)
	if one.charge(live).Denied || killed.charge(killed.bill(l)).Denied {
		t.Fatal("denied")
	}
	client := connect(t, url)
	key := "keygate:{shop:acme}:slots:k:shop:one"
	ends := func() map[string]float64 {
		scores, err := client.Do(context.Background(), client.B().Zrange().Key(key).Min("0").Max("-1").Withscores().Build()).AsZScores()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, s := range scores {
			out[s.Member] = s.Score
		}
		return out
	}
	before := ends()
	if len(before) != 2 {
		t.Fatalf("slots %v", before)
	}
	// To simulate the expiry of the other node's slot, the test sets the end of the slot to a time in the past.
	mine := ""
	for name := range before {
		if name[:len(one.redis.Node())] == one.redis.Node() {
			mine = name
			continue
		}
		if err := client.Do(context.Background(), client.B().Zadd().Key(key).ScoreMember().ScoreMember(1, name).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "the slot of the killed node is free", func() bool { return !one.charge(one.bill(l)).Denied })
	testkit.Eventually(t, "the slot in use is renewed", func() bool { return ends()[mine] > before[mine] })
	if !one.charge(one.bill(l)).Denied {
		t.Error("the renewed slot does not count")
	}
}

// TestLimitChanges checks that spent tokens are carried over to another limit: left = max(0, new burst − spent). Every node
// must do so, whether it knew the old limit or not, and also when the limit changes back.
func TestLimitChanges(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		one, two := newNode(t, url, options{leased: leased}), newNode(t, url, options{leased: leased})
		if one.admitted(one.bill(limits{key: []string{"r 20/d"}}), 15) != 15 {
			t.Fatal("not all passed")
		}
		testkit.Eventually(t, "held tokens are returned", func() bool {
			return two.peek(two.bill(limits{key: []string{"r 20/d"}}))["20/d"].Remaining == 5
		})
		for _, step := range []struct {
			rates string
			left  int64
		}{
			{"r 20/d", 5}, {"r 50/d", 35}, {"r 10/d", 0}, {"r 30/d burst 16", 1}, {"r 40/12h", 25}, {"r 20/d", 5},
		} {
			for i, n := range []*node{one, two} {
				// Tokens held by a node count as spent until the node returns them.
				testkit.Eventually(t, fmt.Sprintf("node %d, %s: %d left", i, step.rates, step.left), func() bool {
					for _, st := range n.peek(n.bill(limits{key: []string{step.rates}})) {
						return st.Remaining == step.left
					}
					return false
				})
			}
		}
		// The configuration has the same two rates in another order. Each rate keeps its own count.
		b, passed := two.bill(limits{key: []string{"r 1000/h", "r 20/d"}}), 0
		testkit.Eventually(t, "the remaining 5 pass", func() bool {
			passed += two.admitted(b, 10)
			return passed >= 5
		})
		if passed += two.admitted(b, 10); passed != 5 {
			t.Errorf("%d passed, not 5", passed)
		}
		testkit.Eventually(t, "both rates keep their counts", func() bool {
			left := one.peek(one.bill(limits{key: []string{"r 20/d", "r 1000/h"}}))
			return left["20/d"].Remaining == 0 && left["1000/h"].Remaining >= 995
		})
	})
}

// TestAdjust checks that a refund or an additional charge by one node counts for all nodes.
func TestAdjust(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		one, two := newNode(t, url, options{leased: leased}), newNode(t, url, options{leased: leased})
		l := limits{tenant: []string{"q 100/month", "m x"}, key: []string{"r 1000/h", "q 200/day per key"}}
		b := one.bill(l)
		account := b.Tenant.Subject.Account()
		account.Grant(30, 0)
		two.subject("t:shop:acme").Account().Grant(1000, 0)
		b.Cost = 10
		if one.charge(b).Denied {
			t.Fatal("denied")
		}
		ctx := context.Background()
		if shortfall := one.shared.Adjust(ctx, time.Now(), b, -10); shortfall != 0 {
			t.Errorf("shortfall %d", shortfall)
		}
		if held, _ := account.Held(); held != 30 {
			t.Errorf("%d credits", held)
		}
		// In leased mode, a node may hold units for a moment.
		testkit.Eventually(t, "the refund counts", func() bool {
			left := two.peek(two.bill(l))
			return left["100/month"].Remaining == 100 && left["200/day"].Remaining == 200 && left["1000/h"].Remaining == 999
		})
		b.Cost = 10
		if one.charge(b).Denied {
			t.Fatal("denied")
		}
		if shortfall := one.shared.Adjust(ctx, time.Now(), b, 95); shortfall != 75 {
			t.Errorf("shortfall %d, not 75", shortfall)
		}
		testkit.Eventually(t, "the surcharge counts", func() bool {
			left := two.peek(two.bill(l))
			return left["100/month"].Remaining == 0 && left["200/day"].Remaining == 95
		})
		if two.admitted(two.bill(limits{tenant: []string{"q 100/month"}}), 1) != 0 {
			t.Error("a request passes above the quota")
		}
	})
}

// TestReset checks that Reset refills the named limits for all nodes. A node that remembers a denial asks Redis again within
// a second.
func TestReset(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		one, two := newNode(t, url, options{leased: leased}), newNode(t, url, options{leased: leased})
		l := limits{key: []string{"r 5/d", "r 100/h", "q 7/month per key"}}
		b1, b2 := one.bill(l), two.bill(l)
		if one.admitted(b1, 5) != 5 || two.admitted(b2, 1) != 0 {
			t.Fatal("not 5 passed")
		}
		if err := one.shared.Reset(context.Background(), time.Now(), b1.Tenant.Subject, b1.Key, "5/d"); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "one limit is reset, and held amounts of the others are returned", func() bool {
			left := two.peek(b2)
			return left["5/d"].Remaining == 5 && left["100/h"].Remaining == 95 && left["7/month"].Remaining == 2
		})
		testkit.Eventually(t, "another node allows requests again", func() bool { return two.admitted(b2, 1) == 1 })
		if err := two.shared.Reset(context.Background(), time.Now(), b2.Tenant.Subject, b2.Key); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "all limits are reset", func() bool {
			for _, st := range one.peek(b1) {
				if st.Remaining != st.Limit {
					return false
				}
			}
			return true
		})
	})
}

// When Redis loses all data and scripts, nodes restore the counts that they remember.
func TestRedisLosesItsData(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		n := newNode(t, url, options{leased: leased})
		b := n.bill(limits{tenant: []string{"q 10/month"}, key: []string{"r 8/d"}})
		if n.admitted(b, 6) != 6 {
			t.Fatal("not all passed")
		}
		client := connect(t, url)
		if err := client.Do(context.Background(), client.B().Flushdb().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if err := client.Do(context.Background(), client.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		if passed := n.admitted(b, 10); passed != 2 {
			t.Errorf("%d passed, not 2", passed)
		}
	})
}

// TestClockGoesBack checks a Redis server whose clock is set back: no tokens are created, and the remaining tokens can be
// used.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, clockGoesBack)
}

func clockGoesBack(t *testing.T, kind testserver.RedisKind) {
	url := kind.URL(t)
	client := connect(t, url)
	ctx := context.Background()
	// The test gives the stored count of a 60/h bucket, of which 10 tokens are spent, a last charge one hour in the future.
	n := newNode(t, url, options{})
	b := n.bill(limits{key: []string{"r 60/h"}})
	n.admitted(b, 10)
	key := "keygate:{shop:acme}:rate:k:shop:one:0"
	stored, err := client.Do(ctx, client.B().Get().Key(key).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	var at int64
	var rest string
	if _, err := fmt.Sscanf(stored, "%d|%s", &at, &rest); err != nil {
		t.Fatal(err)
	}
	if err := client.Do(ctx, client.B().Set().Key(key).Value(fmt.Sprintf("%d|%s", at+3600e6, rest)).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	other := newNode(t, url, options{})
	if passed := other.admitted(other.bill(limits{key: []string{"r 60/h"}}), 100); passed < 50 || passed > 51 {
		t.Errorf("%d passed instead of the remaining 50", passed)
	}
}

// connect returns a separate client for the test.
func connect(t testing.TB, url string) rueidis.Client {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	option.DisableCache, option.ForceSingleClient = true, true
	client, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
