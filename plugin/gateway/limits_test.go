package gateway_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

func at(t time.Time) func(*gateway.Request) { return func(r *gateway.Request) { r.Now = t } }
func cost(n int64) func(*gateway.Request)   { return func(r *gateway.Request) { r.Cost = n } }

func (w *fixture) balance(tenant string) int64 {
	w.t.Helper()
	var n int64
	err := w.gw.WithCredits(context.Background(), "default", tenant, func() error {
		return w.store.View(context.Background(), func(tx management.Tx) error {
			t, err := tx.Tenant("default", tenant)
			if err == nil {
				n = t.Credits
			}
			return err
		})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestLimitsAreAllOrNothing(t *testing.T) {
	w := newFixture(t, plan("free", "rate 3/h", "quota 5/day", "credits"))
	w.tenant("acme", "free", 4)
	_, key := w.key("acme")
	w.want(gateway.Allowed, key, cost(3)) // After this request, 2 requests of the quota, 1 credit and 2 tokens of the rate are left.
	w.want(gateway.QuotaExceeded, key, cost(3))
	w.want(gateway.CreditsExhausted, key, cost(2))
	if got := w.balance("acme"); got != 1 {
		t.Errorf("balance %d, want 1", got)
	}
	w.want(gateway.Allowed, key)
	w.want(gateway.CreditsExhausted, key)
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d, want 0", got)
	}
}

// TestLimitScopes checks that the keys of one tenant share the limits per tenant, that another tenant has limits of its
// own, and that each key has its own limits per key.
func TestLimitScopes(t *testing.T) {
	w := newFixture(t, plan("shared", "rate 2/h per tenant"), plan("own", "rate 2/h"))
	w.tenant("a", "shared", 0)
	w.tenant("b", "shared", 0)
	w.tenant("c", "own", 0)
	_, a1 := w.key("a")
	_, a2 := w.key("a")
	_, b1 := w.key("b")
	_, c1 := w.key("c")
	_, c2 := w.key("c")
	w.want(gateway.Allowed, a1)
	w.want(gateway.Allowed, a2)
	w.want(gateway.RateLimited, a1)
	w.want(gateway.RateLimited, a2)
	w.want(gateway.Allowed, b1)
	for _, k := range []string{c1, c2} {
		w.want(gateway.Allowed, k)
		w.want(gateway.Allowed, k)
		w.want(gateway.RateLimited, k)
	}
}

// TestOverrides checks that a tenant's own limits replace the plan's limits of the same kind, and that a key's own limits
// apply in addition.
func TestOverrides(t *testing.T) {
	w := newFixture(t, plan("free", "rate 5/h", "quota 100/day"))
	w.tenant("acme", "free", 0)
	w.editTenant("acme", func(t *gateway.Tenant) { t.Rate = "3/h" })
	_, key := w.key("acme")
	_, tight := w.key("acme", func(k *gateway.Key) { k.Rate = "2/h" })
	_, loose := w.key("acme", func(k *gateway.Key) { k.Rate = "100/h" })
	for _, c := range []struct {
		key  string
		pass int
	}{{key, 3}, {tight, 2}, {loose, 3}} {
		now := time.Now()
		for range c.pass {
			w.want(gateway.Allowed, c.key, at(now))
		}
		w.want(gateway.RateLimited, c.key, at(now))
	}
	limit := int64(2)
	w.editKey("key_000001", func(k *gateway.Key) { k.CreditsLimit = &limit })
}

// When a limit changes, by a reload or by another plan of the tenant, the spent amount is kept.
func TestSpentIsCarriedOver(t *testing.T) {
	w := newFixture(t, plan("free", "rate 10/h", "quota 10/day"), plan("pro", "rate 20/h", "quota 20/day"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	now := time.Now()
	for range 6 {
		w.want(gateway.Allowed, key, at(now))
	}
	left := func() int {
		n := 0
		for w.check(key, at(now)) == gateway.Allowed {
			n++
		}
		return n
	}
	w.use(plan("free", "rate 8/h", "quota 8/day"), plan("pro", "rate 20/h", "quota 20/day"))
	if got := left(); got != 2 {
		t.Errorf("after lowering 10 to 8 with 6 spent, %d pass, want 2", got)
	}
	w.editTenant("acme", func(t *gateway.Tenant) { t.Plan = "pro" })
	if got := left(); got != 12 {
		t.Errorf("after moving to 20 with 8 spent, %d pass, want 12", got)
	}
	w.editTenant("acme", func(t *gateway.Tenant) { t.Plan = "free" })
	if got := left(); got != 0 {
		t.Errorf("after moving back to 8 with 20 spent, %d pass, want 0", got)
	}
}

// After a clean restart, quotas and credits are exact.
func TestCountsOutliveARestart(t *testing.T) {
	w := newFixture(t, plan("free", "quota 10/month", "quota 8/day", "credits"))
	w.tenant("acme", "free", 100)
	_, key := w.key("acme")
	now := time.Now().UTC()
	for range 5 {
		w.want(gateway.Allowed, key, at(now))
	}
	w.restart()
	if got := w.balance("acme"); got != 95 {
		t.Errorf("balance %d after a restart, want 95", got)
	}
	n := 0
	for w.check(key, at(now)) == gateway.Allowed {
		n++
	}
	if n != 3 {
		t.Errorf("%d more pass after a restart, want 3", n)
	}
}

// While requests and an app spend from one balance concurrently, it never falls below zero, and no
// credit is lost.
func TestCreditsAreExact(t *testing.T) {
	w := newFixture(t, plan("free", "credits"))
	w.tenant("acme", "free", 500)
	var keys []string
	for range 4 {
		_, k := w.key("acme")
		keys = append(keys, k)
	}
	var spent, app atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for w.check(keys[i%4]) == gateway.Allowed {
				spent.Add(1)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			err := w.gw.WithCredits(context.Background(), "default", "acme", func() error {
				return w.store.Update(context.Background(), func(tx management.Tx) error {
					return tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: "acme", Kind: "spend", Amount: -1, At: time.Now()})
				})
			})
			if err == nil {
				app.Add(1)
			}
		}
	})
	wg.Wait()
	if left := w.balance("acme"); left < 0 || left+spent.Load()+app.Load() != 500 {
		t.Errorf("%d spent by requests, %d by the app, %d left: not 500 in total", spent.Load(), app.Load(), left)
	}
}

func TestSettle(t *testing.T) {
	w := newFixture(t, plan("free", "quota 100/day", "credits"))
	w.tenant("acme", "free", 20)
	_, key := w.key("acme")
	run := func(announced, real int64) (shortfall int64) {
		var d gateway.Decision
		req := w.request(key)
		req.Cost = announced
		w.gw.Check(context.Background(), req, &d)
		if d.Reason != gateway.Allowed {
			t.Fatal(d.Reason)
		}
		shortfall = d.Settle(real)
		d.Done()
		return shortfall
	}
	run(5, 0) // Settle(0) refunds the whole cost.
	if got := w.balance("acme"); got != 20 {
		t.Errorf("after a refund: %d", got)
	}
	run(5, 8)
	if got := w.balance("acme"); got != 12 {
		t.Errorf("after an actual cost of 8: %d", got)
	}
	if s := run(5, 15); s != 3 {
		t.Errorf("shortfall %d, want 3", s)
	}
	if got := w.balance("acme"); got != 0 {
		t.Errorf("after an actual cost above the balance: %d", got)
	}
	w.want(gateway.CreditsExhausted, key)
}

// Only the first Settle counts: nothing is refunded twice, nor more than was taken.
func TestSettleTwice(t *testing.T) {
	w := newFixture(t, plan("free", "quota 100/day", "credits"))
	w.tenant("acme", "free", 20)
	_, key := w.key("acme")
	run := func(announced int64, real ...int64) {
		t.Helper()
		var d gateway.Decision
		for range 2 { // The second request uses the same Decision again.
			req := w.request(key)
			req.Cost = announced
			w.gw.Check(context.Background(), req, &d)
			if d.Reason != gateway.Allowed {
				t.Fatal(d.Reason)
			}
			for _, cost := range real {
				d.Settle(cost)
			}
			d.Done()
			d.Settle(0) // Settle after Done does nothing.
		}
	}
	for _, tt := range []struct {
		announced int64
		real      []int64
		left      int64
	}{
		{5, []int64{0, 0}, 20}, {5, []int64{0, 3}, 20}, {2, []int64{1, 0}, 18}, {1, []int64{1, 0}, 16},
		{7, []int64{7, 7}, 2}, {1, []int64{100, 0}, 0},
	} {
		if tt.left == 0 { // The first request takes all credits, so a further request in the same run would be rejected.
			var d gateway.Decision
			req := w.request(key)
			w.gw.Check(context.Background(), req, &d)
			if s := d.Settle(100); s != 98 || d.Settle(0) != 0 {
				t.Errorf("a shortfall of %d", s)
			}
			d.Done()
		} else {
			run(tt.announced, tt.real...)
		}
		if got := w.balance("acme"); got != tt.left {
			t.Errorf("announced %d, settled %d: %d left, want %d", tt.announced, tt.real, got, tt.left)
		}
	}
}

func TestConcurrency(t *testing.T) {
	w := newFixture(t, plan("free", "concurrency 2"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	var d [2]gateway.Decision
	for i := range d {
		w.gw.Check(context.Background(), w.request(key), &d[i])
		if d[i].Reason != gateway.Allowed {
			t.Fatal(d[i].Reason)
		}
	}
	w.want(gateway.ConcurrencyExceeded, key)
	// A request with NoConcurrency takes no slot.
	w.want(gateway.Allowed, key, func(r *gateway.Request) { r.NoConcurrency = true })
	d[0].Done()
	d[0].Done() // A second Done does nothing.
	w.want(gateway.Allowed, key)
	w.want(gateway.Allowed, key)
	d[1].Done()
}

// The next limiter releases a request that the former one charged.
func TestSetLimiter(t *testing.T) {
	w := newFixture(t, plan("free", "concurrency 1"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	var d gateway.Decision
	w.gw.Check(context.Background(), w.request(key), &d)
	if d.Reason != gateway.Allowed {
		t.Fatal(d.Reason)
	}
	w.gw.SetLimiter(ratelimit.NewLocal())
	w.want(gateway.ConcurrencyExceeded, key)
	d.Done()
	w.want(gateway.Allowed, key)
}

func TestPerAddress(t *testing.T) {
	w := newFixture(t, plan("free", "rate 2/h per address"))
	w.tenant("a", "free", 0)
	w.tenant("b", "free", 0)
	_, a := w.key("a")
	_, b := w.key("b")
	w.want(gateway.Allowed, a)
	w.want(gateway.Allowed, b)
	w.want(gateway.RateLimited, a)
	w.want(gateway.Allowed, a, func(r *gateway.Request) { r.Addr = gateway.Addr("192.0.2.77") })
}

// TestQuotaOfAWrongClock starts the gateway while the clock is far behind or ahead. The quota of the present day is neither
// forgotten nor frozen when the clock is right again, nor after another restart.
func TestQuotaOfAWrongClock(t *testing.T) {
	today := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
	for name, wrong := range map[string]time.Time{"behind": today.AddDate(-6, 0, 0), "ahead": today.AddDate(5, 0, 0)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newFixture(t, plan("free", "quota 5/day"))
			w.tenant("acme", "free", 0)
			_, key := w.key("acme")
			w.want(gateway.Allowed, key, at(today))
			w.want(gateway.Allowed, key, at(today))
			w.restart()
			w.want(gateway.Allowed, key, at(wrong))
			w.want(gateway.Allowed, key, at(today))
			w.restart()
			w.want(gateway.Allowed, key, at(today))
			w.want(gateway.Allowed, key, at(wrong))
			w.want(gateway.Allowed, key, at(today))
			w.want(gateway.QuotaExceeded, key, at(today))
			w.want(gateway.Allowed, key, at(today.AddDate(0, 0, 1)))
		})
	}
}
