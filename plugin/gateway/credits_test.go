package gateway_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Credits that are refunded after their lease has ended can be spent again, and none of them stays
// reserved.
func TestRefundAfterTheLeaseEnded(t *testing.T) {
	w := newFixture(t, plan("free", "credits"))
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
	if got := w.balance("acme"); got != 0 { // balance returns the lease to the store.
		t.Fatalf("balance %d, want 0", got)
	}
	w.want(gateway.CreditsExhausted, other)
	d.Settle(0)
	d.Done()
	testkit.Eventually(t, "the refund can be spent", func() bool { return w.check(other, cost(10)) == gateway.Allowed })
	w.want(gateway.CreditsExhausted, other)
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d, want 0", got)
	}
}

// A refund to an ended lease is correct when the same flush writes a charge of the next lease.
func TestRefundWithAChargeOfTheNextLease(t *testing.T) {
	w := newFixture(t, plan("free", "credits"))
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
	testkit.Eventually(t, "the refund can be spent", func() bool { return w.check(key, cost(10)) == gateway.Allowed })
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d, want 0", got)
	}
	w.restart()
	if got := w.balance("acme"); got != 0 {
		t.Errorf("balance %d after a restart, want 0", got)
	}
}

// A request waits while WithCredits changes its tenant's balance, even if the tenant is not in use
// yet.
func TestWithCreditsOfATenantNotInUse(t *testing.T) {
	w := newFixture(t, plan("free", "credits"))
	w.tenant("acme", "free", 10)
	_, key := w.key("acme")
	result := make(chan gateway.Reason, 1)
	err := w.gw.WithCredits(context.Background(), "default", "acme", func() error {
		go func() { result <- w.check(key) }()
		testkit.Eventually(t, "the request has looked up its key", func() bool { return w.store.lookups.Load() > 0 })
		return w.store.Update(context.Background(), func(tx management.Tx) error {
			return tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: "acme", Kind: "spend", Amount: -10, At: time.Now()})
		})
	})
	if err != nil {
		t.Errorf("spending the whole balance: %v", err)
	}
	if got := <-result; got != gateway.CreditsExhausted {
		t.Errorf("the request that waited: %v", got)
	}
	w.want(gateway.CreditsExhausted, key)
}

// A refund of a quota per address is written to the store.
func TestAddressQuotaIsWrittenBack(t *testing.T) {
	w := newFixture(t, plan("free", "quota 10/day per address"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	now := time.Now()
	var d gateway.Decision
	req := w.request(key)
	req.Now, req.Cost, req.Addr = now, 8, netip.MustParseAddr("192.0.2.7")
	w.gw.Check(context.Background(), req, &d)
	testkit.Eventually(t, "the charge is flushed", func() bool {
		counts, err := w.store.Store.LoadUsage(context.Background(), "a:p:default:free:192.0.2.7", now)
		return err == nil && len(counts) == 1 && counts[0].Used == 8
	})
	d.Settle(0)
	d.Done()
	w.restart()
	w.want(gateway.Allowed, key, at(now), cost(10), func(r *gateway.Request) { r.Addr = req.Addr })
}
