package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/importer"
	"github.com/keygate-dev/keygate/plugin/store"
)

// imports tests that secrets are found by the hints in their digests, and keys by the marks under
// which they were imported.
func imports(t *testing.T, s Store) {
	withKeys(t, s, "acme", 4)
	hint := apikey.Hint{0xff, 1, 2, 0xff}
	mark := apikey.Mark{7}
	update(t, s, func(tx store.Tx) error {
		for i, last := range []byte{0, 0x7f, 0xff} {
			hinted := secret("hinted-"+string('a'+rune(i)), "acme-0", "")
			copy(hinted.Digest, hint[:])
			for j := len(hint); j < len(hinted.Digest); j++ {
				hinted.Digest[j] = last
			}
			hinted.Algorithm = "bcrypt:x"
			if i == 2 {
				hinted.KeyID = "acme-1"
			}
			if err := tx.InsertSecret(hinted); err != nil {
				return err
			}
		}
		if n, err := tx.CountByHint(ks, hint); err != nil || n != 3 {
			t.Errorf("CountByHint = %d, %v", n, err)
		}
		if k, err := tx.KeyByDigest(ks, digest("acme-2")); err != nil || k.ID != "acme-2" || k.Tenant != "acme" {
			t.Errorf("KeyByDigest = %+v, %v", k, err)
		}
		for _, where := range []struct{ keyspace, full string }{{"other", "acme-2"}, {ks, "unknown"}} {
			if _, err := tx.KeyByDigest(where.keyspace, digest(where.full)); !errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("KeyByDigest of %v: %v", where, err)
			}
		}
		for range 2 { // Inserting the same import mark twice has no effect.
			if err := tx.InsertImportMark(ks, mark, "acme-3"); err != nil {
				return err
			}
		}
		return nil
	})
	list, err := s.SecretsByHint(ctxOf(t), ks, hint, 10)
	if err != nil || len(list) != 3 || list[0].Algorithm != "bcrypt:x" {
		t.Errorf("SecretsByHint = %+v, %v", list, err)
	}
	if list, err := s.SecretsByHint(ctxOf(t), ks, hint, 2); err != nil || len(list) != 2 {
		t.Errorf("SecretsByHint, two = %+v, %v", list, err)
	}
	for _, l := range []apikey.Hint{{0xff, 1, 2, 0xfe}, {0xff, 1, 3}} {
		if list, err := s.SecretsByHint(ctxOf(t), ks, l, 10); err != nil || len(list) != 0 {
			t.Errorf("SecretsByHint of %x = %+v, %v", l, list, err)
		}
	}
	if list, err := s.SecretsByHint(ctxOf(t), "other", hint, 10); err != nil || len(list) != 0 {
		t.Errorf("SecretsByHint of another keyspace = %+v, %v", list, err)
	}
	insertImported(t, s, mark)
	manyChanges(t, s)
	view(t, s, func(tx store.Tx) error {
		if k, err := tx.ImportedAs(ks, mark); err != nil || k.ID != "acme-3" {
			t.Errorf("ImportedAs = %+v, %v", k, err)
		}
		for keyspace, m := range map[string]apikey.Mark{ks: {8}, "other": mark} {
			if _, err := tx.ImportedAs(keyspace, m); !errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("ImportedAs of %s: %v", keyspace, err)
			}
		}
		return nil
	})
}

// insertImported tests that keys are inserted with their secret and mark, and that ExistingKeys finds
// these keys among many others.
func insertImported(t *testing.T, s Store, other apikey.Mark) {
	var digests []apikey.Digest
	marks := []apikey.Mark{other, {9}}
	for i := range 250 {
		digests = append(digests, digest(fmt.Sprint("unknown ", i)))
		marks = append(marks, apikey.Mark{10, byte(i)})
	}
	digests[3], digests[240] = digest("acme-2"), digest("bulk")
	bulk := secret("bulk", "not read", "bulk")
	update(t, s, func(tx store.Tx) error {
		k := *key("bulk", "acme")
		if err := tx.InsertImported(&k, bulk, apikey.Mark{9}); err != nil {
			return err
		}
		if k.Version != 1 {
			t.Errorf("the version is %d", k.Version)
		}
		d, m, err := tx.ExistingKeys(ks, digests, marks)
		if err != nil || len(d) != 2 || !d[digests[3]] || !d[digests[240]] || len(m) != 2 || !m[other] || !m[apikey.Mark{9}] {
			t.Errorf("ExistingKeys = %v, %v, %v", d, m, err)
		}
		if d, m, err := tx.ExistingKeys("other", digests, marks); err != nil || len(d) != 0 || len(m) != 0 {
			t.Errorf("ExistingKeys of another keyspace = %v, %v, %v", d, m, err)
		}
		if d, m, err := tx.ExistingKeys(ks, nil, nil); err != nil || len(d) != 0 || len(m) != 0 {
			t.Errorf("ExistingKeys of none = %v, %v, %v", d, m, err)
		}
		return nil
	})
	err := s.Update(ctxOf(t), func(tx management.Tx) error {
		k := *key("bulk again", "acme")
		return tx.(importer.Tx).InsertImported(&k, bulk, apikey.Mark{8})
	})
	if !errors.Is(err, management.ErrDigestTaken) {
		t.Errorf("a digest twice: %v", err)
	}
	err = s.Update(ctxOf(t), func(tx management.Tx) error {
		k := *key("bulk again", "none")
		return tx.(importer.Tx).InsertImported(&k, secret("bulk again", "", "bulk again"), apikey.Mark{8})
	})
	if !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("of a tenant that does not exist: %v", err)
	}
	view(t, s, func(tx store.Tx) error {
		if k, err := tx.KeyByDigest(ks, digest("bulk")); err != nil || k.ID != "bulk" || k.Tenant != "acme" {
			t.Errorf("KeyByDigest = %+v, %v", k, err)
		}
		if k, err := tx.ImportedAs(ks, apikey.Mark{9}); err != nil || k.ID != "bulk" {
			t.Errorf("ImportedAs = %+v, %v", k, err)
		}
		return nil
	})
}

// manyChanges tests that Changes numbers the changes in a list as single calls of Change would.
func manyChanges(t *testing.T, s Store) {
	var before int64
	many := make([]gateway.Change, 250)
	for i := range many {
		many[i] = gateway.Change{Kind: gateway.ChangeKey, Keyspace: ks, ID: fmt.Sprint("many ", i)}
	}
	many[7].Kind, many[8].Keyspace = gateway.ChangeTenant, "other"
	update(t, s, func(tx store.Tx) (err error) {
		if before, err = tx.Change(gateway.ChangeKey, ks, "before"); err != nil {
			return err
		}
		if err := tx.Changes(nil); err != nil {
			return err
		}
		if err := tx.Changes(many); err != nil {
			return err
		}
		if seq, err := tx.Change(gateway.ChangeKey, ks, "after"); err != nil || seq != before+251 {
			t.Errorf("the next change is %d after %d, %v", seq, before, err)
		}
		return nil
	})
	got, err := s.Changes(ctxOf(t), before, 1000)
	if err != nil || len(got) != 251 {
		t.Fatalf("%d changes, %v", len(got), err)
	}
	for i, want := range many {
		g := got[i]
		if want.Seq != before+int64(i+1) || g.Seq != want.Seq || g.Kind != want.Kind || g.Keyspace != want.Keyspace || g.ID != want.ID {
			t.Fatalf("change %d is %+v, not %+v", i, g, want)
		}
	}
	if seq, err := s.LastSeq(ctxOf(t)); err != nil || seq != before+251 {
		t.Errorf("the newest change is %d, %v", seq, err)
	}
}
