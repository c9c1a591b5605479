package gateway_test

import (
	"context"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A view that checked some requests and was then abandoned has no effect after the view in use is
// renewed: neither its limits nor its precedence over later changes remain.
func TestAbandonedViewHasNoEffect(t *testing.T) {
	w := newFixture(t, plan("free", "rate 5/h"), plan("pro", "rate 7/h"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	now := time.Now()
	w.want(gateway.Allowed, key, at(now))
	ks, view := w.ks, w.view

	w.use(plan("free", "rate 1000/h"), plan("pro", "rate 2000/h"))
	w.want(gateway.Allowed, key, at(now))
	w.ks, w.view = ks, view
	view.Renew()

	left := func() (limit, n int64) {
		var d gateway.Decision
		w.gw.Check(context.Background(), w.request(key), &d)
		defer d.Done()
		if d.Outcome.N != 1 {
			t.Fatalf("%d limits, reason %v", d.Outcome.N, d.Reason)
		}
		return d.Outcome.Standings[0].Limit, d.Outcome.Standings[0].Remaining
	}
	if limit, n := left(); limit != 5 || n != 2 {
		t.Errorf("%d of %d left, want 2 of 5", n, limit)
	}
	w.editTenant("acme", func(t *gateway.Tenant) { t.Plan = "pro" })
	if limit, n := left(); limit != 7 || n != 3 {
		t.Errorf("%d of %d left after a change of plan, want 3 of 7", n, limit)
	}
}
