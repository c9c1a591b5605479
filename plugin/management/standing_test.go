package management_test

import (
	"net/http"
	"testing"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/limits"
)

type standings = management.Page[limits.Record]

// standing returns the limit of that name.
func standing(t *testing.T, p standings, name string) limits.Record {
	t.Helper()
	for _, r := range p.Data {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no limit %q in %+v", name, p.Data)
	return limits.Record{}
}

func wantStanding(t *testing.T, r limits.Record, limit, remaining, used int64) {
	t.Helper()
	if r.Limit == nil || *r.Limit != limit || *r.Remaining != remaining || *r.Used != used || (r.ResetAt != nil) != (used > 0) {
		t.Errorf("%s stands at %d of %d with %d used, reset at %v; want %d of %d with %d", r.Name, *r.Remaining, *r.Limit, *r.Used, r.ResetAt, remaining, limit, used)
	}
}

// Limits are shown as they stand, for keys in use and not, and reset where they are
// counted, in the store too, with an event.
func TestStandings(t *testing.T) {
	w := newWorld(t)
	w.configure("free", 0, "free")
	tenant := must[management.TenantRecord](t)(w.CreateTenant(ctx, ada, "", "acme", management.TenantFields{
		Plan: management.Some("free"), Quota: management.Some("1000/month"), Rate: management.Some("10/h"),
	}))
	k := w.key("acme", func(f *management.KeyFields) { f.Quota = management.Some("5/day") })
	idle := w.key("acme")
	show := func(id string) standings {
		t.Helper()
		return must[standings](t)(limits.Key(ctx, w.Manager, ada, "", id))
	}
	wantStanding(t, standing(t, show(k.ID), "5/day"), 5, 5, 0)
	wantStanding(t, standing(t, show(k.ID), "10/h"), 10, 10, 0)
	for range 5 {
		w.wantJudged(k.Key, gateway.Allowed)
	}
	w.wantJudged(k.Key, gateway.QuotaExceeded)
	wantStanding(t, standing(t, show(k.ID), "5/day"), 5, 0, 5)
	if r := standing(t, show(k.ID), "10/h"); *r.Remaining != 5 || r.Per != "key" || r.Kind != "rate" {
		t.Errorf("%+v", r)
	}
	wantStanding(t, standing(t, show(idle.ID), "10/h"), 10, 10, 0)
	all := must[standings](t)(limits.Tenant(ctx, w.Manager, ada, "", "ACME"))
	if len(all.Data) != 1 {
		t.Errorf("the tenant's own limits are %+v", all.Data)
	}
	wantStanding(t, standing(t, all, "1000/month"), 1000, 995, 5)

	// Only what is counted for the key, and only what is named.
	_, err := limits.ResetKey(ctx, w.Manager, ada, "", k.ID, []string{"5/day", "1000/month"})
	wantRefused(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/policies/1")
	after := must[standings](t)(limits.ResetKey(ctx, w.Manager, ada, "", k.ID, []string{"5/day"}))
	wantStanding(t, standing(t, after, "5/day"), 5, 5, 0)
	if r := standing(t, after, "10/h"); *r.Remaining != 5 {
		t.Errorf("another limit was reset: %+v", r)
	}
	w.wantJudged(k.Key, gateway.Allowed)
	if after = must[standings](t)(limits.ResetKey(ctx, w.Manager, ada, "", k.ID, nil)); *standing(t, after, "10/h").Remaining != 10 {
		t.Errorf("all were to be reset: %+v", after.Data)
	}
	must[standings](t)(limits.ResetTenant(ctx, w.Manager, ada, "", tenant.Slug, nil))
	rows, err := w.store.LoadUsage(ctx, "t:default:acme", w.now())
	if err != nil || len(rows) != 1 || rows[0].Used != 0 {
		t.Errorf("the store knows %+v (%v) after a reset", rows, err)
	}
	page := must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{}))
	if page.Data[0].Action != "tenant.limits_reset" || page.Data[0].Target != "acme" || page.Data[1].Action != "key.limits_reset" || page.Data[1].Target != k.ID {
		t.Errorf("events: %+v", page.Data[:2])
	}
	confined := ada
	confined.Tenant = "acme"
	_, err = limits.ResetKey(ctx, w.Manager, confined, "", k.ID, nil)
	wantRefused(t, err, http.StatusForbidden, management.CodeInsufficientScope)
	if _, err := limits.Key(ctx, w.Manager, confined, "", k.ID); err != nil {
		t.Error(err)
	}
	confined.Tenant = "other"
	_, err = limits.Key(ctx, w.Manager, confined, "", k.ID)
	wantRefused(t, err, http.StatusNotFound, management.CodeNotFound)
	_, err = limits.Tenant(ctx, w.Manager, ada, "", "nobody")
	wantRefused(t, err, http.StatusNotFound, management.CodeNotFound)
}

// A key that is not in use stands where the store says, and is reset there.
func TestStandingsNotInUse(t *testing.T) {
	w := newWorld(t)
	w.configure("free", 0, "free")
	w.tenant("acme", "free")
	k := w.key("acme", func(f *management.KeyFields) { f.Quota = management.Some("5/day") })
	for range 3 {
		w.wantJudged(k.Key, gateway.Allowed)
	}
	if err := w.gw.Close(ctx); err != nil {
		t.Fatal(err)
	}
	gw := must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store}}))
	if err := gw.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.gw = gw
	t.Cleanup(func() { _ = gw.Close(ctx) })
	w.Manager = management.New(management.Config{Store: w.store, Engine: gw, View: w.current, Now: w.now})
	show := func() standings { return must[standings](t)(limits.Key(ctx, w.Manager, ada, "", k.ID)) }
	wantStanding(t, standing(t, show(), "5/day"), 5, 2, 3)
	must[standings](t)(limits.ResetKey(ctx, w.Manager, ada, "", k.ID, nil))
	wantStanding(t, standing(t, show(), "5/day"), 5, 5, 0)
	for range 5 {
		w.wantJudged(k.Key, gateway.Allowed)
	}
	w.wantJudged(k.Key, gateway.QuotaExceeded)
}
