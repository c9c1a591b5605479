package redis_test

import (
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// Nodes that share a Redis share limits of every kind.
func TestNodesShareLimits(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]limits{
		"rate of a key":          {key: []string{"r 10/h"}},
		"rate of a tenant":       {tenant: []string{"r 10/h per tenant"}},
		"rate of an address":     {address: []string{"r 10/h per address"}},
		"the smaller rate":       {key: []string{"r 1000/h", "r 10/d"}},
		"quota of a tenant":      {tenant: []string{"q 10/month"}},
		"quota of a key":         {key: []string{"q 10/day per key"}},
		"credits limit of a key": {key: []string{"l 10"}},
	} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, url string, leased bool) {
				one, two := newNode(t, url, options{leased: leased}), newNode(t, url, options{leased: leased})
				passed := 0
				for range 5 {
					passed += one.admitted(one.bill(l), 2) + two.admitted(two.bill(l), 3)
				}
				// In leased mode, a node without further requests may hold tokens until it returns
				// them.
				testkit.Eventually(t, "10 requests pass", func() bool {
					if passed < 10 {
						passed += one.admitted(one.bill(l), 1) + two.admitted(two.bill(l), 1)
					}
					return passed >= 10
				})
				passed += one.admitted(one.bill(l), 5) + two.admitted(two.bill(l), 5)
				if passed != 10 {
					t.Errorf("%d requests passed, not 10", passed)
				}
			})
		})
	}
}

// A denied request takes nothing, neither from counts in Redis nor from credits.
func TestDeniedTakesNothing(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string, leased bool) {
		n := newNode(t, url, options{leased: leased})
		b := n.bill(limits{address: []string{"r 100/h per address"}, tenant: []string{"q 50/month", "m x", "c 5 per tenant"}, key: []string{"r 3/h", "c 5"}})
		account := b.Tenant.Subject.Account()
		account.Grant(100, 0)
		b.Cost = 2
		if passed := n.admitted(b, 20); passed != 3 {
			t.Fatalf("%d passed", passed)
		}
		if held, _ := account.Held(); held != 94 {
			t.Errorf("%d credits left, not 94", held)
		}
		want := map[string]int64{"100/h;address": 97, "50/month": 44, "concurrency;tenant": 5, "3/h": 0, "concurrency": 5, "credits": 94}
		// Slots become free a moment later and, in leased mode, held amounts are returned.
		testkit.Eventually(t, "nothing but the 3 requests was taken", func() bool {
			left := n.peek(b)
			for name, w := range want {
				if left[name].Remaining != w {
					return false
				}
			}
			return len(left) == len(want)
		})
		if live := b.Key.Subject.Live(); live != 0 {
			t.Errorf("%d requests are live", live)
		}
	})
}
