package storetest

import (
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
	"github.com/keygate-dev/keygate/plugin/store"
)

func idempotencyRecords(t *testing.T, s Store) {
	row := func(id byte) *idempotency.Record {
		return &idempotency.Record{ID: []byte{id, 0}, Request: []byte{1}, Claim: "c", ClaimedAt: at, ExpiresAt: at.Add(time.Duration(id) * time.Hour)}
	}
	update(t, s, func(tx store.Tx) error {
		for _, id := range []byte{1, 2} {
			if fresh, err := tx.InsertIdempotency(row(id)); err != nil || !fresh {
				t.Errorf("inserting %d: %v, %v", id, fresh, err)
			}
		}
		other := row(1)
		other.Claim = "other"
		fresh, err := tx.InsertIdempotency(other)
		if fresh {
			t.Error("a row takes another's place")
		}
		return err
	})
	n := int64(5)
	want := row(1)
	want.Claim, want.ClaimedAt, want.Effect = "d", at.Add(1000), idempotency.Effect{Action: "a", Target: "t", Balance: &n}
	want.Status, want.ETag, want.Body = 201, `"1"`, `{"ü":1}`
	update(t, s, func(tx store.Tx) error {
		got, err := tx.LockIdempotency([]byte{1, 0})
		if err != nil {
			return err
		}
		same(t, "row", got, row(1))
		return tx.UpdateIdempotency(want)
	})
	update(t, s, func(tx store.Tx) error {
		got, err := tx.LockIdempotency([]byte{1, 0})
		if err != nil {
			return err
		}
		same(t, "updated", got, want)
		return tx.PruneIdempotency(at.Add(time.Hour))
	})
	update(t, s, func(tx store.Tx) error {
		_, err := tx.LockIdempotency([]byte{1, 0})
		wantErr(t, "pruned", err, gateway.ErrNotFound)
		if _, err = tx.LockIdempotency([]byte{2, 0}); err != nil {
			return err
		}
		return tx.DeleteIdempotency([]byte{2, 0})
	})
	update(t, s, func(tx store.Tx) error {
		_, err := tx.LockIdempotency([]byte{2, 0})
		wantErr(t, "deleted", err, gateway.ErrNotFound)
		return nil
	})
}
