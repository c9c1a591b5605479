package replica_test

import (
	"context"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
	"github.com/keygate-dev/keygate/plugin/store/storetest"
)

// announcing is a store that appends a change for each write of a tenant or key at the end of its
// transaction, as management does. The test suite in storetest appends no changes, and without changes
// the copy would not receive the writes.
type announcing struct{ storetest.Store }

func (s announcing) Update(ctx context.Context, f func(management.Tx) error) error {
	return s.Store.Update(ctx, func(tx management.Tx) error {
		t := &announcingTx{Tx: tx.(store.Tx)}
		if err := f(t); err != nil {
			return err
		}
		for _, c := range t.changes {
			if _, err := tx.Change(c.Kind, c.Keyspace, c.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

type announcingTx struct {
	store.Tx
	changes []gateway.Change
}

func (t *announcingTx) record(kind gateway.ChangeKind, keyspace, id string, err error) error {
	if err == nil {
		t.changes = append(t.changes, gateway.Change{Kind: kind, Keyspace: keyspace, ID: id})
	}
	return err
}

func (t *announcingTx) InsertTenant(in *gateway.Tenant) error {
	return t.record(gateway.ChangeTenant, in.Keyspace, in.Slug, t.Tx.InsertTenant(in))
}

func (t *announcingTx) UpdateTenant(in *gateway.Tenant) error {
	return t.record(gateway.ChangeTenant, in.Keyspace, in.Slug, t.Tx.UpdateTenant(in))
}

func (t *announcingTx) InsertKey(k *gateway.Key) error {
	return t.record(gateway.ChangeKey, k.Keyspace, k.ID, t.Tx.InsertKey(k))
}

func (t *announcingTx) UpdateKey(k *gateway.Key) error {
	return t.record(gateway.ChangeKey, k.Keyspace, k.ID, t.Tx.UpdateKey(k))
}

func (t *announcingTx) InsertSecret(s gateway.Secret) error {
	return t.record(gateway.ChangeKey, s.Keyspace, s.KeyID, t.Tx.InsertSecret(s))
}

func (t *announcingTx) UpdateSecret(s gateway.Secret) error {
	return t.record(gateway.ChangeKey, s.Keyspace, s.KeyID, t.Tx.UpdateSecret(s))
}

func (t *announcingTx) DeleteSecrets(keyspace, keyID string) error {
	return t.record(gateway.ChangeKey, keyspace, keyID, t.Tx.DeleteSecrets(keyspace, keyID))
}
