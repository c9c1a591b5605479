package gateway_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// What is given back after its lease was called in can be spent again, and nothing of it
// stays reserved for nobody.
func TestRefundAfterTheLeaseWasCalledIn(t *testing.T) {
	w := newWorld(t, plan("free", "credits"))
	w.tenant("acme", "free", 10)
	_, key := w.key("acme")
	_, other := w.key("acme")
	var d gateway.Decision
	req := w.request(key)
	req.Cost = 10
	w.gw.Check(context.Background(), req, &d)
	if d.Reason != gateway.Allowed {
		t.Fatal(d.Reason)
	}
	if got := w.balance("acme"); got != 0 { // calls the lease in
		t.Fatalf("balance %d, want 0", got)
	}
	w.want(gateway.CreditsExhausted, other)
	d.Settle(0)
	d.Done()
	eventually(t, "what was given back can be spent", func() bool { return w.check(other, cost(10)) == gateway.Allowed })
	w.want(gateway.CreditsExhausted, other)
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d, want 0", got)
	}
}

// The same, with a charge of the new lease written in the same batch.
func TestRefundBesideAChargeOfTheNextLease(t *testing.T) {
	w := newWorld(t, plan("free", "credits"))
	w.tenant("acme", "free", 20)
	_, key := w.key("acme")
	var d gateway.Decision
	req := w.request(key)
	req.Cost = 10
	w.gw.Check(context.Background(), req, &d)
	if got := w.balance("acme"); got != 10 {
		t.Fatalf("balance %d, want 10", got)
	}
	w.want(gateway.Allowed, key, cost(10))
	d.Settle(0)
	d.Done()
	eventually(t, "what was given back can be spent", func() bool { return w.check(key, cost(10)) == gateway.Allowed })
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d, want 0", got)
	}
	w.restart()
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d after a restart, want 0", got)
	}
}

// Requests wait for whoever changes a balance, also where the tenant is not in use yet.
func TestWithCreditsOfATenantNotInUse(t *testing.T) {
	w := newWorld(t, plan("free", "credits"))
	w.tenant("acme", "free", 10)
	_, key := w.key("acme")
	var wg sync.WaitGroup
	err := w.gw.WithCredits(context.Background(), "default", "acme", func() error {
		wg.Go(func() { w.check(key) })
		time.Sleep(50 * time.Millisecond)
		return w.store.Update(context.Background(), func(tx management.Tx) error {
			return tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: "acme", Kind: "spend", Amount: -10, At: time.Now()})
		})
	})
	if err != nil {
		t.Errorf("spending the whole balance: %v", err)
	}
	wg.Wait()
	w.want(gateway.CreditsExhausted, key)
}

// What is given back of a quota per address is written back too.
func TestAddressQuotaIsWrittenBack(t *testing.T) {
	w := newWorld(t, plan("free", "quota 10/day per address"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	now := time.Now()
	var d gateway.Decision
	req := w.request(key)
	req.Now, req.Cost, req.Addr = now, 8, netip.MustParseAddr("192.0.2.7")
	w.gw.Check(context.Background(), req, &d)
	time.Sleep(700 * time.Millisecond) // it is flushed before it is given back
	d.Settle(0)
	d.Done()
	w.restart()
	w.want(gateway.Allowed, key, at(now), cost(10), func(r *gateway.Request) { r.Addr = req.Addr })
}
