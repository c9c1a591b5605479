package storetest

import (
	"errors"
	"testing"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// copied is what an export gave.
type copied struct {
	tenants []*gateway.Tenant
	keys    []*gateway.Key
	secrets []*gateway.Secret
	// refuse is returned for the first secret.
	refuse error
}

func (c *copied) Tenant(t *gateway.Tenant) error { c.tenants = append(c.tenants, t); return nil }
func (c *copied) Key(k *gateway.Key) error       { c.keys = append(c.keys, k); return nil }
func (c *copied) Secret(s *gateway.Secret) error { c.secrets = append(c.secrets, s); return c.refuse }

func export(t *testing.T, s Store) {
	source, ok := s.(gateway.Source)
	if !ok {
		t.Fatal("the store is no gateway.Source")
	}
	var none copied
	if newest, err := source.Export(ctxOf(t), &none); err != nil || newest != (gateway.Change{}) || len(none.tenants) > 0 {
		t.Errorf("an empty store: %+v, %v", newest, err)
	}
	withKeys(t, s, "a", 3)
	withKeys(t, s, "b", 1)
	update(t, s, func(tx management.Tx) error {
		gone, err := tx.Key(ks, "a-0")
		if err != nil {
			return err
		}
		gone.DeletedAt = at
		_, err = tx.Change(gateway.ChangeKey, ks, "a-0")
		return firstError(err, tx.UpdateKey(gone))
	})
	var all copied
	last, err := s.LastSeq(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	newest, err := source.Export(ctxOf(t), &all)
	if err != nil || newest.Seq != last || newest.ID != "a-0" || newest.Mark == 0 {
		t.Errorf("the newest change is %+v, %v", newest, err)
	}
	if len(all.tenants) != 2 || len(all.keys) != 4 || len(all.secrets) != 4 {
		t.Fatalf("%d tenants, %d keys, %d secrets", len(all.tenants), len(all.keys), len(all.secrets))
	}
	view(t, s, func(tx management.Tx) error {
		for _, got := range all.keys {
			want, err := tx.Key(ks, got.ID)
			if err != nil {
				return err
			}
			same(t, "key "+got.ID, got, want)
		}
		got, err := tx.Tenant(ks, "b")
		same(t, "tenant", all.tenants[1], got)
		return err
	})
	if d := digest("b-0"); string(all.secrets[3].Digest) != string(d[:]) || all.secrets[3].KeyID != "b-0" {
		t.Errorf("the last secret: %+v", all.secrets[3])
	}
	no := errors.New("no")
	if _, err := source.Export(ctxOf(t), &copied{refuse: no}); err != no {
		t.Errorf("refused by its taker: %v", err)
	}
}
