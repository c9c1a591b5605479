package management_test

import (
	"net/http"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/limits"
)

type limitsPage = management.Page[limits.Record]

// limitNamed returns the limit with that name from the page.
func limitNamed(t *testing.T, p limitsPage, name string) limits.Record {
	t.Helper()
	for _, r := range p.Data {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no limit %q in %+v", name, p.Data)
	return limits.Record{}
}

func wantLimit(t *testing.T, r limits.Record, limit, remaining, used int64) {
	t.Helper()
	if r.Limit == nil || *r.Limit != limit || *r.Remaining != remaining || *r.Used != used || (r.ResetAt != nil) != (used > 0) {
		t.Errorf("%s has %d of %d left and %d used, reset at %v; want %d of %d and %d", r.Name, *r.Remaining, *r.Limit, *r.Used, r.ResetAt, remaining, limit, used)
	}
}

// TestLimitStatus proves that the state of limits is shown for keys in use and others. A reset
// applies to the gateway and the store, and has an event.
func TestLimitStatus(t *testing.T) {
	w := newFixture(t)
	w.configure("free", 0, "free")
	tenant := testkit.Must[management.TenantRecord](t)(w.CreateTenant(ctx, ada, "", "acme", management.TenantFields{
		Plan: management.Some("free"), Quota: management.Some("1000/month"), Rate: management.Some("10/h"),
	}))
	k := w.key("acme", func(f *management.KeyFields) { f.Quota = management.Some("5/day") })
	idle := w.key("acme")
	show := func(id string) limitsPage {
		t.Helper()
		return testkit.Must[limitsPage](t)(limits.Key(ctx, w.Manager, ada, "", id))
	}
	wantLimit(t, limitNamed(t, show(k.ID), "5/day"), 5, 5, 0)
	wantLimit(t, limitNamed(t, show(k.ID), "10/h"), 10, 10, 0)
	for range 5 {
		w.wantReason(k.Key, gateway.Allowed)
	}
	w.wantReason(k.Key, gateway.QuotaExceeded)
	wantLimit(t, limitNamed(t, show(k.ID), "5/day"), 5, 0, 5)
	if r := limitNamed(t, show(k.ID), "10/h"); *r.Remaining != 5 || r.Per != "key" || r.Kind != "rate" {
		t.Errorf("%+v", r)
	}
	wantLimit(t, limitNamed(t, show(idle.ID), "10/h"), 10, 10, 0)
	all := testkit.Must[limitsPage](t)(limits.Tenant(ctx, w.Manager, ada, "", "ACME"))
	if len(all.Data) != 1 {
		t.Errorf("the tenant's own limits are %+v", all.Data)
	}
	wantLimit(t, limitNamed(t, all, "1000/month"), 1000, 995, 5)

	// A reset of a key accepts only the names of limits that are counted for the key.
	_, err := limits.ResetKey(ctx, w.Manager, ada, "", k.ID, []string{"5/day", "1000/month"})
	wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/policies/1")
	after := testkit.Must[limitsPage](t)(limits.ResetKey(ctx, w.Manager, ada, "", k.ID, []string{"5/day"}))
	wantLimit(t, limitNamed(t, after, "5/day"), 5, 5, 0)
	if r := limitNamed(t, after, "10/h"); *r.Remaining != 5 {
		t.Errorf("another limit was reset: %+v", r)
	}
	w.wantReason(k.Key, gateway.Allowed)
	if after = testkit.Must[limitsPage](t)(limits.ResetKey(ctx, w.Manager, ada, "", k.ID, nil)); *limitNamed(t, after, "10/h").Remaining != 10 {
		t.Errorf("all were to be reset: %+v", after.Data)
	}
	testkit.Must[limitsPage](t)(limits.ResetTenant(ctx, w.Manager, ada, "", tenant.Slug, nil))
	rows, err := w.store.LoadUsage(ctx, "t:default:acme", w.clock.Now())
	if err != nil || len(rows) != 1 || rows[0].Used != 0 {
		t.Errorf("the store knows %+v (%v) after a reset", rows, err)
	}
	page := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{}))
	if page.Data[0].Action != "tenant.limits_reset" || page.Data[0].Target != "acme" || page.Data[1].Action != "key.limits_reset" || page.Data[1].Target != k.ID {
		t.Errorf("events: %+v", page.Data[:2])
	}
	confined := ada
	confined.Tenant = "acme"
	_, err = limits.ResetKey(ctx, w.Manager, confined, "", k.ID, nil)
	wantError(t, err, http.StatusForbidden, management.CodeInsufficientScope)
	if _, err := limits.Key(ctx, w.Manager, confined, "", k.ID); err != nil {
		t.Error(err)
	}
	confined.Tenant = "other"
	_, err = limits.Key(ctx, w.Manager, confined, "", k.ID)
	wantError(t, err, http.StatusNotFound, management.CodeNotFound)
	_, err = limits.Tenant(ctx, w.Manager, ada, "", "missing")
	wantError(t, err, http.StatusNotFound, management.CodeNotFound)
}

// TestLimitStatusOfUnusedKey proves that the state of a key that the gateway does not hold comes
// from the store, and is reset there.
func TestLimitStatusOfUnusedKey(t *testing.T) {
	w := newFixture(t)
	w.configure("free", 0, "free")
	w.tenant("acme", "free")
	k := w.key("acme", func(f *management.KeyFields) { f.Quota = management.Some("5/day") })
	for range 3 {
		w.wantReason(k.Key, gateway.Allowed)
	}
	if err := w.gw.Close(ctx); err != nil {
		t.Fatal(err)
	}
	gw := testkit.Must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store}}))
	if err := gw.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.gw = gw
	t.Cleanup(func() { _ = gw.Close(ctx) })
	w.Manager = management.New(management.Config{Store: w.store, Engine: gw, View: w.current, Now: w.clock.Now})
	show := func() limitsPage { return testkit.Must[limitsPage](t)(limits.Key(ctx, w.Manager, ada, "", k.ID)) }
	wantLimit(t, limitNamed(t, show(), "5/day"), 5, 2, 3)
	testkit.Must[limitsPage](t)(limits.ResetKey(ctx, w.Manager, ada, "", k.ID, nil))
	wantLimit(t, limitNamed(t, show(), "5/day"), 5, 5, 0)
	for range 5 {
		w.wantReason(k.Key, gateway.Allowed)
	}
	w.wantReason(k.Key, gateway.QuotaExceeded)
}
