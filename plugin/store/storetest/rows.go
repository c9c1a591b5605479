package storetest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
)

func tenantRoundTrip(t *testing.T, s Store) {
	full := &gateway.Tenant{Keyspace: ks, Slug: "Acme", Name: "Acme \x01 ™ 'quoted' $1", Plan: "pro", Active: true,
		Overrides: gateway.Overrides{Rate: "500/m burst 60", Quota: "10/day", Concurrency: "5"},
		Metadata:  json.RawMessage(`{ "a" : [1, 2.50, null] }`), CreatedAt: at, UpdatedAt: at.Add(time.Hour)}
	bare := &gateway.Tenant{Keyspace: "other", Slug: "acme"}
	for _, in := range []*gateway.Tenant{full, bare} {
		in.Credits = 99
		update(t, s, func(tx store.Tx) error { return tx.InsertTenant(in) })
		if in.Version != 1 || in.Credits != 0 {
			t.Errorf("after the insert: version %d, credits %d; want 1 and 0", in.Version, in.Credits)
		}
		view(t, s, func(tx store.Tx) error {
			got, err := tx.Tenant(in.Keyspace, in.Slug)
			same(t, "inserted", got, in)
			return err
		})
	}
	if got := bare; got.Metadata != nil || !got.CreatedAt.IsZero() {
		t.Errorf("bare tenant: %+v", got)
	}

	full.Name, full.Plan, full.Active, full.Overrides, full.Metadata = "B", "free", false, gateway.Overrides{}, nil
	full.UpdatedAt, full.DeletedAt = at.Add(2*time.Hour), at.Add(3*time.Hour)
	full.Credits, full.Version = 1000, 77 // The store sets Credits and Version by itself, and must ignore the values that a caller sets.
	update(t, s, func(tx store.Tx) error { return tx.UpdateTenant(full) })
	if full.Version != 2 {
		t.Errorf("version after the update: %d, want 2", full.Version)
	}
	view(t, s, func(tx store.Tx) error {
		got, err := tx.LockTenant(ks, "ACME")
		full.Credits = 0
		same(t, "updated", got, full)
		return err
	})
	err := s.View(ctxOf(t), func(tx management.Tx) error { _, err := tx.Tenant(ks, "none"); return err })
	wantErr(t, "an unknown tenant", err, gateway.ErrNotFound)
	err = s.Update(ctxOf(t), func(tx management.Tx) error { return tx.UpdateTenant(tenant("none")) })
	wantErr(t, "updating an unknown tenant", err, gateway.ErrNotFound)
}

func tenantSlugs(t *testing.T, s Store) {
	update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("Acme")) })
	// The transaction can still be used after a rejected insert.
	update(t, s, func(tx store.Tx) error {
		wantErr(t, "other case", tx.InsertTenant(tenant("aCME")), management.ErrSlugTaken)
		return tx.InsertTenant(tenant("acme-2"))
	})
	update(t, s, func(tx store.Tx) error {
		got, err := tx.Tenant(ks, "acme")
		if err != nil {
			return err
		}
		got.DeletedAt = at
		return tx.UpdateTenant(got)
	})
	update(t, s, func(tx store.Tx) error {
		wantErr(t, "a deleted tenant's slug", tx.InsertTenant(tenant("acme")), management.ErrSlugTaken)
		other := tenant("acme")
		other.Keyspace = "other"
		return tx.InsertTenant(other)
	})
	view(t, s, func(tx store.Tx) error {
		list, err := tx.Tenants(management.TenantQuery{Keyspace: ks, Limit: 10})
		if len(list) != 1 || list[0].Slug != "acme-2" {
			t.Errorf("listed: %s", asJSON(t, list))
		}
		gone, err2 := tx.Tenant(ks, "acme")
		if err2 != nil || gone.DeletedAt.IsZero() {
			t.Errorf("the deleted tenant: %+v, %v", gone, err2)
		}
		return err
	})
}

func tenantPaging(t *testing.T, s Store) {
	var want []string
	update(t, s, func(tx store.Tx) error {
		for i := range 25 {
			slug := fmt.Sprintf("t-%02d", i)
			if i%2 == 1 {
				slug = fmt.Sprintf("T-%02d", i)
			}
			want = append(want, slug)
			if err := tx.InsertTenant(tenant(slug)); err != nil {
				return err
			}
		}
		return nil
	})
	var got []string
	after := "b"
	for page := range 10 {
		// Paging continues correctly if tenants are inserted before and behind the cursor between two pages.
		update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant(fmt.Sprintf("a-%d", page))) })
		n := 0
		view(t, s, func(tx store.Tx) error {
			list, err := tx.Tenants(management.TenantQuery{Keyspace: ks, After: after, Limit: 7})
			for _, one := range list {
				got = append(got, one.Slug)
			}
			n = len(list)
			return err
		})
		if n == 0 {
			break
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, want) {
		t.Errorf("paged:\n got %v\nwant %v", got, want)
	}
}

func plans(t *testing.T, s Store) {
	update(t, s, func(tx store.Tx) error {
		for i := range 6 {
			in := tenant(fmt.Sprint("t", i))
			if i >= 4 {
				in.Plan = "pro"
			}
			if i == 0 {
				in.DeletedAt = at
			}
			if err := tx.InsertTenant(in); err != nil {
				return err
			}
		}
		other := tenant("t1")
		other.Keyspace = "other"
		return tx.InsertTenant(other)
	})
	by, err := s.TenantsByPlan(ctxOf(t), ks)
	if err != nil || len(by) != 2 || by["free"] != 3 || by["pro"] != 2 {
		t.Errorf("by plan: %v, %v", by, err)
	}
	view(t, s, func(tx store.Tx) error {
		list, err := tx.Tenants(management.TenantQuery{Keyspace: ks, Plan: "pro", After: "t4", Limit: 5})
		if len(list) != 1 || list[0].Slug != "t5" {
			t.Errorf("of plan pro after t4: %s", asJSON(t, list))
		}
		return err
	})
	seq, err := s.LastSeq(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.RenamePlan(ctxOf(t), ks, "free", "starter")
	if err != nil || n != 3 {
		t.Errorf("renamed %d, %v; want 3", n, err)
	}
	by, err = s.TenantsByPlan(ctxOf(t), ks)
	if err != nil || by["starter"] != 3 || by["free"] != 0 {
		t.Errorf("by plan afterwards: %v, %v", by, err)
	}
	list, err := s.Changes(ctxOf(t), seq, 10)
	if err != nil || len(list) != 3 || list[0].Kind != gateway.ChangeTenant || list[0].Keyspace != ks {
		t.Errorf("changes of the renaming: %+v, %v", list, err)
	}
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Tenant(ks, "t1")
		if err == nil && got.Version != 2 {
			t.Errorf("version of a renamed tenant: %d, want 2", got.Version)
		}
		return err
	})
}

func keyRoundTrip(t *testing.T, s Store) {
	update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("Acme")) })
	limit := int64(500)
	zero := int64(0)
	full := &gateway.Key{ID: "key_1", Keyspace: ks, Tenant: "Acme", Name: "ci", Description: "über\nzwei", Environment: "live",
		Scopes: []string{"admin", "deploy:read"}, Disabled: true, RevokedAt: at, DeletedAt: at.Add(1), ExpiresAt: at.Add(time.Hour),
		AllowedIPs: []netip.Prefix{cidr("10.0.0.0/8"), cidr("2001:db8::/32"), cidr("192.0.2.1/32")},
		Overrides:  gateway.Overrides{Rate: "1/s", Quota: "2/month", Concurrency: "3"}, CreditsLimit: &limit,
		Metadata: json.RawMessage(`{"k":"v"}`), CreatedAt: at, CreatedBy: "me", UpdatedAt: at,
		LastUsedAt: at.Add(time.Minute), LastUsedIP: "192.0.2.7", Prefix: "kg_live_abcd", LastFour: "wxyz", Allowance: "key_0"}
	full.DeletedAt = at.Add(time.Second)
	bare := &gateway.Key{ID: "key_2", Keyspace: ks, Tenant: "Acme"}
	none := &gateway.Key{ID: "key_3", Keyspace: ks, Tenant: "Acme", Scopes: []string{}, CreditsLimit: &zero,
		ExpiresAt: time.Unix(0, 0).UTC()}
	for _, in := range []*gateway.Key{full, bare, none} {
		update(t, s, func(tx store.Tx) error { return tx.InsertKey(in) })
		if in.Version != 1 {
			t.Errorf("version after the insert: %d", in.Version)
		}
		view(t, s, func(tx store.Tx) error {
			got, err := tx.Key(ks, in.ID)
			same(t, "inserted", got, in)
			if err == nil && ((got.Scopes == nil) != (in.Scopes == nil) || got.ExpiresAt.IsZero() != in.ExpiresAt.IsZero()) {
				t.Errorf("scopes %#v, want %#v; expires %v, want %v", got.Scopes, in.Scopes, got.ExpiresAt, in.ExpiresAt)
			}
			return err
		})
	}
	err := s.Update(ctxOf(t), func(tx management.Tx) error { return tx.InsertKey(key("key_4", "none")) })
	wantErr(t, "a key of an unknown tenant", err, gateway.ErrNotFound)
	err = s.View(ctxOf(t), func(tx management.Tx) error { _, err := tx.Key("other", "key_1"); return err })
	wantErr(t, "a key of another keyspace", err, gateway.ErrNotFound)

	next := *full
	next.Name, next.Description, next.Environment, next.Scopes, next.Disabled = "b", "", "test", nil, false
	next.RevokedAt, next.DeletedAt, next.ExpiresAt, next.AllowedIPs = time.Time{}, time.Time{}, time.Time{}, nil
	next.Overrides, next.CreditsLimit, next.Metadata = gateway.Overrides{}, nil, nil
	next.UpdatedAt, next.Prefix, next.LastFour = at.Add(time.Hour), "kg_live_efgh", "qrst"
	next.LastUsedAt, next.LastUsedIP, next.Allowance = time.Time{}, "", ""
	update(t, s, func(tx store.Tx) error { return tx.UpdateKey(&next) })
	next.LastUsedAt, next.LastUsedIP = full.LastUsedAt, full.LastUsedIP // An update of a key does not write its time and address of last use.
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Key(ks, "key_1")
		same(t, "updated", got, &next)
		return err
	})
	if next.Version != 2 {
		t.Errorf("version after the update: %d, want 2", next.Version)
	}
	err = s.Update(ctxOf(t), func(tx management.Tx) error { return tx.UpdateKey(key("nothing", "Acme")) })
	wantErr(t, "updating an unknown key", err, gateway.ErrNotFound)
}

func ids(list []*gateway.Key) []string {
	var out []string
	for _, k := range list {
		out = append(out, k.ID)
	}
	return out
}

func keyFilters(t *testing.T, s Store) {
	now := at.Add(time.Hour)
	update(t, s, func(tx store.Tx) error {
		for _, slug := range []string{"a", "B"} {
			if err := tx.InsertTenant(tenant(slug)); err != nil {
				return err
			}
		}
		add := func(id, slug string, change func(*gateway.Key)) error {
			k := key(id, slug)
			change(k)
			return tx.InsertKey(k)
		}
		return firstError(
			add("plain", "a", func(*gateway.Key) {}),
			add("later", "a", func(k *gateway.Key) { k.ExpiresAt = now.Add(time.Microsecond); k.Prefix = "kg_test_abcd" }),
			add("expired", "a", func(k *gateway.Key) { k.ExpiresAt = now; k.Prefix = "kg_test_%_cd" }),
			add("disabled", "B", func(k *gateway.Key) { k.Disabled = true; k.ExpiresAt = now }),
			add("revoked", "B", func(k *gateway.Key) { k.RevokedAt = at; k.Disabled = true }),
			add("deleted", "B", func(k *gateway.Key) { k.DeletedAt = at }),
		)
	})
	for _, tc := range []struct {
		q    management.KeyQuery
		want []string
	}{
		{management.KeyQuery{}, []string{"revoked", "disabled", "expired", "later", "plain"}},
		{management.KeyQuery{Tenant: "A"}, []string{"expired", "later", "plain"}},
		{management.KeyQuery{Tenant: "none"}, nil},
		{management.KeyQuery{Status: gateway.StatusActive}, []string{"later", "plain"}},
		{management.KeyQuery{Status: gateway.StatusExpired}, []string{"expired"}},
		{management.KeyQuery{Status: gateway.StatusDisabled}, []string{"disabled"}},
		{management.KeyQuery{Status: gateway.StatusRevoked}, []string{"revoked"}},
		{management.KeyQuery{Status: gateway.StatusActive, Tenant: "b"}, nil},
		{management.KeyQuery{Prefix: "kg_test_"}, []string{"expired", "later"}},
		{management.KeyQuery{Prefix: "kg_test_abcd"}, []string{"later"}},
		{management.KeyQuery{Prefix: "kg_test_%_cd"}, []string{"expired"}},
		{management.KeyQuery{Prefix: "%"}, nil},
		{management.KeyQuery{Prefix: "KG_TEST_ABCD"}, nil},
		{management.KeyQuery{Prefix: "kg_test_abcdefgh"}, nil},
		{management.KeyQuery{Prefix: "kg_live_abcd", Before: "revoked"}, []string{"disabled", "plain"}},
		{management.KeyQuery{Before: "deleted", Limit: 1}, []string{"revoked"}},
	} {
		tc.q.Keyspace, tc.q.Now = ks, now
		if tc.q.Limit == 0 {
			tc.q.Limit = 100
		}
		view(t, s, func(tx store.Tx) error {
			list, err := tx.Keys(tc.q)
			if !slices.Equal(ids(list), tc.want) {
				t.Errorf("%+v: got %v, want %v", tc.q, ids(list), tc.want)
			}
			for _, k := range list {
				if tc.q.Status != "" && k.StatusAt(now) != tc.q.Status {
					t.Errorf("%s listed as %s is %s", k.ID, tc.q.Status, k.StatusAt(now))
				}
			}
			return err
		})
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func keyPaging(t *testing.T, s Store) {
	withKeys(t, s, "a", 23)
	var want, got []string
	for i := 22; i >= 0; i-- {
		want = append(want, fmt.Sprintf("a-%d", i))
	}
	before := ""
	for page := range 10 {
		var list []*gateway.Key
		view(t, s, func(tx store.Tx) (err error) {
			list, err = tx.Keys(management.KeyQuery{Keyspace: ks, Before: before, Limit: 5, Now: at})
			return err
		})
		if len(list) == 0 {
			break
		}
		got = append(got, ids(list)...)
		before = got[len(got)-1]
		// Paging continues correctly after newer keys were inserted and the cursor's own key was deleted.
		update(t, s, func(tx store.Tx) error {
			k := list[len(list)-1]
			k.DeletedAt = at
			return firstError(tx.InsertKey(key(fmt.Sprint("new-", page), "a")), tx.UpdateKey(k))
		})
	}
	if !slices.Equal(got, want) {
		t.Errorf("paged:\n got %v\nwant %v", got, want)
	}
}

func activeKeys(t *testing.T, s Store) {
	withKeys(t, s, "a", 6)
	withKeys(t, s, "b", 1)
	now := at.Add(time.Hour)
	for i, change := range []func(*gateway.Key){
		func(k *gateway.Key) { k.Disabled = true },
		func(k *gateway.Key) { k.RevokedAt = at },
		func(k *gateway.Key) { k.DeletedAt = at },
		func(k *gateway.Key) { k.ExpiresAt = now },
		func(k *gateway.Key) { k.ExpiresAt = now.Add(time.Microsecond) },
	} {
		update(t, s, func(tx store.Tx) error {
			k, err := tx.Key(ks, fmt.Sprintf("a-%d", i))
			if err != nil {
				return err
			}
			change(k)
			return tx.UpdateKey(k)
		})
	}
	view(t, s, func(tx store.Tx) error {
		n, err := tx.ActiveKeys(ks, "A", now)
		if n != 2 {
			t.Errorf("active: %d, want 2", n)
		}
		if none, err := tx.ActiveKeys(ks, "none", now); none != 0 || err != nil {
			t.Errorf("active keys of an unknown tenant: %d, %v", none, err)
		}
		return err
	})
}

// An allowance is free if no active key has it.
func allowances(t *testing.T, s Store) {
	withKeys(t, s, "a", 3)
	withKeys(t, s, "b", 1)
	edit := func(id string, f func(*gateway.Key)) {
		t.Helper()
		update(t, s, func(tx store.Tx) error {
			k, err := tx.Key(ks, id)
			if err != nil {
				return err
			}
			f(k)
			return tx.UpdateKey(k)
		})
	}
	want := func(free string, taken ...string) {
		t.Helper()
		view(t, s, func(tx store.Tx) error {
			got, err := tx.FreeAllowance(ks, "A", at)
			if err != nil || got != free {
				t.Errorf("free is %q, %v; want %q", got, err, free)
			}
			for _, id := range []string{"a-0", "a-1", "a-2", "b-0"} {
				k, err := tx.Key(ks, id)
				if err != nil {
					return err
				}
				if got, err := tx.AllowanceTaken(k, at); err != nil || got != slices.Contains(taken, id) {
					t.Errorf("the allowance of %s is taken: %t, %v", id, got, err)
				}
			}
			return nil
		})
	}
	want("")
	edit("b-0", func(k *gateway.Key) { k.RevokedAt = at })
	want("")
	edit("a-0", func(k *gateway.Key) { k.Disabled = true })
	want("a-0")
	edit("a-1", func(k *gateway.Key) { k.ExpiresAt = at })
	want("a-1")
	// The allowance of a-0 goes to a-2, whose own becomes free only without an owner that is active.
	edit("a-2", func(k *gateway.Key) { k.Allowance = "a-0" })
	want("a-1", "a-0")
	edit("a-1", func(k *gateway.Key) { k.Allowance = "a-0" })
	want("", "a-0", "a-1")
	edit("a-2", func(k *gateway.Key) { k.DeletedAt = at })
	want("a-0")
}
