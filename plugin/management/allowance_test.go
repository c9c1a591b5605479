package management_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// newConfinedFixture returns a fixture whose tenant acme may have maxKeys keys with these limits per key, and an actor of that
// tenant.
func newConfinedFixture(t *testing.T, maxKeys int, limits ...*ratelimit.Policy) (*fixture, management.Actor) {
	t.Helper()
	w := newFixture(t)
	plan := w.current().Keyspaces["default"].Plans["free"]
	plan.MaxKeys, plan.Limits = maxKeys, limits
	w.tenant("acme", "free")
	confined := ada
	confined.Tenant = "acme"
	return w, confined
}

func rate(t *testing.T, text string) *ratelimit.Policy {
	t.Helper()
	return testkit.Must[*ratelimit.Policy](t)(ratelimit.ParseRate(text))
}

func quota(t *testing.T, text string) *ratelimit.Policy {
	t.Helper()
	return testkit.Must[*ratelimit.Policy](t)(ratelimit.ParseQuota(text))
}

// A tenant's own token gets no fresh limits per key by deleting a key and creating another. An operator does.
func TestDeletedKeyLeavesItsAllowance(t *testing.T) {
	w, confined := newConfinedFixture(t, 2, rate(t, "3/h"), quota(t, "4/month per key"))
	create := func(a management.Actor, more ...func(*management.KeyFields)) management.IssuedKey {
		t.Helper()
		f := management.KeyFields{Name: management.Some("ci")}
		for _, m := range more {
			m(&f)
		}
		return testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, a, "", "acme", f))
	}
	spend := func(k management.IssuedKey, n int, then gateway.Reason) {
		t.Helper()
		for range n {
			w.wantReason(k.Key, gateway.Allowed)
		}
		w.wantReason(k.Key, then)
	}
	remove := func(k management.IssuedKey) {
		t.Helper()
		if err := w.DeleteKey(ctx, confined, "", k.ID, nil); err != nil {
			t.Fatal(err)
		}
	}
	limited := func(f *management.KeyFields) { f.CreditsLimit = management.Some(int64(2)) }

	first := create(confined, limited)
	spend(first, 2, gateway.CreditsExhausted)
	remove(first)
	// What a key may spend at all is a limit of its own, which the next key does not inherit.
	second := create(confined, limited)
	spend(second, 1, gateway.RateLimited)
	if _, err := w.RevokeKey(ctx, confined, "", second.ID); err != nil {
		t.Fatal(err)
	}
	// The quota is inherited through another key, after the rate has recovered.
	w.clock.Advance(time.Hour)
	third := create(confined)
	spend(third, 1, gateway.QuotaExceeded)
	// A second key at the same time has its own allowance.
	spend(create(confined), 3, gateway.RateLimited)
	remove(third)
	spend(create(ada), 3, gateway.RateLimited)
}

// A disabled key whose allowance another key has taken over gets another free allowance when it is enabled.
func TestEnabledKeySharesNoAllowance(t *testing.T) {
	w, confined := newConfinedFixture(t, 1, rate(t, "3/h"))
	first := w.key("acme")
	for range 3 {
		w.wantReason(first.Key, gateway.Allowed)
	}
	disable := func(id string) {
		t.Helper()
		testkit.Must[management.Receipt](t)(w.DisableKey(ctx, confined, "", id))
	}
	disable(first.ID)
	second := testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, confined, "", "acme", management.KeyFields{Name: management.Some("second")}))
	w.wantReason(second.Key, gateway.RateLimited)
	disable(second.ID)
	testkit.Must[management.Receipt](t)(w.EnableKey(ctx, confined, "", first.ID))
	w.wantReason(first.Key, gateway.RateLimited)
	w.clock.Advance(time.Hour)
	w.wantReason(first.Key, gateway.Allowed)
}

// However a tenant's own token creates, deletes, revokes, disables, enables, expires and extends keys, the tenant never passes
// more requests than its plan allows for the keys that it may have.
func TestAllowancesBoundATenant(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 12))
		const maxKeys, burst = 3, 5
		w, confined := newConfinedFixture(t, maxKeys, rate(t, "5/h"), quota(t, "1000/month per key"))
		var keys []management.IssuedKey
		passed := 0
		for range 400 {
			n := r.IntN(12)
			if len(keys) == 0 || n == 0 {
				// Creating and enabling fail while the tenant has maxKeys keys.
				if k, err := w.CreateKey(ctx, confined, "", "acme", management.KeyFields{Name: management.Some("ci")}); err == nil {
					keys = append(keys, k)
				}
				continue
			}
			k := keys[max(0, len(keys)-1-r.IntN(6))]
			switch n {
			case 1:
				_ = w.DeleteKey(ctx, confined, "", k.ID, nil)
			case 2:
				_, _ = w.RevokeKey(ctx, confined, "", k.ID)
			case 3:
				_, _ = w.DisableKey(ctx, confined, "", k.ID)
			case 4:
				_, _ = w.EnableKey(ctx, confined, "", k.ID)
			case 5:
				_, _ = w.UpdateKey(ctx, confined, "", k.ID, management.KeyFields{ExpiresAt: management.Some(w.clock.Now().Add(time.Millisecond))}, nil)
				w.clock.Advance(2 * time.Millisecond)
			case 6:
				_, _ = w.UpdateKey(ctx, confined, "", k.ID, management.KeyFields{ExpiresAt: management.Null[time.Time]()}, nil)
			case 7:
				w.gw.Keys().SweepAll(w.clock.Now())
			default:
				if w.check(k.Key) == gateway.Allowed {
					passed++
				}
			}
		}
		if passed > maxKeys*burst {
			t.Errorf("seed %d: %d requests passed, want at most %d", seed, passed, maxKeys*burst)
		}
		if passed < burst {
			t.Errorf("seed %d: only %d requests passed", seed, passed)
		}
	}
}

// Keys are replaced while requests use them.
func TestReplacedKeysUnderLoad(t *testing.T) {
	const burst = 200
	w, confined := newConfinedFixture(t, 1, rate(t, "200/h"))
	var full atomic.Pointer[string]
	var passed atomic.Int64
	replace := func(former string) string {
		t.Helper()
		if former != "" {
			if err := w.DeleteKey(ctx, confined, "", former, nil); err != nil {
				t.Fatal(err)
			}
		}
		k := testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, confined, "", "acme", management.KeyFields{Name: management.Some("ci")}))
		full.Store(&k.Key)
		return k.ID
	}
	id := replace("")
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if w.check(*full.Load()) == gateway.Allowed {
					passed.Add(1)
				}
			}
		})
	}
	for range 50 {
		id = replace(id)
		w.gw.Keys().SweepAll(w.clock.Now())
	}
	testkit.Eventually(t, "the allowance is spent", func() bool { return w.check(*full.Load()) == gateway.RateLimited })
	close(stop)
	load.Wait()
	if passed.Load() > burst {
		t.Errorf("%d requests passed, want at most %d", passed.Load(), burst)
	}
}
