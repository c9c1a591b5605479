package storetest

import (
	"bytes"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/store"
)

// checkpoints tests the store's identity, the number of audit events, and the published
// checkpoint.
func checkpoints(t *testing.T, s Store) {
	var id string
	var key []byte
	view(t, s, func(tx store.Tx) (err error) {
		id, key, err = tx.Identity()
		if len(id) != 32 || len(key) != 16 {
			t.Errorf("the id is %q, the key of cursors %x", id, key)
		}
		if g, err := tx.PublishedCheckpoint(); g.Seq != 0 || !g.At.IsZero() || len(g.Hash) != 0 || err != nil {
			t.Errorf("the checkpoint of a new store is %+v, %v", g, err)
		}
		return err
	})
	for i := range 5 {
		update(t, s, func(tx store.Tx) error {
			if again, k, err := tx.Identity(); again != id || !bytes.Equal(k, key) || err != nil {
				t.Errorf("the id is %q now, %v", again, err)
			}
			seq, hash, err := tx.LockNewestAudit()
			if err != nil {
				return err
			}
			e := event(seq, hash, "k", "acme")
			if i == 2 {
				e.Keyspace = "other"
			}
			return tx.InsertAudit(e)
		})
	}
	view(t, s, func(tx store.Tx) error {
		for _, tc := range []struct {
			keyspace string
			seq      int64
			want     int64
		}{{"", 9, 5}, {"", 2, 2}, {"", 0, 0}, {ks, 9, 4}, {ks, 2, 2}, {ks, 3, 2}, {"other", 2, 0}, {"other", 3, 1}, {"third", 9, 0}} {
			if n, err := tx.CountAudit(tc.keyspace, tc.seq); n != tc.want || err != nil {
				t.Errorf("%q has %d events up to %d, %v; want %d", tc.keyspace, n, tc.seq, err, tc.want)
			}
		}
		return nil
	})
	given := audit.PublishedCheckpoint{Seq: 3, At: at.Truncate(time.Microsecond), Hash: []byte{1, 0, 255}}
	update(t, s, func(tx store.Tx) error { return tx.SetPublishedCheckpoint(given) })
	update(t, s, func(tx store.Tx) error {
		g, err := tx.LockPublishedCheckpoint()
		same(t, "checkpoint", g, given)
		return err
	})
}
