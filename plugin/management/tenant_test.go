package management_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

type tenantFields = management.TenantFields

func some[T any](v T) management.Optional[T] { return management.Some(v) }

func TestTenantRecord(t *testing.T) {
	w := newFixture(t)
	r, err := w.CreateTenant(ctx, ada, "", "Acme.1", tenantFields{
		Name: some("Acme ☕"), Plan: some("pro"), Credits: some(int64(500)), Rate: some("500/m  burst 50,10000/d"),
		Concurrency: some("5"), Metadata: some(json.RawMessage(`{ "id": 1 }`)),
	})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(r)
	want := `{"slug":"Acme.1","name":"Acme ☕","plan":"pro","active":true,"credits":500,"rate":"500/m burst 50, 10000/d","quota":null,"concurrency":5,"concurrency_per":null,` +
		`"metadata":{"id":1},"keys_active":0,"max_keys":null,"allowed_scopes":["deployment","free"],"created_at":"`
	if !strings.HasPrefix(string(b), want) {
		t.Errorf("record\n %s, want\n %s…", b, want)
	}
	// A look-up ignores the case of a slug, and a record shows the case of the creation.
	again := testkit.Must[management.TenantRecord](t)(w.Tenant(ctx, ada, "", "ACME.1"))
	if b2, _ := json.Marshal(again); string(b2) != string(b) {
		t.Errorf("read back\n %s, want\n %s", b2, b)
	}
	w.wantIntact(1)
}

func TestTenantErrors(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	deep := json.RawMessage(`{"x":"` + strings.Repeat("y", management.MaxMetadata) + `"}`)
	lines := "1/s, 2/s, 3/s, 4/s, 5/s, 6/s, 7/s, 8/s, 9/s, 10/s, 11/s, 12/s"
	for name, c := range map[string]struct {
		slug   string
		in     tenantFields
		status int
		code   string
		field  string
	}{
		"taken":           {"acme", tenantFields{}, 409, "slug_taken", ""},
		"taken in case":   {"ACME", tenantFields{}, 409, "slug_taken", ""},
		"empty slug":      {"", tenantFields{}, 422, "invalid_field", "/slug"},
		"dot":             {".", tenantFields{}, 422, "invalid_field", "/slug"},
		"two dots":        {"..", tenantFields{}, 422, "invalid_field", "/slug"},
		"slash":           {"a/b", tenantFields{}, 422, "invalid_field", "/slug"},
		"umlaut":          {"ä", tenantFields{}, 422, "invalid_field", "/slug"},
		"long slug":       {strings.Repeat("a", 256), tenantFields{}, 422, "invalid_field", "/slug"},
		"NUL":             {"a\x00", tenantFields{}, 422, "invalid_field", "/slug"},
		"empty name":      {"b", tenantFields{Name: some(" ")}, 422, "invalid_field", "/name"},
		"long name":       {"b", tenantFields{Name: some(strings.Repeat("é", 256))}, 422, "invalid_field", "/name"},
		"control name":    {"b", tenantFields{Name: some("a\x1b[31m")}, 422, "invalid_field", "/name"},
		"reordered name":  {"b", tenantFields{Name: some("a\u202eb")}, 422, "invalid_field", "/name"},
		"no such plan":    {"b", tenantFields{Plan: some("gold")}, 422, "plan_unknown", "/plan"},
		"null active":     {"b", tenantFields{Active: management.Null[bool]()}, 422, "invalid_field", "/active"},
		"negative credit": {"b", tenantFields{Credits: some(int64(-1))}, 422, "invalid_field", "/credits"},
		"huge credit":     {"b", tenantFields{Credits: some(int64(1 << 60))}, 422, "invalid_field", "/credits"},
		"bad rate":        {"b", tenantFields{Rate: some("fast")}, 422, "invalid_field", "/rate"},
		"empty rate":      {"b", tenantFields{Rate: some("")}, 422, "invalid_field", "/rate"},
		"doubled rate":    {"b", tenantFields{Rate: some("5/m, 5/m")}, 422, "invalid_field", "/rate"},
		"too many rates":  {"b", tenantFields{Rate: some(lines)}, 422, "invalid_field", "/rate"},
		"bad quota":       {"b", tenantFields{Quota: some("5/week")}, 422, "invalid_field", "/quota"},
		"no concurrency":  {"b", tenantFields{Concurrency: some("0")}, 422, "invalid_field", "/concurrency"},
		"big metadata":    {"b", tenantFields{Metadata: some(deep)}, 422, "invalid_field", "/metadata"},
		"list metadata":   {"b", tenantFields{Metadata: some(json.RawMessage(`[1]`))}, 422, "invalid_field", "/metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.CreateTenant(ctx, ada, "", c.slug, c.in)
			if c.field == "" {
				wantError(t, err, c.status, c.code)
			} else {
				wantError(t, err, c.status, c.code, c.field)
			}
		})
	}
	// A rejected call appends no event.
	w.wantIntact(1)
	_, err := w.Tenant(ctx, ada, "nowhere", "acme")
	wantError(t, err, 404, "not_found")
	_, err = w.Tenant(ctx, ada, "other", "acme")
	wantError(t, err, 404, "not_found")
}

func TestUpdateTenant(t *testing.T) {
	w := newFixture(t)
	first := w.tenant("acme", "free")
	k := w.key("acme")
	w.wantReason(k.Key, gateway.Allowed)

	r := testkit.Must[management.TenantRecord](t)(w.UpdateTenant(ctx, ada, "", "ACME", tenantFields{Rate: some("5/m"), Name: some("A")}, nil))
	if r.Slug != "acme" || *r.Rate != "5/m" || r.Name != "A" || r.Plan != "free" || r.Version <= first.Version {
		t.Errorf("updated: %+v", r)
	}
	_, err := w.UpdateTenant(ctx, ada, "", "acme", tenantFields{Name: some("B")}, management.Match{first.Version})
	wantError(t, err, 412, "precondition_failed")
	r = testkit.Must[management.TenantRecord](t)(w.UpdateTenant(ctx, ada, "", "acme", tenantFields{Rate: management.Null[string]()}, management.Match{r.Version}))
	if r.Rate != nil || r.Name != "A" {
		t.Errorf("cleared: %+v", r)
	}
	// A call that changes nothing appends no event.
	same := testkit.Must[management.TenantRecord](t)(w.UpdateTenant(ctx, ada, "", "acme", tenantFields{Name: some("A")}, nil))
	if same.Version != r.Version {
		t.Errorf("version %d after no change, want %d", same.Version, r.Version)
	}
	w.wantIntact(4)

	testkit.Must[management.TenantRecord](t)(w.SuspendTenant(ctx, ada, "", "acme"))
	w.wantReason(k.Key, gateway.TenantInactive)
	testkit.Must[management.TenantRecord](t)(w.ActivateTenant(ctx, ada, "", "acme"))
	w.wantReason(k.Key, gateway.Allowed)

	events := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{Tenant: "acme"}))
	var actions []string
	for _, e := range events.Data {
		actions = append(actions, e.Action)
	}
	if want := []string{"tenant.activated", "tenant.suspended", "tenant.updated", "tenant.updated", "key.created", "tenant.created"}; !slices.Equal(actions, want) {
		t.Errorf("events %v, want %v", actions, want)
	}
	e := events.Data[3]
	b, _ := json.Marshal([]any{e.Actor, *e.IP, e.Via, e.Before, e.After})
	if want := `["ada","192.0.2.1","api",{"name":"acme","rate":null},{"name":"A","rate":"5/m"}]`; string(b) != want {
		t.Errorf("event %s, want %s", b, want)
	}
}

func TestPutTenant(t *testing.T) {
	w := newFixture(t)
	r, created, err := w.PutTenant(ctx, ada, "", "acme", tenantFields{Plan: some("pro")}, nil)
	if err != nil || !created || r.Plan != "pro" {
		t.Fatalf("put: %+v %v %v", r, created, err)
	}
	r, created, err = w.PutTenant(ctx, ada, "", "Acme", tenantFields{Name: some("A")}, nil)
	if err != nil || created || r.Plan != "pro" || r.Name != "A" || r.Slug != "acme" {
		t.Fatalf("put again: %+v %v %v", r, created, err)
	}
	_, _, err = w.PutTenant(ctx, ada, "", "new", tenantFields{}, management.Match{1})
	wantError(t, err, 412, "precondition_failed")
	_, _, err = w.PutTenant(ctx, ada, "", "a b", tenantFields{}, nil)
	wantError(t, err, 422, "invalid_field", "/slug")
}

func TestDeleteTenant(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	k := w.key("acme")
	wantError(t, w.DeleteTenant(ctx, ada, "", "acme", false, nil), 409, "tenant_has_keys")
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, ada, "", k.ID))
	if err := w.DeleteTenant(ctx, ada, "", "acme", false, nil); err != nil {
		t.Fatal(err)
	}
	w.wantReason(k.Key, gateway.InvalidKey)
	_, err := w.Tenant(ctx, ada, "", "acme")
	wantError(t, err, 404, "not_found")
	_, err = w.Key(ctx, ada, "", k.ID)
	wantError(t, err, 404, "not_found")
	// The slug of a deleted tenant stays taken.
	_, err = w.CreateTenant(ctx, ada, "", "ACME", tenantFields{})
	wantError(t, err, 409, "slug_taken")
	_, _, err = w.PutTenant(ctx, ada, "", "acme", tenantFields{}, nil)
	wantError(t, err, 409, "slug_taken")

	w.tenant("b", "free")
	live := w.key("b")
	w.wantReason(live.Key, gateway.Allowed)
	if err := w.DeleteTenant(ctx, ada, "", "b", true, nil); err != nil {
		t.Fatal(err)
	}
	w.wantReason(live.Key, gateway.InvalidKey)
	w.wantIntact(-1)
}

func TestTenantPages(t *testing.T) {
	w := newFixture(t)
	for i := range 7 {
		w.tenant(fmt.Sprintf("t%d", i), []string{"free", "pro"}[i%2])
	}
	var got []string
	cursor := ""
	for {
		p := testkit.Must[management.Page[management.TenantRecord]](t)(w.Tenants(ctx, ada, "", management.TenantFilter{
			PageQuery: management.PageQuery{Limit: 3, Cursor: cursor},
		}))
		for _, r := range p.Data {
			got = append(got, r.Slug)
		}
		if p.NextCursor == nil {
			break
		}
		cursor = *p.NextCursor
		// A tenant that sorts before the cursor does not shift the next page.
		if len(got) == 3 {
			w.tenant("a0", "free")
		}
	}
	if want := "t0 t1 t2 t3 t4 t5 t6"; strings.Join(got, " ") != want {
		t.Errorf("listed %v, want %v", got, want)
	}
	p := testkit.Must[management.Page[management.TenantRecord]](t)(w.Tenants(ctx, ada, "", management.TenantFilter{Plan: "pro"}))
	if len(p.Data) != 3 {
		t.Errorf("%d tenants on pro, want 3", len(p.Data))
	}
	for _, q := range []management.PageQuery{{Limit: -1}, {Limit: 101}, {Cursor: "!"}, {Cursor: "azoxMjM"}} {
		_, err := w.Tenants(ctx, ada, "", management.TenantFilter{PageQuery: q})
		wantError(t, err, 422, "invalid_field")
	}
}

func TestCredits(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k := w.key("acme")
	w.wantReason(k.Key, gateway.CreditsExhausted)
	if n := testkit.Must[int64](t)(w.AddCredits(ctx, ada, "", "acme", 5, "")); n != 5 {
		t.Errorf("balance %d, want 5", n)
	}
	w.wantReason(k.Key, gateway.Allowed)
	w.wantReason(k.Key, gateway.Allowed)
	// SpendCredits first settles the credits that the gateway has leased for requests.
	if n := testkit.Must[int64](t)(w.SpendCredits(ctx, ada, "", "Acme", 2, "job_1")); n != 1 {
		t.Errorf("balance %d, want 1", n)
	}
	_, err := w.SpendCredits(ctx, ada, "", "acme", 2, "job_2")
	wantError(t, err, http.StatusPaymentRequired, "credits_exhausted")
	w.wantReason(k.Key, gateway.Allowed)
	w.wantReason(k.Key, gateway.CreditsExhausted)
	c := testkit.Must[management.CreditsRecord](t)(w.Credits(ctx, ada, "", "acme", management.PageQuery{}))
	var sum int64
	for _, e := range c.Data {
		sum += e.Amount
	}
	if c.Balance != 0 || sum != 0 {
		t.Errorf("balance %d, ledger adds up to %d, want 0", c.Balance, sum)
	}
	for _, n := range []int64{0, -1, 1 << 60} {
		_, err := w.AddCredits(ctx, ada, "", "acme", n, "")
		wantError(t, err, 422, "invalid_field", "/add")
	}
	_, err = w.SpendCredits(ctx, ada, "", "acme", 1, "a\nb")
	wantError(t, err, 422, "invalid_field", "/reference")
	_, err = w.AddCredits(ctx, ada, "", "missing", 1, "")
	wantError(t, err, 404, "not_found")
	r := testkit.Must[management.TenantRecord](t)(w.UpdateTenant(ctx, ada, "", "acme", tenantFields{Credits: some(int64(7))}, nil))
	if r.Credits != 7 {
		t.Errorf("set to %d, want 7", r.Credits)
	}
	w.wantIntact(-1)
}
