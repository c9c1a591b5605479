package replica_test

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/store"
)

// TestRevokedWhileUnreachable revokes keys and tenants while the primary is unreachable, and restarts the
// node. All revocations must be written when the primary answers again.
func TestRevokedWhileUnreachable(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	n.tenant("a")
	n.tenant("b")
	n.tenant("c")
	type issued struct{ id, full string }
	create := func(tenant string) issued { id, full := n.key(tenant); return issued{id, full} }
	active, revoked, disabled, deleted, suspended, gone := create("a"), create("a"), create("a"), create("a"), create("b"), create("c")
	n.waitSynced()
	n.down.Store(true)
	ctx := ctxOf(t)
	for name, f := range map[string]func() error{
		"revoked": func() error {
			r, err := n.RevokeKey(ctx, ada, ks, revoked.id)
			if err == nil && (r.Durable || r.Status != gateway.StatusRevoked) {
				t.Errorf("receipt: %+v", r)
			}
			return err
		},
		"disabled":  func() error { _, err := n.DisableKey(ctx, ada, ks, disabled.id); return err },
		"deleted":   func() error { return n.DeleteKey(ctx, ada, ks, deleted.id, nil) },
		"suspended": func() error { _, err := n.SuspendTenant(ctx, ada, ks, "b"); return err },
		"gone":      func() error { return n.DeleteTenant(ctx, ada, ks, "c", true, nil) },
	} {
		if err := f(); !acknowledged(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.RevokeKey(ctx, ada, ks, "key_00000000000000000000000000"); err == nil || errors.Is(err, gateway.ErrStore) {
		t.Errorf("revoking an unknown key: %v", err)
	}
	if _, err := n.EnableKey(ctx, ada, ks, disabled.id); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("enabling while the primary is unreachable: %v", err)
	}
	if _, err := n.CreateKey(ctx, ada, ks, "a", management.KeyFields{Name: management.Some("x")}); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("creating while the primary is unreachable: %v", err)
	}
	check := func() {
		t.Helper()
		n.want(active.full, gateway.Allowed)
		n.want(revoked.full, gateway.RevokedKey)
		n.want(disabled.full, gateway.DisabledKey)
		n.want(suspended.full, gateway.TenantInactive)
		for _, k := range []issued{deleted, gone} {
			if got := n.reasonFor(k.full); got != gateway.InvalidKey && got != gateway.Unavailable {
				t.Errorf("a deleted key: %v", got)
			}
		}
	}
	check()
	n.restart()
	check()
	n.down.Store(false)
	n.waitSynced()
	check()
	primary := newNode(t, n.path) // The new node makes a new copy of the primary.
	primary.want(active.full, gateway.Allowed)
	primary.want(revoked.full, gateway.RevokedKey)
	primary.want(disabled.full, gateway.DisabledKey)
	primary.want(suspended.full, gateway.TenantInactive)
	primary.want(deleted.full, gateway.InvalidKey)
	primary.want(gone.full, gateway.InvalidKey)
	// Each revocation was written once, with the original actor.
	var rows []audit.Row
	if err := n.primary.Store.View(ctx, func(tx management.Tx) (err error) {
		rows, err = tx.Audit(audit.Query{Keyspace: ks, Key: revoked.id})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Action != management.KeyRevoked || rows[0].Via != ada.Via {
		t.Errorf("events: %+v", rows)
	}
}

// TestReversedElsewhere disables a key on a node that can't reach the primary. Another node, which
// reaches the primary, disables and enables the key. The decision of the other node must win.
func TestReversedElsewhere(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	other := newNode(t, n.path)
	n.tenant("a")
	id, full := n.key("a")
	n.waitSynced()
	n.down.Store(true)
	if _, err := n.DisableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	if _, err := other.DisableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	if _, err := other.EnableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	n.want(full, gateway.DisabledKey)
	n.down.Store(false)
	n.waitSynced()
	testkit.Eventually(t, "the key is accepted", func() bool { return n.reasonFor(full) == gateway.Allowed })
	other.want(full, gateway.Allowed)
}

// TestUnknownWhileStale checks that a replica reports an unknown key as unknown only while its copy is
// up to date.
func TestUnknownWhileStale(t *testing.T) {
	t.Parallel()
	n, _, full := newNodeWithKey(t)
	if rec := lookup(t, n.r, "kg_live_unknown"); rec != nil {
		t.Fatal(rec)
	}
	n.down.Store(true)
	testkit.Eventually(t, "an unknown key is no longer reported as unknown", func() bool {
		_, err := n.r.LookupSecret(ctxOf(t), ks, "unknown")
		return errors.Is(err, gateway.ErrStore)
	})
	n.want(full, gateway.Allowed)
	n.down.Store(false)
	n.waitSynced()
	if rec := lookup(t, n.r, "kg_live_unknown"); rec != nil {
		t.Fatal(rec)
	}
}

// TestCopyTxReads checks that a read fails while the primary is unreachable if the copy has no data for
// it. An empty result would be wrong.
func TestCopyTxReads(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	n.tenant("a")
	n.waitSynced()
	n.down.Store(true)
	holds := map[string]bool{"Tenant": true, "LockTenant": true, "Tenants": true, "Key": true, "Keys": true, "ActiveKeys": true, "Secrets": true,
		"Token": true, "LockToken": true, "TokenByDigest": true, "Tokens": true, "KeyByDigest": true, "CountByHint": true,
		// The listed methods write, and find no row to which they could write.
		"AddCredits": true, "Changes": true, "InsertSecret": true, "RevokeTokens": true}
	if err := n.r.View(ctxOf(t), func(management.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	kind := reflect.TypeFor[store.Tx]()
	for i := range kind.NumMethod() {
		method := kind.Method(i)
		if holds[method.Name] {
			continue
		}
		err := n.r.View(ctxOf(t), func(tx management.Tx) (err error) {
			var args []reflect.Value
			for a := range method.Type.NumIn() {
				in := method.Type.In(a)
				if in.Kind() == reflect.Pointer {
					args = append(args, reflect.New(in.Elem()))
				} else {
					args = append(args, reflect.Zero(in))
				}
			}
			out := reflect.ValueOf(tx).MethodByName(method.Name).Call(args)
			err, _ = out[len(out)-1].Interface().(error)
			return err
		})
		if !errors.Is(err, gateway.ErrStore) {
			t.Errorf("%s while the primary is unreachable: %v", method.Name, err)
		}
	}
}
