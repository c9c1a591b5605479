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

// peek returns where the lines of a bill stand, by name.
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

// Running requests are counted over all nodes, and free a slot when they end.
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
				t.Errorf("refused for %s, retry after %s", o.Kind, o.RetryAfter())
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
		one.shared.Release(running[0]) // does nothing
		testkit.Eventually(t, "the slot is free for another node", func() bool { return start(two) })
		if start(one) {
			t.Error("more than 3 pass")
		}
	})
}

// A node that is gone without a word holds its slots for a while, and one that runs renews
// them for as long as its requests run.
func TestSlotsExpire(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, slotsExpire)
}

func slotsExpire(t *testing.T, kind testserver.RedisKind) {
	url := kind.URL(t)
	one, gone := newNode(t, url, options{}), newNode(t, url, options{})
	l := limits{key: []string{"c 2"}}
	live := one.bill(l)
	if one.charge(live).Denied || gone.charge(gone.bill(l)).Denied {
		t.Fatal("refused")
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
	// As if the other node's had lasted for as long as one does.
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
	testkit.Eventually(t, "the slot of the node that is gone is free", func() bool { return !one.charge(one.bill(l)).Denied })
	testkit.Eventually(t, "the slot in use is renewed", func() bool { return ends()[mine] > before[mine] })
	if one.charge(one.bill(l)).Denied == false {
		t.Error("the renewed slot is not counted")
	}
}

// What was spent is carried over to another limit: left = max(0, new size − spent). On every node, whether
// it saw the old limit or not, and back again.
func TestLimitChanges(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		one, two := newNode(t, url, options{leased: leased}), newNode(t, url, options{leased: leased})
		if one.admitted(one.bill(limits{key: []string{"r 20/d"}}), 15) != 15 {
			t.Fatal("not all passed")
		}
		testkit.Eventually(t, "what was held is given back", func() bool {
			return two.peek(two.bill(limits{key: []string{"r 20/d"}}))["20/d"].Remaining == 5
		})
		for _, step := range []struct {
			rates string
			left  int64
		}{
			{"r 20/d", 5}, {"r 50/d", 35}, {"r 10/d", 0}, {"r 30/d burst 16", 1}, {"r 40/12h", 25}, {"r 20/d", 5},
		} {
			for i, n := range []*node{one, two} {
				// What a node holds ahead is spent until it comes back.
				testkit.Eventually(t, fmt.Sprintf("node %d, %s: %d left", i, step.rates, step.left), func() bool {
					for _, st := range n.peek(n.bill(limits{key: []string{step.rates}})) {
						return st.Remaining == step.left
					}
					return false
				})
			}
		}
		// Of two, each keeps its own, in whatever order.
		b, passed := two.bill(limits{key: []string{"r 1000/h", "r 20/d"}}), 0
		testkit.Eventually(t, "the five that are left pass", func() bool {
			passed += two.admitted(b, 10)
			return passed >= 5
		})
		if passed += two.admitted(b, 10); passed != 5 {
			t.Errorf("%d passed, not 5", passed)
		}
		testkit.Eventually(t, "both count what they did", func() bool {
			left := one.peek(one.bill(limits{key: []string{"r 20/d", "r 1000/h"}}))
			return left["20/d"].Remaining == 0 && left["1000/h"].Remaining >= 995
		})
	})
}

// What is given back, and what costs more than was thought, is counted for all nodes.
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
			t.Fatal("refused")
		}
		ctx := context.Background()
		if lack := one.shared.Adjust(ctx, time.Now(), b, -10); lack != 0 {
			t.Errorf("lack %d", lack)
		}
		if held, _ := account.Held(); held != 30 {
			t.Errorf("%d credits", held)
		}
		// Leased, some may be held for a moment.
		testkit.Eventually(t, "the refund counts", func() bool {
			left := two.peek(two.bill(l))
			return left["100/month"].Remaining == 100 && left["200/day"].Remaining == 200 && left["1000/h"].Remaining == 999
		})
		b.Cost = 10
		if one.charge(b).Denied {
			t.Fatal("refused")
		}
		if lack := one.shared.Adjust(ctx, time.Now(), b, 95); lack != 75 {
			t.Errorf("lack %d, not 75", lack)
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

// Reset makes new what is named, everywhere; a node that remembers a refusal soon hears of it.
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
		testkit.Eventually(t, "one is reset, and what is held of others given back", func() bool {
			left := two.peek(b2)
			return left["5/d"].Remaining == 5 && left["100/h"].Remaining == 95 && left["7/month"].Remaining == 2
		})
		testkit.Eventually(t, "another node hears of it", func() bool { return two.admitted(b2, 1) == 1 })
		if err := two.shared.Reset(context.Background(), time.Now(), b2.Tenant.Subject, b2.Key); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "all are as new", func() bool {
			for _, st := range one.peek(b1) {
				if st.Remaining != st.Limit {
					return false
				}
			}
			return true
		})
	})
}

// Redis forgets everything: nodes remember what they know of it.
func TestRedisForgets(t *testing.T) {
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

// A server whose clock is behind what it was mints no tokens, and those that are there can be used.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, clockGoesBack)
}

func clockGoesBack(t *testing.T, kind testserver.RedisKind) {
	url := kind.URL(t)
	client := connect(t, url)
	ctx := context.Background()
	// A bucket of 60/h that was last charged an hour from now, with 10 tokens spent.
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
		t.Errorf("%d passed, not the 50 that were left", passed)
	}
}

// connect returns a client of the test's own.
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
