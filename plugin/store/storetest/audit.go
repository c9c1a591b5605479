package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/store"
)

// event returns the audit event that follows the event with the given number and hash.
func event(seq int64, prev []byte, target, tenant string) *audit.Row {
	hash := sha256.Sum256(fmt.Appendf(prev, "%d", seq+1))
	return &audit.Row{Seq: seq + 1, ID: fmt.Sprint("evt_", seq+1), Keyspace: ks, At: at, Action: "key.updated",
		Target: target, Tenant: tenant, KeyID: target, Via: "cli", Before: json.RawMessage(`{"a": 1.0}`), After: json.RawMessage(`{}`),
		Personal: json.RawMessage(`{"actor":"x"}`), Salt: []byte{1, 0}, PersonalHash: []byte{2}, Prev: prev, Hash: hash[:]}
}

// record appends an audit event in the same way as the management code.
func record(tx management.Tx, target, tenant string) error {
	seq, hash, err := tx.LockNewestAudit()
	if err != nil {
		return err
	}
	return tx.InsertAudit(event(seq, hash, target, tenant))
}

func auditRows(t *testing.T, s Store) {
	update(t, s, func(tx store.Tx) error {
		if seq, hash, err := tx.LockNewestAudit(); seq != 0 || hash != nil || err != nil {
			t.Errorf("newest event of a new store: %d, %x, %v", seq, hash, err)
		}
		bare := &audit.Row{Seq: 1, ID: "evt_1", Keyspace: "other", At: at, Action: "x", Hash: []byte{9}}
		return firstError(tx.InsertTenant(tenant("Acme")), tx.InsertAudit(bare))
	})
	for i := range 5 {
		update(t, s, func(tx store.Tx) error { return record(tx, fmt.Sprint("k", i%2), []string{"Acme", "b"}[i%2]) })
	}
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Audit(audit.Query{Limit: 100})
		if err != nil || len(got) != 6 {
			t.Fatalf("%d events, %v; want 6", len(got), err)
		}
		prev := []byte{9}
		for i := range 5 {
			want := event(int64(i+1), prev, fmt.Sprint("k", i%2), []string{"Acme", "b"}[i%2])
			same(t, "event", got[4-i], want)
			prev = want.Hash
		}
		if bare := got[5]; bare.Before != nil || bare.After != nil || bare.Personal != nil || bare.Salt != nil || bare.Prev != nil {
			t.Errorf("the bare event: %+v", bare)
		}
		for _, tc := range []struct {
			q    audit.Query
			want string
		}{
			{audit.Query{Limit: 2}, "[6 5]"},
			{audit.Query{Before: 5, Limit: 2}, "[4 3]"},
			{audit.Query{After: 2, Ascending: true, Limit: 3}, "[3 4 5]"},
			{audit.Query{Ascending: true, Limit: 1}, "[1]"},
			{audit.Query{Keyspace: "other", Limit: 9}, "[1]"},
			{audit.Query{Keyspace: ks, Key: "k1", Limit: 9}, "[5 3]"},
			{audit.Query{Keyspace: ks, Tenant: "aCME", Limit: 9}, "[6 4 2]"},
			{audit.Query{Keyspace: ks, Tenant: "b", Before: 5, Limit: 9}, "[3]"},
		} {
			list, err := tx.Audit(tc.q)
			seqs := []int64{}
			for _, r := range list {
				seqs = append(seqs, r.Seq)
			}
			if fmt.Sprint(seqs) != tc.want || err != nil {
				t.Errorf("%+v: %v, %v; want %s", tc.q, seqs, err, tc.want)
			}
		}
		return nil
	})
	// An audit event can neither replace another event nor be inserted before one.
	for _, seq := range []int64{0, 3, 5} {
		err := s.Update(ctxOf(t), func(tx management.Tx) error {
			r := event(seq, nil, "k", "Acme")
			r.ID = "evt_new"
			return tx.InsertAudit(r)
		})
		wantErr(t, fmt.Sprint("event ", seq+1, " again"), err, gateway.ErrStore)
	}
}

func auditChainConcurrent(t *testing.T, s Store) {
	const writers, each = 8, 5
	ctx := ctxOf(t)
	for _, err := range together(writers, func(w int) error {
		for range each {
			if err := s.Update(ctx, func(tx management.Tx) error { return record(tx, fmt.Sprint("k", w), "a") }); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	view(t, s, func(tx store.Tx) error {
		list, err := tx.Audit(audit.Query{Ascending: true})
		if len(list) != writers*each {
			t.Errorf("%d events, want %d", len(list), writers*each)
		}
		var prev []byte
		for i, r := range list {
			if r.Seq != int64(i+1) || !bytes.Equal(r.Prev, prev) {
				t.Errorf("event %d: seq %d follows %x, not %x", i+1, r.Seq, r.Prev, prev)
			}
			prev = r.Hash
		}
		return err
	})
}

func auditErase(t *testing.T, s Store) {
	update(t, s, func(tx store.Tx) error {
		return firstError(tx.InsertTenant(tenant("Acme")), record(tx, "k", "Acme"), record(tx, "k", "Acme"), record(tx, "k", "b"))
	})
	for _, want := range []int64{2, 0} {
		update(t, s, func(tx store.Tx) error {
			n, err := tx.ErasePersonal(ks, "acme")
			if n != want {
				t.Errorf("erased %d, want %d", n, want)
			}
			return err
		})
	}
	view(t, s, func(tx store.Tx) error {
		list, err := tx.Audit(audit.Query{Ascending: true})
		for i, r := range list {
			erased := r.Personal == nil && r.Salt == nil
			if erased != (i < 2) {
				t.Errorf("event %d: personal %s, salt %x", i+1, r.Personal, r.Salt)
			}
			if len(r.PersonalHash) == 0 || len(r.Hash) == 0 {
				t.Errorf("event %d lost a hash", i+1)
			}
		}
		return err
	})
}
