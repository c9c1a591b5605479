package gateway_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

func TestReasons(t *testing.T) {
	none := plan("none")
	none.Deny = true
	small := plan("small")
	small.Cap = 0b110 // The cap is the scopes deployment and free.
	w := newFixture(t, plan("free"), none, small)
	w.tenant("acme", "free", 0)
	w.tenant("denied", "none", 0)
	w.tenant("suspended", "free", 0)
	w.tenant("small", "small", 0)
	w.tenant("unplanned", "no such plan", 0)
	w.editTenant("suspended", func(t *gateway.Tenant) { t.Active = false })

	_, good := w.key("acme")
	_, revoked := w.key("acme", revoke)
	_, disabled := w.key("acme", disable)
	_, expired := w.key("acme", func(k *gateway.Key) { k.ExpiresAt = time.Now().Add(-time.Second) })
	_, restricted := w.key("acme", func(k *gateway.Key) {
		k.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	})
	_, scoped := w.key("acme", func(k *gateway.Key) { k.Scopes = []string{"deployment"} })
	_, capped := w.key("small", func(k *gateway.Key) { k.Scopes = []string{"admin"} })
	_, inactive := w.key("suspended")
	_, denied := w.key("denied")
	_, unplanned := w.key("unplanned")
	unknown := w.generate()

	need := func(s gateway.ScopeSet) func(*gateway.Request) { return func(r *gateway.Request) { r.Need = s } }
	from := func(a string) func(*gateway.Request) {
		return func(r *gateway.Request) { r.Addr = netip.MustParseAddr(a) }
	}
	for _, c := range []struct {
		name string
		key  string
		edit func(*gateway.Request)
		want gateway.Reason
	}{
		{"good", good, nil, gateway.Allowed},
		{"no key", "", func(r *gateway.Request) { r.FindErr = apikey.ErrMissing }, gateway.MissingKey},
		{"two keys", "", func(r *gateway.Request) { r.FindErr = apikey.ErrAmbiguous }, gateway.AmbiguousKey},
		{"malformed in the header", "", func(r *gateway.Request) { r.FindErr = apikey.ErrMalformed }, gateway.MalformedKey},
		{"wrong prefix", "sk_live_" + good[8:], nil, gateway.MalformedKey},
		{"wrong checksum", good[:len(good)-1] + string('a'+(good[len(good)-1]-'a'+1)%26), nil, gateway.MalformedKey},
		{"too long", good + strings.Repeat("a", 10000), nil, gateway.MalformedKey},
		{"unknown", unknown, nil, gateway.InvalidKey},
		{"revoked", revoked, nil, gateway.RevokedKey},
		{"disabled", disabled, nil, gateway.DisabledKey},
		{"expired", expired, nil, gateway.ExpiredKey},
		{"tenant suspended", inactive, nil, gateway.TenantInactive},
		{"plan denies", denied, nil, gateway.PlanNotAllowed},
		{"plan unknown to the configuration", unplanned, nil, gateway.Unavailable},
		{"address outside", restricted, from("203.0.113.9"), gateway.IPNotAllowed},
		{"address inside", restricted, from("198.51.100.77"), gateway.Allowed},
		{"address inside, IPv4 mapped", restricted, from("::ffff:198.51.100.77"), gateway.Allowed},
		{"address inside, IPv6", restricted, from("2001:db8::1"), gateway.Allowed},
		{"scope held", scoped, need(0b010), gateway.Allowed},
		{"scope included", scoped, need(0b100), gateway.Allowed},
		{"scope lacking", scoped, need(0b001), gateway.InsufficientScope},
		{"one of two lacking", scoped, need(0b011), gateway.InsufficientScope},
		{"scope above the plan's cap", capped, need(0b001), gateway.InsufficientScope},
		{"scope within the plan's cap", capped, need(0b010), gateway.Allowed},
		{"no scope rule, deny", scoped, func(r *gateway.Request) { r.ScopeDenied = true }, gateway.InsufficientScope},
	} {
		t.Run(c.name, func(t *testing.T) {
			edit := c.edit
			if edit == nil {
				edit = func(*gateway.Request) {}
			}
			if got := w.check(c.key, edit); got != c.want {
				t.Errorf("check: got %v, want %v", got, c.want)
			}
			// An explanation of a request runs the same checks as the request, so its result must be the same.
			if got := w.check(c.key, edit, func(r *gateway.Request) { r.Trace = &gateway.Trace{} }); got != c.want {
				t.Errorf("explain: got %v, want %v", got, c.want)
			}
		})
	}
}

func TestExplainSpendsNothing(t *testing.T) {
	w := newFixture(t, plan("free", "rate 2/h", "quota 2/day", "credits"))
	w.tenant("acme", "free", 2)
	_, key := w.key("acme")
	for range 10 {
		w.want(gateway.Allowed, key, func(r *gateway.Request) { r.Trace = &gateway.Trace{} })
	}
	w.want(gateway.Allowed, key)
	w.want(gateway.Allowed, key)
	w.want(gateway.RateLimited, key)
	tr := &gateway.Trace{}
	w.want(gateway.RateLimited, key, func(r *gateway.Request) { r.Trace = tr })
	denied := map[string]bool{}
	for _, step := range tr.Steps {
		denied[step.Check] = !step.OK
	}
	if !denied["limit 2/h"] || !denied["limit 2/day"] || !denied["limit credits"] || denied["scope"] {
		t.Errorf("steps are %+v, want each denying limit by name", tr.Steps)
	}
	for range 8 {
		w.want(gateway.InvalidKey, w.generate(), func(r *gateway.Request) { r.Trace = &gateway.Trace{} })
	}
	w.want(gateway.InvalidKey, w.generate())
}

func TestFailuresNeverRejectAValidKey(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	_, used := w.key("acme")
	_, fresh := w.key("acme")
	w.want(gateway.Allowed, used)
	seen := map[gateway.Reason]int{}
	for range 50 {
		seen[w.check(w.generate())]++
	}
	if seen[gateway.InvalidKey] != 5 || seen[gateway.TooManyFailures] != 45 {
		t.Errorf("failures: %v, want 5 invalid_key, then too_many_failures", seen)
	}
	// Valid keys from the address of the failed attempts are allowed, whether they were used before or not.
	w.want(gateway.Allowed, used)
	w.want(gateway.Allowed, fresh)
	// Failures of all addresses in one IPv6 /64 count together; another /64 has its own count.
	v6 := func(a string) func(*gateway.Request) {
		return func(r *gateway.Request) { r.Addr = netip.MustParseAddr(a) }
	}
	for range 5 {
		w.want(gateway.InvalidKey, w.generate(), v6("2001:db8::1"))
	}
	w.want(gateway.TooManyFailures, w.generate(), v6("2001:db8::ffff:2"))
	w.want(gateway.InvalidKey, w.generate(), v6("2001:db8:0:1::1"))
}

// In a flood of well-formed unknown keys, nearly all are rejected from memory, without a look-up
// in the store.
func TestUnknownKeysReachNoStore(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	testkit.Eventually(t, "the filter is filled", func() bool { return w.gw.Stats().FilterReady })
	before := w.store.lookups.Load()
	for range 2000 {
		w.check(w.generate())
	}
	// The filter of digests takes fewer than one unknown key in a hundred for a known one.
	if n := w.store.lookups.Load() - before; n > 60 {
		t.Errorf("%d of 2000 unknown keys were looked up", n)
	}
	w.want(gateway.Allowed, key)
}

// A new key is known at once, even if it was sent before it existed.
func TestNewKeyIsKnownAtOnce(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	for range 50 {
		full := w.generate()
		w.check(full)
		w.check(full)
		id, _ := w.key("acme")
		w.update(func(tx management.Tx) []gateway.Change {
			w.insertSecret(tx, id, full)
			return []gateway.Change{{Kind: gateway.ChangeKey, Keyspace: "default", ID: id}}
		})
		w.want(gateway.Allowed, full)
	}
}

func TestRotationGrace(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, old := w.key("acme")
	w.want(gateway.Allowed, old)
	next := w.generate()
	w.update(func(tx management.Tx) []gateway.Change {
		secrets, err := tx.Secrets("default", id)
		if err != nil || len(secrets) != 1 {
			t.Fatal(secrets, err)
		}
		secrets[0].ExpiresAt = time.Now().Add(time.Hour)
		if err := tx.UpdateSecret(secrets[0]); err != nil {
			t.Fatal(err)
		}
		w.insertSecret(tx, id, next)
		return []gateway.Change{{Kind: gateway.ChangeKey, Keyspace: "default", ID: id}}
	})
	w.want(gateway.Allowed, old)
	w.want(gateway.Allowed, next)
	w.want(gateway.RevokedKey, old, func(r *gateway.Request) { r.Now = r.Now.Add(time.Hour + time.Second) })
	w.want(gateway.Allowed, next, func(r *gateway.Request) { r.Now = r.Now.Add(time.Hour + time.Second) })
}

func TestCheckDoesNotAllocate(t *testing.T) {
	w := newFixture(t, plan("free", "rate 1000000/s", "rate 100000000/d per tenant", "quota 1000000000/month", "concurrency 50", "credits"))
	w.tenant("acme", "free", 1<<40)
	_, key := w.key("acme")
	w.want(gateway.Allowed, key)
	req := w.request(key)
	var d gateway.Decision
	if n := allocations(func() {
		req.Now = time.Now()
		w.gw.Check(context.Background(), req, &d)
		d.Done()
		if d.Reason != gateway.Allowed {
			t.Fatal(d.Reason)
		}
	}); n != 0 {
		t.Errorf("a hit makes %v allocations, want 0", n)
	}
	denied := w.request(w.generate())
	denied.Credential = key
	denied.ScopeDenied = true
	if n := allocations(func() {
		w.gw.Check(context.Background(), denied, &d)
		d.Done()
	}); n != 0 {
		t.Errorf("a denied request makes %v allocations, want 0", n)
	}
}

// allocations returns the smallest testing.AllocsPerRun of several runs, since the gateway's
// flushes in the background allocate, too.
func allocations(f func()) float64 {
	least := testing.AllocsPerRun(500, f)
	for range 10 {
		if least == 0 {
			break
		}
		least = min(least, testing.AllocsPerRun(500, f))
	}
	return least
}

// While the filter is not filled, look-ups of unknown keys are limited, and a key's first use is
// not delayed by a flood of unknown keys.
func TestFirstUseDuringAFloodOfUnknownKeys(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	w.stop()
	w.noDigests = true
	w.start()
	_, used := w.key("acme")
	_, fresh := w.key("acme")
	w.want(gateway.Allowed, used)
	before, begun := w.store.lookups.Load(), time.Now()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	const flood = 3000
	for range flood {
		var d gateway.Decision
		w.gw.Check(ended, w.request(w.generate()), &d)
		d.Done()
	}
	w.want(gateway.Allowed, used)
	w.want(gateway.Allowed, fresh, func(r *gateway.Request) { r.Addr = netip.MustParseAddr("198.51.100.7") })
	n := float64(w.store.lookups.Load() - before)
	if most := 1000 + 200*time.Since(begun).Seconds() + 20; n > most || n >= flood {
		t.Errorf("%v unknown keys were looked up, more than %v", n, most)
	}
}
