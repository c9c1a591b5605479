package engine_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// While another process locks the SQLite file, revocations are taken at once. They are written when the lock ends, also after a
// restart, and before any later decision.
func TestRevocationsOnALockedFile(t *testing.T) {
	t.Parallel()
	target := engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}
	e, c := newEngine(t, engine.Options{Target: target}), newConfig(t, "free")
	apply(t, e, c)
	ctx, m := t.Context(), e.Manager()
	createTenant(t, e, "acme", "free")
	createTenant(t, e, "other", "free")
	issue := func(tenant string) management.IssuedKey {
		t.Helper()
		k, err := m.CreateKey(ctx, operator, keyspace, tenant, management.KeyFields{Name: management.Some("ci")})
		if err != nil {
			t.Fatal(err)
		}
		if r := check(e, c, k.Key); r != gateway.Allowed {
			t.Fatalf("a new key is answered with %s", r)
		}
		return k
	}
	revoked, disabled, deleted, good, others := issue("acme"), issue("acme"), issue("acme"), issue("acme"), issue("other")
	want := func(e *engine.Engine, c *config, k management.IssuedKey, reason gateway.Reason) {
		t.Helper()
		if r := check(e, c, k.Key); r != reason {
			t.Errorf("the key is answered with %s, want %s", r, reason)
		}
	}
	wantAll := func(e *engine.Engine, c *config) {
		t.Helper()
		want(e, c, revoked, gateway.RevokedKey)
		want(e, c, disabled, gateway.DisabledKey)
		want(e, c, deleted, gateway.InvalidKey)
		want(e, c, others, gateway.TenantInactive)
		want(e, c, good, gateway.Allowed)
	}

	if _, err := m.AddCredits(ctx, operator, keyspace, "acme", 100, ""); err != nil {
		t.Fatal(err)
	}
	unlock := lockFile(t, target.Path)
	for _, revoke := range []func() (management.Receipt, error){
		func() (management.Receipt, error) { return m.RevokeKey(ctx, operator, keyspace, revoked.ID) },
		func() (management.Receipt, error) { return m.DisableKey(ctx, operator, keyspace, disabled.ID) },
		func() (management.Receipt, error) { return m.RevokeKey(ctx, operator, keyspace, revoked.ID) }, // The same again is no second decision.
	} {
		if r, err := revoke(); err != nil || r.Durable {
			t.Fatalf("the receipt is %+v, %v", r, err)
		}
	}
	var accepted *management.Accepted
	if err := m.DeleteKey(ctx, operator, keyspace, deleted.ID, nil); !errors.As(err, &accepted) {
		t.Fatalf("a deletion returned %v", err)
	}
	if _, err := m.SuspendTenant(ctx, operator, keyspace, "other"); !errors.As(err, &accepted) {
		t.Fatalf("a suspension returned %v", err)
	}
	wantAll(e, c)
	if r, err := m.Credits(ctx, operator, keyspace, "acme", management.PageQuery{}); err != nil || r.Balance != 100 {
		t.Errorf("the balance is %d, %v", r.Balance, err)
	}
	if k, err := m.Key(ctx, operator, keyspace, revoked.ID); err != nil || k.Status != gateway.StatusRevoked {
		t.Errorf("the revoked key is shown as %s, %v", k.Status, err)
	}
	// A later decision is not taken while the earlier one can't be written.
	if _, err := m.EnableKey(ctx, operator, keyspace, disabled.ID); err == nil {
		t.Error("a key was enabled in a locked file")
	}
	unlock()

	// The first write of all delivers the revocations in order.
	if _, err := m.EnableKey(ctx, operator, keyspace, disabled.ID); err != nil {
		t.Fatal(err)
	}
	want(e, c, disabled, gateway.Allowed)
	unlock = lockFile(t, target.Path)
	if r, err := m.DisableKey(ctx, operator, keyspace, disabled.ID); err != nil || r.Durable {
		t.Fatalf("the receipt is %+v, %v", r, err)
	}
	// The engine can't close cleanly, because its counts can't be written.
	_ = e.Close(ctx)
	unlock()
	e, c = newEngine(t, engine.Options{Target: target}), newConfig(t, "free")
	apply(t, e, c)
	wantAll(e, c)
	testkit.Eventually(t, "the kept revocation is in the database", func() bool { return pending(e) == 0 })
	wantAll(e, c)
	if _, err := e.Manager().EnableKey(ctx, operator, keyspace, disabled.ID); err != nil {
		t.Fatal(err)
	}
	want(e, c, disabled, gateway.Allowed)
}

func pending(e *engine.Engine) int64 {
	return e.Store().(interface{ Pending() int64 }).Pending()
}

// lockFile locks an SQLite file against writes until unlock is called.
func lockFile(t *testing.T, path string) (unlock func()) {
	t.Helper()
	db := testkit.Must[*sql.DB](t)(sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_busy_timeout=60000"))
	tx := testkit.Must[*sql.Tx](t)(db.BeginTx(t.Context(), nil))
	return func() {
		t.Helper()
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}
