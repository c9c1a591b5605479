package management_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

type keyFields = management.KeyFields

func TestKeyRecord(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	until := time.Now().Add(time.Hour)
	k := w.key("Acme", func(f *keyFields) {
		f.Description = some("for\nthe pipeline")
		f.Scopes = some([]string{"free", "deployment", "free"})
		f.Environment = some("test")
		f.ExpiresAt = some(until)
		f.AllowedIPs = some([]string{"10.1.2.3/8", "192.0.2.7", "::ffff:192.0.2.7", "2001:DB8::1/32", "::ffff:10.0.0.0/104"})
		f.Rate, f.CreditsLimit = some("5/m"), some(int64(9))
	})
	if !strings.HasPrefix(k.Key, "kg_test_") || len(k.Key) != len("kg_test_")+32 {
		t.Errorf("key %q", k.Key)
	}
	if !strings.HasPrefix(k.ID, "key_") || len(k.ID) != 30 {
		t.Errorf("id %q", k.ID)
	}
	if k.KeyPrefix != k.Key[:12] || len(k.LastFour) != 4 || k.Tenant != "acme" || k.CreatedBy != "ada" {
		t.Errorf("record %+v", k.KeyRecord)
	}
	if got := strings.Join(k.Scopes, " "); got != "deployment free" {
		t.Errorf("scopes %q", got)
	}
	if got := strings.Join(k.AllowedIPs, " "); got != "10.0.0.0/8 192.0.2.7 2001:db8::/32" {
		t.Errorf("allowed_ips %q", got)
	}
	if len(k.Secrets) != 1 || !strings.HasPrefix(k.Secrets[0].ID, "sec_") || k.Secrets[0].ExpiresAt != nil {
		t.Errorf("secrets %+v", k.Secrets)
	}
	read, _ := json.Marshal(testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", k.ID)))
	made, _ := json.Marshal(k.KeyRecord)
	if string(read) != string(made) {
		t.Errorf("read\n %s, made\n %s", read, made)
	}
	if strings.Contains(string(read), k.Key[12:]) {
		t.Error("the full key can be read back")
	}
	for _, field := range []string{"id", "tenant", "name", "description", "key_prefix", "last_four", "environment", "scopes", "effective_scopes", "status",
		"is_active", "created_at", "created_by", "expires_at", "last_used_at", "last_used_ip", "allowed_ips", "secrets", "metadata"} {
		if !strings.Contains(string(read), `"`+field+`":`) {
			t.Errorf("the record lacks %s", field)
		}
	}
	w.wantReason(k.Key, gateway.CreditsExhausted) // Every check of the request passes except the check of credits, because the tenant has no credits.
}

func TestKeyErrors(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	for name, c := range map[string]struct {
		in    keyFields
		code  string
		field string
	}{
		"no name":        {keyFields{}, "invalid_field", "/name"},
		"long name":      {keyFields{Name: some(strings.Repeat("x", 101))}, "invalid_field", "/name"},
		"control name":   {keyFields{Name: some("a\r\nb")}, "invalid_field", "/name"},
		"not UTF-8":      {keyFields{Name: some("a\xff")}, "invalid_field", "/name"},
		"description":    {keyFields{Description: some("\x00")}, "invalid_field", "/description"},
		"unknown scope":  {keyFields{Scopes: some([]string{"free", "root"})}, "invalid_field", "/scopes/1"},
		"scope over cap": {keyFields{Scopes: some([]string{"admin"})}, "scope_not_allowed", "/scopes/0"},
		"environment":    {keyFields{Environment: some("prod")}, "invalid_field", "/environment"},
		"past":           {keyFields{ExpiresAt: some(time.Now().Add(-time.Second))}, "invalid_field", "/expires_at"},
		"address":        {keyFields{AllowedIPs: some([]string{"10.0.0.0/8", "10.0.0"})}, "invalid_field", "/allowed_ips/1"},
		"zone":           {keyFields{AllowedIPs: some([]string{"fe80::1%eth0"})}, "invalid_field", "/allowed_ips/0"},
		"mapped block":   {keyFields{AllowedIPs: some([]string{"::ffff:0:0/90"})}, "invalid_field", "/allowed_ips/0"},
		"prefix length":  {keyFields{AllowedIPs: some([]string{"10.0.0.0/33"})}, "invalid_field", "/allowed_ips/0"},
		"rate":           {keyFields{Rate: some("0/m")}, "invalid_field", "/rate"},
		"tenant's rate":  {keyFields{Rate: some("5/m per tenant")}, "invalid_field", "/rate"},
		"many rates":     {keyFields{Rate: some("1/s, 2/s, 3/s, 4/s, 5/s")}, "invalid_field", "/rate"},
		"quota":          {keyFields{Quota: some("-1/day")}, "invalid_field", "/quota"},
		"credits limit":  {keyFields{CreditsLimit: some(int64(-5))}, "invalid_field", "/credits_limit"},
		"metadata":       {keyFields{Metadata: some(json.RawMessage(`"x"`))}, "invalid_field", "/metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			if !c.in.Name.Set && c.field != "/name" {
				c.in.Name = some("n")
			}
			_, err := w.CreateKey(ctx, ada, "", "acme", c.in)
			wantError(t, err, 422, c.code, c.field)
		})
	}
	w.wantIntact(1)
	_, err := w.CreateKey(ctx, ada, "", "missing", keyFields{Name: some("n")})
	wantError(t, err, 404, "not_found")
	for _, id := range []string{"", "key_", "key_\x00", "key_01j00000000000000000000000", "KEY_01J00000000000000000000000", "../x"} {
		_, err := w.Key(ctx, ada, "", id)
		wantError(t, err, 404, "not_found")
	}
	// A key's id is unknown in every other keyspace.
	k := w.key("acme")
	_, err = w.Key(ctx, ada, "other", k.ID)
	wantError(t, err, 404, "not_found")
	_, err = w.RevokeKey(ctx, ada, "other", k.ID)
	wantError(t, err, 404, "not_found")
}

func TestScopesFollowThePlan(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "business")
	all := w.key("acme")
	if got := strings.Join(all.Scopes, " ") + "|" + strings.Join(all.EffectiveScopes, " "); got != "admin|admin deployment free" {
		t.Errorf("default scopes %q", got)
	}
	testkit.Must[management.TenantRecord](t)(w.UpdateTenant(ctx, ada, "", "acme", tenantFields{Plan: some("pro")}, nil))
	lower := testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", all.ID))
	if got := strings.Join(lower.Scopes, " ") + "|" + strings.Join(lower.EffectiveScopes, " "); got != "admin|deployment free" {
		t.Errorf("scopes after the downgrade %q", got)
	}
	// The name of a key with a scope that the new plan does not allow can be changed. But that scope can't be chosen again.
	testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", all.ID, keyFields{Name: some("renamed")}, nil))
	_, err := w.UpdateKey(ctx, ada, "", all.ID, keyFields{Scopes: some([]string{"admin"})}, nil)
	wantError(t, err, 422, "scope_not_allowed", "/scopes/0")
	// A key whose plan is missing from the configuration has no scopes, but can be renamed.
	w.current().Keyspaces["default"].Plans["pro"], w.current().Keyspaces["default"].Plans["gone"] = nil, w.current().Keyspaces["default"].Plans["pro"]
	if k := testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", all.ID, keyFields{Name: some("again")}, nil)); len(k.EffectiveScopes) != 0 {
		t.Errorf("scopes of an unknown plan %v", k.EffectiveScopes)
	}
	_, err = w.UpdateKey(ctx, ada, "", all.ID, keyFields{Scopes: some([]string{"free"})}, nil)
	wantError(t, err, 422, "plan_unknown")
	_, err = w.CreateKey(ctx, ada, "", "acme", keyFields{Name: some("n")})
	wantError(t, err, 422, "plan_unknown")
	w.configure("free", 3, "free")
	if k := w.key("acme"); strings.Join(k.Scopes, " ") != "deployment" {
		t.Errorf("default scopes %v, want the plan's own", k.Scopes)
	}
	if k := w.key("acme", func(f *keyFields) { f.Scopes = some([]string{}) }); len(k.Scopes)+len(k.EffectiveScopes) != 0 {
		t.Errorf("scopes %v, want none", k.Scopes)
	}
}

func TestKeyStates(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	k := w.key("acme")
	w.wantReason(k.Key, gateway.Allowed)
	r := testkit.Must[management.Receipt](t)(w.DisableKey(ctx, ada, "", k.ID))
	if !slices.Equal(r.Confirmed, []string{"n1"}) || len(r.Pending) != 0 || !r.Durable || r.Status != gateway.StatusDisabled {
		t.Errorf("receipt %+v", r)
	}
	w.wantReason(k.Key, gateway.DisabledKey)
	testkit.Must[management.Receipt](t)(w.DisableKey(ctx, ada, "", k.ID)) // The second call changes nothing and appends no event.
	testkit.Must[management.Receipt](t)(w.EnableKey(ctx, ada, "", k.ID))
	w.wantReason(k.Key, gateway.Allowed)
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, ada, "", k.ID))
	w.wantReason(k.Key, gateway.RevokedKey)
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, ada, "", k.ID))
	w.wantIntact(5)
	for what, err := range map[string]error{
		"enable":  errOf(w.EnableKey(ctx, ada, "", k.ID)),
		"disable": errOf(w.DisableKey(ctx, ada, "", k.ID)),
		"rotate":  errOf(w.RotateKey(ctx, ada, "", k.ID, 0)),
		"update":  errOf(w.UpdateKey(ctx, ada, "", k.ID, keyFields{Name: some("x")}, nil)),
	} {
		t.Run(what, func(t *testing.T) { wantError(t, err, 409, "key_revoked") })
	}
	w.wantReason(k.Key, gateway.RevokedKey)
	if err := w.DeleteKey(ctx, ada, "", k.ID, nil); err != nil {
		t.Fatal(err)
	}
	w.wantReason(k.Key, gateway.InvalidKey)
	wantError(t, w.DeleteKey(ctx, ada, "", k.ID, nil), 404, "not_found")
}

func errOf[T any](_ T, err error) error { return err }

func TestRotate(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	first := w.key("acme")
	w.wantReason(first.Key, gateway.Allowed)

	second := testkit.Must[management.IssuedKey](t)(w.RotateKey(ctx, ada, "", first.ID, time.Hour))
	if second.ID != first.ID || second.Key == first.Key || !slices.Equal(second.Scopes, first.Scopes) || second.LastFour == first.LastFour {
		t.Errorf("rotated into %+v", second.KeyRecord)
	}
	w.wantReason(first.Key, gateway.Allowed)
	w.wantReason(second.Key, gateway.Allowed)

	// A second rotation ends the grace of the first, so that at most two secrets are valid.
	if now := testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", first.ID)); now.Version != second.Version {
		t.Errorf("version %d read, %d returned", now.Version, second.Version)
	}
	third := testkit.Must[management.IssuedKey](t)(w.RotateKey(ctx, ada, "", first.ID, time.Hour))
	if r := w.check(first.Key); r == gateway.Allowed {
		t.Error("the oldest of three secrets is still valid")
	}
	w.wantReason(second.Key, gateway.Allowed)
	w.wantReason(third.Key, gateway.Allowed)
	if len(third.Secrets) != 3 || third.Secrets[0].ExpiresAt != nil || third.Secrets[1].ExpiresAt == nil {
		t.Errorf("secrets %+v", third.Secrets)
	}

	fourth := testkit.Must[management.IssuedKey](t)(w.RotateKey(ctx, ada, "", first.ID, 0))
	for _, old := range []string{first.Key, second.Key, third.Key} {
		if w.check(old) == gateway.Allowed {
			t.Error("a secret outlived a rotation without grace")
		}
	}
	w.wantReason(fourth.Key, gateway.Allowed)
	for _, grace := range []time.Duration{-1, management.MaxGrace + 1} {
		_, err := w.RotateKey(ctx, ada, "", first.ID, grace)
		wantError(t, err, 422, "invalid_field", "/grace")
	}
	w.wantIntact(5)
}

func TestKeyLimit(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free") // three keys
	a, b := w.key("acme"), w.key("acme")
	soon := w.key("acme", func(f *keyFields) { f.ExpiresAt = some(time.Now().Add(time.Minute)) })
	full := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Fatalf("%s over the cap", what)
		}
		wantError(t, err, 409, "key_limit_reached")
	}
	full("created", errOf(w.CreateKey(ctx, ada, "", "acme", keyFields{Name: some("n")})))
	testkit.Must[management.Receipt](t)(w.DisableKey(ctx, ada, "", a.ID))
	c := w.key("acme")
	full("enabled", errOf(w.EnableKey(ctx, ada, "", a.ID)))
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, ada, "", c.ID))
	testkit.Must[management.Receipt](t)(w.EnableKey(ctx, ada, "", a.ID))

	// An expired key does not count against the limit of active keys. A later expiry makes the key count again.
	w.clock.Advance(2 * time.Minute)
	d := w.key("acme")
	full("prolonged", errOf(w.UpdateKey(ctx, ada, "", soon.ID, keyFields{ExpiresAt: management.Null[time.Time]()}, nil)))
	if err := w.DeleteKey(ctx, ada, "", b.ID, nil); err != nil {
		t.Fatal(err)
	}
	testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", soon.ID, keyFields{ExpiresAt: management.Null[time.Time]()}, nil))

	// After a downgrade the existing keys stay active.
	w.configure("free", 1, "free")
	w.wantReason(d.Key, gateway.Allowed)
	full("created", errOf(w.CreateKey(ctx, ada, "", "acme", keyFields{Name: some("n")})))
	testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", d.ID, keyFields{Name: some("renamed")}, nil))
	if r := testkit.Must[management.TenantRecord](t)(w.Tenant(ctx, ada, "", "acme")); r.KeysActive != 3 || *r.MaxKeys != 1 {
		t.Errorf("%d active keys of %d, want 3 of 1", r.KeysActive, *r.MaxKeys)
	}
}

func TestKeyPages(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.tenant("b", "pro")
	var ids []string
	for i := range 5 {
		ids = append(ids, w.key("acme", func(f *keyFields) { f.Name = some(fmt.Sprint(i)) }).ID)
	}
	if !slices.IsSorted(ids) {
		t.Error("ids do not rise")
	}
	w.key("b")
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, ada, "", ids[2]))
	slices.Reverse(ids)

	var got []string
	for cursor := ""; ; {
		p := testkit.Must[management.Page[management.KeyRecord]](t)(w.TenantKeys(ctx, ada, "", "ACME", management.KeyFilter{PageQuery: management.PageQuery{Limit: 2, Cursor: cursor}}))
		for _, k := range p.Data {
			got = append(got, k.ID)
		}
		w.key("acme") // A newer key does not shift the next page.
		if p.NextCursor == nil {
			break
		}
		cursor = *p.NextCursor
	}
	if !slices.Equal(got, ids) {
		t.Errorf("listed %v, want %v", got, ids)
	}
	for _, c := range []struct {
		q    management.KeyFilter
		want int
	}{
		{management.KeyFilter{Status: gateway.StatusRevoked}, 1},
		{management.KeyFilter{Tenant: "B"}, 1},
		{management.KeyFilter{Tenant: "missing"}, 0},
		{management.KeyFilter{Prefix: "kg_live_"}, 9},
		{management.KeyFilter{Prefix: "%"}, 0},
	} {
		p := testkit.Must[management.Page[management.KeyRecord]](t)(w.Keys(ctx, ada, "", c.q))
		if len(p.Data) != c.want {
			t.Errorf("%+v lists %d keys, want %d", c.q, len(p.Data), c.want)
		}
	}
	_, err := w.Keys(ctx, ada, "", management.KeyFilter{Status: "gone"})
	wantError(t, err, 422, "invalid_field")
	_, err = w.TenantKeys(ctx, ada, "", "missing", management.KeyFilter{})
	wantError(t, err, 404, "not_found")
}

// TestConfinedActor proves that an actor of one tenant can't learn whether another tenant exists.
func TestConfinedActor(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	w.tenant("b", "free")
	own, foreign := w.key("acme"), w.key("b")
	bob := management.Actor{Name: "bob", Via: "api", Tenant: "acme"}
	for what, err := range map[string]error{
		"tenant":  errOf(w.Tenant(ctx, bob, "", "b")),
		"key":     errOf(w.Key(ctx, bob, "", foreign.ID)),
		"revoke":  errOf(w.RevokeKey(ctx, bob, "", foreign.ID)),
		"rotate":  errOf(w.RotateKey(ctx, bob, "", foreign.ID, 0)),
		"create":  errOf(w.CreateKey(ctx, bob, "", "b", keyFields{Name: some("n")})),
		"keys":    errOf(w.TenantKeys(ctx, bob, "", "b", management.KeyFilter{})),
		"credits": errOf(w.Credits(ctx, bob, "", "b", management.PageQuery{})),
		"spend":   errOf(w.SpendCredits(ctx, bob, "", "b", 1, "")),
		"delete":  w.DeleteTenant(ctx, bob, "", "b", true, nil),
	} {
		t.Run(what, func(t *testing.T) { wantError(t, err, 404, "not_found") })
	}
	testkit.Must[management.KeyRecord](t)(w.Key(ctx, bob, "", own.ID))
	if p := testkit.Must[management.Page[management.KeyRecord]](t)(w.Keys(ctx, bob, "", management.KeyFilter{})); len(p.Data) != 1 {
		t.Errorf("%d keys listed, want 1", len(p.Data))
	}
	if p := testkit.Must[management.Page[management.KeyRecord]](t)(w.Keys(ctx, bob, "", management.KeyFilter{Tenant: "b"})); len(p.Data) != 0 {
		t.Errorf("%d foreign keys listed", len(p.Data))
	}
	if p := testkit.Must[management.Page[management.TenantRecord]](t)(w.Tenants(ctx, bob, "", management.TenantFilter{})); len(p.Data) != 1 {
		t.Errorf("%d tenants listed, want 1", len(p.Data))
	}
	for _, q := range []management.AuditFilter{{}, {Tenant: "b"}, {Key: foreign.ID}} {
		for _, e := range testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, bob, "", q)).Data {
			if e.Tenant == nil || *e.Tenant != "acme" {
				t.Errorf("%+v lists %+v", q, e)
			}
		}
	}
}

func TestRacingCreations(t *testing.T) {
	w := newFixture(t)
	w.configure("free", 10, "free")
	w.tenant("acme", "free")
	var made, rejected atomic.Int64
	race(t, 1000, 1, func(int) error {
		_, err := w.CreateKey(ctx, ada, "", "acme", keyFields{Name: some("n")})
		var e *management.Error
		switch {
		case err == nil:
			made.Add(1)
		case errors.As(err, &e) && e.Code == "key_limit_reached":
			rejected.Add(1)
		default:
			return err
		}
		return nil
	})
	if made.Load() != 10 || rejected.Load() != 990 {
		t.Errorf("%d created, %d rejected, want 10 and 990", made.Load(), rejected.Load())
	}
	if r := testkit.Must[management.TenantRecord](t)(w.Tenant(ctx, ada, "", "acme")); r.KeysActive != 10 {
		t.Errorf("%d active keys, want 10", r.KeysActive)
	}
	w.wantIntact(11)
}

func TestRacingStates(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	k := w.key("acme")
	var mu sync.Mutex
	issued := []string{k.Key}
	race(t, 8, 20, func(i int) error {
		var err error
		switch {
		case i == 120:
			_, err = w.RevokeKey(ctx, ada, "", k.ID)
		case i%4 == 0:
			_, err = w.DisableKey(ctx, ada, "", k.ID)
		case i%4 == 1:
			_, err = w.EnableKey(ctx, ada, "", k.ID)
		case i%4 == 2:
			var r management.IssuedKey
			if r, err = w.RotateKey(ctx, ada, "", k.ID, time.Hour); err == nil {
				mu.Lock()
				issued = append(issued, r.Key)
				mu.Unlock()
			}
		default:
			w.check(k.Key)
		}
		var e *management.Error
		if errors.As(err, &e) && e.Code == "key_revoked" {
			return nil
		}
		return err
	})
	r := testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", k.ID))
	if r.Status != gateway.StatusRevoked {
		t.Errorf("status %s, want revoked", r.Status)
	}
	valid := 0
	for _, s := range r.Secrets {
		if s.ExpiresAt == nil || s.ExpiresAt.After(w.clock.Now()) {
			valid++
		}
	}
	if valid > 2 {
		t.Errorf("%d secrets have not ended, want at most 2", valid)
	}
	for _, full := range issued {
		if got := w.check(full); got == gateway.Allowed {
			t.Error("a secret of the revoked key passes")
		}
	}
	w.wantIntact(-1)
}

// TestRacingRevocations makes a thousand revocations and rotations of a few keys at the same time.
// Each key is revoked once in the end, and has one secret for each rotation, none of which is
// accepted.
func TestRacingRevocations(t *testing.T) {
	const keys, calls = 10, 1000
	w := newFixture(t)
	w.configure("free", keys, "free")
	w.tenant("acme", "free")
	ids := make([]string, keys)
	var mu sync.Mutex
	issued := map[string][]string{} // issued holds the full keys that rotations returned, by key.
	for i := range ids {
		k := w.key("acme")
		ids[i], issued[k.ID] = k.ID, []string{k.Key}
	}
	race(t, calls, 1, func(i int) error {
		id := ids[i%keys]
		if i > calls/5 && i/keys%5 == 0 {
			_, err := w.RevokeKey(ctx, ada, "", id)
			return err
		}
		r, err := w.RotateKey(ctx, ada, "", id, time.Hour)
		var e *management.Error
		if errors.As(err, &e) && e.Code == "key_revoked" {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		issued[id] = append(issued[id], r.Key)
		return err
	})
	events := int64(1 + keys)
	for _, id := range ids {
		k := testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", id))
		if k.Status != gateway.StatusRevoked || len(k.Secrets) != len(issued[id]) {
			t.Errorf("%s is %s and has %d secrets, of %d issued", id, k.Status, len(k.Secrets), len(issued[id]))
		}
		valid := 0
		for _, s := range k.Secrets {
			if s.ExpiresAt == nil || s.ExpiresAt.After(w.clock.Now()) {
				valid++
			}
		}
		if valid > 2 {
			t.Errorf("%s: %d secrets have not ended, want at most 2", id, valid)
		}
		current := false
		for _, full := range issued[id] {
			w.wantReason(full, gateway.RevokedKey)
			current = current || strings.HasPrefix(full, k.KeyPrefix) && strings.Contains(full, k.LastFour)
		}
		if !current {
			t.Errorf("%s shows %s…%s, which none of the issued ones has", id, k.KeyPrefix, k.LastFour)
		}
		done := map[string]int{}
		for cursor := ""; ; {
			page := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{
				Key: id, PageQuery: management.PageQuery{Limit: 100, Cursor: cursor}}))
			for _, e := range page.Data {
				done[e.Action]++
			}
			events += int64(len(page.Data))
			if page.NextCursor == nil {
				break
			}
			cursor = *page.NextCursor
		}
		if done["key.revoked"] != 1 || done["key.rotated"] != len(issued[id])-1 {
			t.Errorf("%s: %v, and %d rotations returned a key", id, done, len(issued[id])-1)
		}
	}
	w.wantIntact(events - keys)
}

// race calls f with the numbers from 0 to callers×each-1. It uses as many goroutines as callers, and each of them makes each
// calls.
func race(t *testing.T, callers, each int, f func(int) error) {
	t.Helper()
	var wg sync.WaitGroup
	var n atomic.Int64
	for range callers {
		wg.Go(func() {
			for range each {
				if err := f(int(n.Add(1))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
