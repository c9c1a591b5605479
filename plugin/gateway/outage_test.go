package gateway_test

import (
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// With the store away, keys in memory go on, with their limits, and what can't be
// judged is 503; nothing that was counted is lost; it recovers by itself.
func TestStoreAway(t *testing.T) {
	w := newWorld(t, plan("free", "quota 100/day", "credits"))
	w.tenant("acme", "free", 1000)
	_, used := w.key("acme")
	_, unused := w.key("acme")
	now := time.Now().UTC()
	// The cache takes in what it is given a moment later, on a busy machine.
	spent := int64(0)
	eventually(t, "the key is in memory", func() bool {
		lookups := w.store.lookups.Load()
		w.want(gateway.Allowed, used, at(now))
		spent++
		time.Sleep(10 * time.Millisecond)
		return w.store.lookups.Load() == lookups
	})
	eventually(t, "the filter is filled", func() bool { return w.gw.Stats().FilterReady })

	w.store.down.Store(true)
	for range 4 {
		w.want(gateway.Allowed, used, at(now))
	}
	w.want(gateway.Unavailable, unused, at(now))
	// What no stored digest can be is still known to be unknown.
	w.want(gateway.InvalidKey, must(w.ks.Grammar.Generate("live"))(t))
	if !w.gw.Stats().Degraded {
		t.Error("not degraded while the store is away")
	}
	time.Sleep(time.Second) // a flush fails meanwhile

	w.store.down.Store(false)
	eventually(t, "it recovers", func() bool { return !w.gw.Stats().Degraded })
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

// When a key was last used is in the store within a second, for refused requests of a good key too.
func TestLastUsed(t *testing.T) {
	w := newWorld(t, plan("free", "rate 1/h"))
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	w.want(gateway.Allowed, key)
	later := time.Now().Add(time.Minute).Truncate(time.Microsecond)
	w.want(gateway.RateLimited, key, at(later), func(r *gateway.Request) { r.Addr = gateway.Addr("2001:db8::7") })
	eventually(t, "the key's last use is stored", func() bool {
		k := w.readKey(id)
		return k.LastUsedAt.Equal(later) && k.LastUsedIP == "2001:db8::7"
	})
}

func TestRequestsBeforeAndAfter(t *testing.T) {
	w := newWorld(t)
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	w.want(gateway.Allowed, key)
	gw := w.gw
	w.stop()
	w.gw = gw
	w.want(gateway.Unavailable, key)
	w.gw = nil
}
