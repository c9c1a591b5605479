package management_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// known returns, as text, all rows that the store holds about a tenant and about the given keys.
func (w *fixture) known(slug string, keys ...string) string {
	w.t.Helper()
	var b strings.Builder
	show := func(v any, err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
		text := testkit.Must[[]byte](w.t)(json.Marshal(v))
		b.Write(text)
	}
	err := w.store.View(ctx, func(tx management.Tx) error {
		b.Reset()
		show(tx.Tenant("default", slug))
		rows, err := tx.Audit(audit.Query{Tenant: slug})
		for _, r := range rows {
			fmt.Fprintf(&b, "%s %s %s %s\n", r.Action, r.Personal, r.Before, r.After)
		}
		show(nil, err)
		show(tx.Ledger(management.LedgerQuery{Keyspace: "default", Tenant: slug, Limit: 100}))
		for _, id := range keys {
			show(tx.Key("default", id))
			show(tx.Secrets("default", id))
		}
		return nil
	})
	show(nil, err)
	for _, id := range keys {
		chunks, err := w.store.RecentRequests(ctx, "default", id)
		show(nil, err)
		for _, c := range chunks {
			b.Write(c.Entries)
		}
	}
	return b.String()
}

func TestEraseTenant(t *testing.T) {
	w := newFixture(t)
	const person, address = "mallory", "203.0.113.7"
	by := management.Actor{Name: person, IP: address, Via: "api"}
	_, err := w.CreateTenant(ctx, by, "", "acme", management.TenantFields{
		Name: management.Some(person), Plan: management.Some("pro"), Metadata: management.Some(json.RawMessage(`{"mail":"` + person + `"}`))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.AddCredits(ctx, by, "", "acme", 500, person)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 2 {
		k := testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, by, "", "acme", management.KeyFields{
			Name: management.Some(person), Description: management.Some(person), AllowedIPs: management.Some([]string{address}),
			Metadata: management.Some(json.RawMessage(`{"mail":"` + person + `"}`))}))
		ids = append(ids, k.ID)
		touch := gateway.Touch{KeyID: k.ID, At: time.Now(), IP: address}
		if err := w.store.WriteFlush(ctx, "n1", &gateway.Flush{At: time.Now(), Touches: []gateway.Touch{touch}}); err != nil {
			t.Fatal(err)
		}
		remember(w, k.ID, int64(i+1), person)
	}
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, by, "", ids[0]))
	other := w.tenant("other", "pro")
	before := w.known("acme", ids...)
	for _, what := range []string{person, address} {
		if !strings.Contains(before, what) {
			t.Fatalf("%q is not known before: %s", what, before)
		}
	}

	wantError(t, w.EraseTenant(ctx, ada, "", "acme", false, nil), 409, "tenant_has_keys")
	if err := w.EraseTenant(ctx, ada, "", "acme", true, nil); err != nil {
		t.Fatal(err)
	}
	// A node may still hold a last use that it writes after the erasure. The store must discard
	// it.
	for i, id := range ids {
		late := &gateway.Flush{At: time.Now(), Touches: []gateway.Touch{{KeyID: id, At: time.Now(), IP: address}}}
		if err := w.store.WriteFlush(ctx, "n1", late); err != nil {
			t.Fatal(err)
		}
		remember(w, id, int64(i+3), person)
	}
	after := w.known("acme", ids...)
	for _, what := range []string{person, address} {
		if strings.Contains(after, what) {
			t.Errorf("%q is still known: %s", what, after)
		}
	}
	for _, what := range []string{"tenant.deleted", `"erased":true`, `"ada"`, "key.revoked", `"Amount":500`} {
		if !strings.Contains(after, what) {
			t.Errorf("%s is forgotten: %s", what, after)
		}
	}
	w.wantIntact(-1)
	if got := testkit.Must[management.TenantRecord](t)(w.Tenant(ctx, ada, "", other.Slug)); got.Plan != other.Plan {
		t.Errorf("another tenant is %+v", got)
	}
	_, err = w.Tenant(ctx, ada, "", "acme")
	wantError(t, err, 404, "not_found")
}

// TestEraseDeletedTenant erases a tenant that was deleted without erasure.
func TestEraseDeletedTenant(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	if err := w.DeleteTenant(ctx, ada, "", "acme", false, nil); err != nil {
		t.Fatal(err)
	}
	eve := management.Actor{Name: "eve", Via: "api"}
	confined := eve
	confined.Tenant = "acme"
	wantError(t, w.EraseTenant(ctx, confined, "", "acme", false, nil), 404, "not_found")
	if err := w.EraseTenant(ctx, eve, "", "acme", false, nil); err != nil {
		t.Fatal(err)
	}
	if known := w.known("acme"); strings.Contains(known, `"ada"`) || !strings.Contains(known, "eve") {
		t.Errorf("after erasing, this is known: %s", known)
	}
	wantError(t, w.EraseTenant(ctx, eve, "", "missing", false, nil), 404, "not_found")
	w.wantIntact(3)
}

// remember stores a request among the last requests of a key. seq is the number of the batch, and what is the content of
// the request.
func remember(w *fixture, key string, seq int64, what string) {
	w.t.Helper()
	err := w.store.WriteUsage(ctx, &usage.Batch{Writer: "w", Seq: seq, Node: "n1", Until: time.Now(), Chunks: []usage.Chunk{{
		Keyspace: "default", Key: key, Newest: time.Now(), Expires: time.Now().Add(time.Hour), Count: 1, Keep: 10,
		Entries: []byte(`["` + what + `"]`),
	}}})
	if err != nil {
		w.t.Fatal(err)
	}
}
