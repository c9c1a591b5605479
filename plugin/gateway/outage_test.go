package gateway_test

import (
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// TestStoreOutage checks an unreachable store: keys in memory are accepted within their limits, other keys get 503, and no
// count is lost. The gateway recovers by itself when the store answers again.
func TestStoreOutage(t *testing.T) {
	w := newFixture(t, plan("free", "quota 100/day", "credits"))
	w.tenant("acme", "free", 1000)
	_, used := w.key("acme")
	_, unused := w.key("acme")
	now := time.Now().UTC()
	// The cache adds a key a moment after the first use of the key, so the key is used until it is in memory.
	spent := int64(0)
	testkit.Eventually(t, "the key is in memory", func() bool {
		lookups := w.store.lookups.Load()
		w.want(gateway.Allowed, used, at(now))
		spent++
		return w.store.lookups.Load() == lookups
	})
	testkit.Eventually(t, "the filter is filled", func() bool { return w.gw.Stats().FilterReady })

	w.store.down.Store(true)
	for range 4 {
		w.want(gateway.Allowed, used, at(now))
	}
	w.want(gateway.Unavailable, unused, at(now))
	// Even without the store, the filter of stored digests rejects a key whose digest cannot be in the store.
	w.want(gateway.InvalidKey, w.generate())
	if !w.gw.Stats().Degraded {
		t.Error("not degraded while the store fails")
	}
	testkit.Eventually(t, "a flush fails", func() bool { return w.store.failedFlushes.Load() > 0 })

	w.store.down.Store(false)
	testkit.Eventually(t, "the gateway recovers", func() bool { return !w.gw.Stats().Degraded })
	w.want(gateway.Allowed, unused, at(now))
	spent += 4 + 1
	if got := w.balance("acme"); got != 1000-spent {
		t.Errorf("balance %d, want %d: what was spent during the outage counts", got, 1000-spent)
	}
	w.restart()
	n := int64(0)
	for w.check(used, at(now)) == gateway.Allowed {
		n++
	}
	if n != 100-spent {
		t.Errorf("%d of the quota left after the outage, want %d", n, 100-spent)
	}
}

// The last use of a key is stored within a second, even if the request was denied.
func TestLastUsed(t *testing.T) {
	w := newFixture(t, plan("free", "rate 1/h"))
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	w.want(gateway.Allowed, key)
	later := time.Now().Add(time.Minute).Truncate(time.Microsecond)
	w.want(gateway.RateLimited, key, at(later), func(r *gateway.Request) { r.Addr = gateway.Addr("2001:db8::7") })
	testkit.Eventually(t, "the key's last use is stored", func() bool {
		k := w.readKey(id)
		return k.LastUsedAt.Equal(later) && k.LastUsedIP == "2001:db8::7"
	})
}

func TestRequestsAfterClose(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	w.want(gateway.Allowed, key)
	gw := w.gw
	w.stop()
	w.gw = gw
	w.want(gateway.Unavailable, key)
	w.gw = nil
}
