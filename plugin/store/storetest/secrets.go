package storetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
)

func secrets(t *testing.T, s Store) {
	withKeys(t, s, "a", 2)
	long := secret("long", "a-0", "x")
	long.Digest, long.Algorithm = bytes.Repeat([]byte{0, 255}, 32), "sha512"
	long.ExpiresAt, long.LastUsedAt, long.LastUsedIP = at.Add(time.Hour), at, "::1"
	update(t, s, func(tx store.Tx) error { return tx.InsertSecret(long) })
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Secrets(ks, "a-0")
		same(t, "secrets", got, []gateway.Secret{long, secret("s-a-0", "a-0", "a-0")})
		return err
	})

	// A digest is unique within a keyspace, across all keys. Another keyspace may have the same
	// digest.
	update(t, s, func(tx store.Tx) error {
		wantErr(t, "a taken digest", tx.InsertSecret(secret("again", "a-1", "a-0")), management.ErrDigestTaken)
		other := tenant("a")
		other.Keyspace = "other"
		k := key("o-0", "a")
		k.Keyspace = "other"
		in := secret("o-s", "o-0", "a-0")
		in.Keyspace = "other"
		return firstError(tx.InsertTenant(other), tx.InsertKey(k), tx.InsertSecret(in))
	})
	err := s.Update(ctxOf(t), func(tx management.Tx) error { return tx.InsertSecret(secret("n", "nothing", "n")) })
	wantErr(t, "a secret of an unknown key", err, gateway.ErrNotFound)

	changed := long
	changed.Algorithm, changed.Digest, changed.Prefix, changed.LastFour = "sha256", []byte{1}, "p", "l"
	changed.ExpiresAt, changed.LastUsedAt, changed.LastUsedIP = time.Time{}, at.Add(time.Hour), "::2"
	update(t, s, func(tx store.Tx) error { return tx.UpdateSecret(changed) })
	changed.LastUsedAt, changed.LastUsedIP = long.LastUsedAt, long.LastUsedIP // An update of a secret does not write its time and address of last use.
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Secrets(ks, "a-0")
		if len(got) == 2 {
			same(t, "updated", got[0], changed)
		}
		return err
	})
	if d, err := s.SecretDigests(ctxOf(t), ks, "a-0"); err != nil || len(d) != 2 {
		t.Errorf("digests of the key: %x, %v", d, err)
	}

	update(t, s, func(tx store.Tx) error { return tx.DeleteSecrets(ks, "a-0") })
	if d, err := s.SecretDigests(ctxOf(t), ks, "a-0"); err != nil || len(d) != 0 {
		t.Errorf("digests after deletion: %x, %v", d, err)
	}
	if d, err := s.SecretDigests(ctxOf(t), "other", "o-0"); err != nil || len(d) != 1 {
		t.Errorf("digests in the other keyspace: %x, %v", d, err)
	}
}

func lookup(t *testing.T, s Store) {
	withKeys(t, s, "Acme", 3)
	rec, err := s.Lookup(ctxOf(t), ks, []apikey.Candidate{candidate("nothing"), candidate("Acme-1"), candidate("Acme-2")})
	if err != nil {
		t.Fatal(err)
	}
	view(t, s, func(tx store.Tx) error {
		k, err := tx.Key(ks, "Acme-1")
		same(t, "key", rec.Key, k)
		tn, err2 := tx.Tenant(ks, "Acme")
		same(t, "tenant", rec.Tenant, tn)
		sec, err3 := tx.Secrets(ks, "Acme-1")
		same(t, "secret", []gateway.Secret{rec.Secret}, sec)
		return firstError(err, err2, err3)
	})
	for name, candidates := range map[string][]apikey.Candidate{
		"unknown": {candidate("nothing")}, "none": nil,
	} {
		_, err := s.Lookup(ctxOf(t), ks, candidates)
		wantErr(t, name, err, gateway.ErrNotFound)
	}
	_, err = s.Lookup(ctxOf(t), "other", []apikey.Candidate{candidate("Acme-1")})
	wantErr(t, "in another keyspace", err, gateway.ErrNotFound)
}

func lookupDeleted(t *testing.T, s Store) {
	withKeys(t, s, "a", 1)
	withKeys(t, s, "b", 1)
	update(t, s, func(tx store.Tx) error {
		k, err := tx.Key(ks, "a-0")
		if err != nil {
			return err
		}
		k.DeletedAt = at
		b, err := tx.Tenant(ks, "b")
		if err != nil {
			return err
		}
		b.DeletedAt = at
		return firstError(tx.UpdateKey(k), tx.UpdateTenant(b))
	})
	for _, full := range []string{"a-0", "b-0"} {
		_, err := s.Lookup(ctxOf(t), ks, []apikey.Candidate{candidate(full)})
		wantErr(t, "deleted "+full, err, gateway.ErrNotFound)
		_, err = s.LookupSecret(ctxOf(t), ks, "s-"+full)
		wantErr(t, "the secret of deleted "+full, err, gateway.ErrNotFound)
	}
}

func digests(t *testing.T, s Store) {
	withKeys(t, s, "a", 20)
	update(t, s, func(tx store.Tx) error {
		other := tenant("o")
		other.Keyspace = "other"
		k := key("o-0", "o")
		k.Keyspace = "other"
		in := secret("o-s", "o-0", "o-0")
		in.Keyspace = "other"
		return firstError(tx.InsertTenant(other), tx.InsertKey(k), tx.InsertSecret(in))
	})
	want := []string{"other " + fmt.Sprintf("%x", digest("o-0"))}
	for i := range 20 {
		want = append(want, fmt.Sprintf("%s %x", ks, digest(fmt.Sprintf("a-%d", i))))
	}
	got := make(map[string]bool)
	err := s.Digests(ctxOf(t), func(keyspace string, d []byte) bool {
		if len(got) == 5 {
			// A running call of Digests does not block writers.
			update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("meanwhile")) })
		}
		got[fmt.Sprintf("%s %x", keyspace, d)] = true
		return true
	})
	slices.Sort(want)
	if all := slices.Sorted(maps.Keys(got)); err != nil || !slices.Equal(all, want) {
		t.Errorf("digests: %v\n got %v\nwant %v", err, all, want)
	}
	n := 0
	if err := s.Digests(ctxOf(t), func(string, []byte) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("stopped after %d, %v; want 3", n, err)
	}
	if n, err := s.CountSecrets(ctxOf(t)); err != nil || n < 21 {
		t.Errorf("secrets: %d, %v; want at least 21", n, err)
	}
}

func rehash(t *testing.T, s Store) {
	withKeys(t, s, "a", 1)
	seq, err := s.LastSeq(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	to := apikey.Candidate{Algorithm: "hmac-sha256:01234567", Digest: digest("peppered")}
	before, err := s.LookupSecret(ctxOf(t), ks, "s-a-0")
	if err != nil || before.Key.ID != "a-0" || before.Tenant.Slug != "a" || before.Secret.ID != "s-a-0" {
		t.Errorf("by the secret's id: %+v, %v", before, err)
	}
	_, err = s.LookupSecret(ctxOf(t), "other", "s-a-0")
	wantErr(t, "in another keyspace", err, gateway.ErrNotFound)
	if err := s.Rehash(ctxOf(t), ks, "s-a-0", to); err != nil {
		t.Fatal(err)
	}
	rec, err := s.Lookup(ctxOf(t), ks, []apikey.Candidate{to})
	if err != nil || rec.Key.ID != "a-0" || rec.Secret.Algorithm != to.Algorithm || rec.Key.Version != 1 {
		t.Errorf("found by the new digest: %+v, %v", rec, err)
	}
	_, err = s.Lookup(ctxOf(t), ks, []apikey.Candidate{candidate("a-0")})
	wantErr(t, "found by the old digest", err, gateway.ErrNotFound)
	wantErr(t, "rehashing an unknown secret", s.Rehash(ctxOf(t), ks, "nothing", to), gateway.ErrNotFound)
	list, err := s.Changes(ctxOf(t), seq, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Kind != gateway.ChangeSecret {
			t.Errorf("rehashing made a change: %+v", c)
		}
	}
}

func setShown(t *testing.T, s Store) {
	withKeys(t, s, "a", 1)
	update(t, s, func(tx store.Tx) error { return tx.InsertSecret(secret("s-newer", "a-0", "newer")) })
	seq, err := s.LastSeq(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ secret, prefix, lastFour, key string }{
		{"s-a-0", "kg_live_1111", "1111", "kg_live_abcd wxyz"}, // A rotation has replaced the secret s-a-0, so the key keeps showing its newest secret.
		{"s-newer", "kg_live_2222", "2222", "kg_live_2222 2222"},
	} {
		if err := s.SetShown(ctxOf(t), ks, tt.secret, tt.prefix, tt.lastFour); err != nil {
			t.Fatal(err)
		}
		rec, err := s.LookupSecret(ctxOf(t), ks, tt.secret)
		if err != nil || rec.Secret.Prefix != tt.prefix || rec.Secret.LastFour != tt.lastFour || rec.Key.Version != 1 {
			t.Errorf("%s: %+v, %v", tt.secret, rec, err)
		} else if got := rec.Key.Prefix + " " + rec.Key.LastFour; got != tt.key {
			t.Errorf("after %s the key shows %s, want %s", tt.secret, got, tt.key)
		}
	}
	wantErr(t, "an unknown secret", s.SetShown(ctxOf(t), ks, "nothing", "a", "b"), gateway.ErrNotFound)
	wantErr(t, "in another keyspace", s.SetShown(ctxOf(t), "other", "s-a-0", "a", "b"), gateway.ErrNotFound)
	list, err := s.Changes(ctxOf(t), seq, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if c.Kind != gateway.ChangeSecret || c.ID != "a-0" {
			t.Errorf("SetShown made the change %+v", c)
		}
	}
}

func touches(t *testing.T, s Store) {
	withKeys(t, s, "a", 2)
	write := func(at time.Time, ip string) {
		t.Helper()
		err := s.WriteFlush(ctxOf(t), "n", &gateway.Flush{At: at, Touches: []gateway.Touch{
			{KeyID: "a-0", SecretID: "s-a-0", At: at, IP: ip}, {KeyID: "gone", SecretID: "gone", At: at}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	write(at, "192.0.2.1")
	write(at.Add(time.Second), "2001:db8::1")
	write(at.Add(-time.Hour), "192.0.2.3") // An older time of last use does not replace a newer one.
	view(t, s, func(tx store.Tx) error {
		k, err := tx.Key(ks, "a-0")
		if err == nil && (!k.LastUsedAt.Equal(at.Add(time.Second)) || k.LastUsedIP != "2001:db8::1" || k.Version != 1) {
			t.Errorf("key: %v from %s, version %d", k.LastUsedAt, k.LastUsedIP, k.Version)
		}
		sec, err2 := tx.Secrets(ks, "a-0")
		if err2 == nil && (!sec[0].LastUsedAt.Equal(at.Add(time.Second)) || sec[0].LastUsedIP != "2001:db8::1") {
			t.Errorf("secret: %+v", sec[0])
		}
		other, err3 := tx.Key(ks, "a-1")
		if err3 == nil && !other.LastUsedAt.IsZero() {
			t.Errorf("another key was touched: %+v", other)
		}
		return firstError(err, err2, err3)
	})
}
