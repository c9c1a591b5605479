package replica_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// secretsOf returns what the primary holds of a key's secrets, newest first.
func (n *node) secretsOf(id string) (list []gateway.Secret) {
	n.t.Helper()
	if err := n.primary.Store.View(ctxOf(n.t), func(tx management.Tx) (err error) {
		list, err = tx.Secrets(ks, id)
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	return list
}

// primaryHolds fails where the primary does not refuse a key in that way.
func (n *node) primaryHolds(id string, want gateway.Status) {
	n.t.Helper()
	if err := n.primary.Store.View(ctxOf(n.t), func(tx management.Tx) error {
		k, err := tx.Key(ks, id)
		if err == nil && k.StatusAt(time.Now()) != want {
			n.t.Errorf("the primary holds %s %s, want %s", id, k.StatusAt(time.Now()), want)
		}
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
}

// TestRewindBackAndForth puts states of the primary back that know a key, do not know it, and know it
// again, all from before it was refused.
func TestRewindBackAndForth(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	n.tenant("a")
	n.waitSynced()
	unknown := n.backup()
	id, full := n.key("a")
	known := n.backup()
	n.waitSynced()
	if _, err := n.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	n.restore(unknown)
	n.waitSynced()
	if got := n.reasonFor(full); got == gateway.Allowed {
		t.Fatal("a key that is none")
	}
	n.restart()
	refused := func() {
		t.Helper()
		if got := n.reasonFor(full); got == gateway.Allowed {
			t.Fatal("a revoked key is let in")
		}
	}
	n.restore(known)
	refused()
	n.waitSynced()
	n.want(full, gateway.RevokedKey)
	n.primaryHolds(id, gateway.StatusRevoked)
	// Several times within moments, and once while it is unreachable.
	for range 3 {
		n.restore(known)
		refused()
		n.restore(unknown)
		n.restore(known)
		refused()
	}
	n.down.Store(true)
	n.restore(known)
	n.restart()
	refused()
	n.down.Store(false)
	n.waitSynced()
	n.want(full, gateway.RevokedKey)
	n.primaryHolds(id, gateway.StatusRevoked)
}

// TestEndedSecretsStay puts a state of the primary back in which a rotation's former secret has no end.
func TestEndedSecretsStay(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	n.tenant("a")
	id, first := n.key("a")
	other, graced := n.key("a")
	n.waitSynced()
	before := n.backup()
	second, err := n.RotateKey(ctxOf(t), ada, ks, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.RotateKey(ctxOf(t), ada, ks, other, time.Hour); err != nil {
		t.Fatal(err)
	}
	end := n.secretsOf(other)[1].ExpiresAt
	between := n.backup()
	third, err := n.RotateKey(ctxOf(t), ada, ks, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(full string) {
		t.Helper()
		if got := n.reasonFor(full); got == gateway.Allowed {
			t.Fatal("a secret that was ended is let in")
		}
	}
	n.restore(before)
	refused(first)
	n.waitSynced()
	refused(first)
	refused(second.Key)
	n.want(graced, gateway.Allowed)
	if list := n.secretsOf(other); len(list) != 1 || !list[0].ExpiresAt.Equal(end) {
		t.Errorf("the primary holds %+v, to end by %v", list, end)
	}
	if list := n.secretsOf(id); len(list) != 1 || list[0].ExpiresAt.IsZero() {
		t.Errorf("the primary holds %+v", list)
	}
	// The second is there again, and the third, which was never ended, is not.
	n.restore(between)
	refused(second.Key)
	n.waitSynced()
	refused(first)
	refused(second.Key)
	refused(third.Key)
	// The key goes on with a new one.
	fourth, err := n.RotateKey(ctxOf(t), ada, ks, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.want(fourth.Key, gateway.Allowed)
}

// TestRevokedTokensStay puts a state of the primary back in which a management token is good.
func TestRevokedTokensStay(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	root := management.Actor{Name: "root", Via: "admin", Scopes: []string{management.AllScopes}}
	token, err := auth.New(n.Manager).CreateToken(ctxOf(t), root, ks, auth.TokenFields{Name: management.Some("ci"), Scopes: management.Some([]string{"keys:read"})})
	if err != nil {
		t.Fatal(err)
	}
	before := n.backup()
	if err := n.RevokeToken(ctxOf(t), root, ks, token.ID); err != nil {
		t.Fatal(err)
	}
	n.waitSynced()
	n.restore(before)
	testkit.Eventually(t, "it is revoked again", func() bool {
		got, err := auth.New(n.Manager).Token(ctxOf(t), root, ks, token.ID)
		return err == nil && got.Status == gateway.StatusRevoked
	})
}

// TestReversedSince lets in again what was enabled after the primary had gone back, and leaves
// alone a tenant that got the slug of one that was suspended.
func TestReversedSince(t *testing.T) {
	t.Parallel()
	n, id, full := newNodeWithKey(t)
	before := n.backup()
	n.tenant("b")
	_, formers := n.key("b")
	withB := n.backup()
	if _, err := n.DisableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	if _, err := n.SuspendTenant(ctxOf(t), ada, ks, "b"); err != nil {
		t.Fatal(err)
	}
	n.waitSynced()
	n.restore(before)
	n.waitSynced()
	n.want(full, gateway.DisabledKey)
	if _, err := n.EnableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	n.want(full, gateway.Allowed)
	n.tenant("b")
	_, others := n.key("b")
	n.waitSynced()
	n.restart()
	n.want(full, gateway.Allowed)
	n.want(others, gateway.Allowed)
	n.restore(withB)
	n.waitSynced()
	n.want(formers, gateway.TenantInactive)
	if _, err := n.ActivateTenant(ctxOf(t), ada, ks, "b"); err != nil {
		t.Fatal(err)
	}
	n.want(formers, gateway.Allowed)
}

// TestEarlierFiles takes over what a replica of an earlier version was to write yet.
func TestEarlierFiles(t *testing.T) {
	t.Parallel()
	n, id, full := newNodeWithKey(t)
	n.down.Store(true)
	if r, err := n.RevokeKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
		t.Fatal(r, err)
	}
	n.stop()
	db, err := sql.Open("sqlite", "file:"+n.file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE pending (num INTEGER PRIMARY KEY, action TEXT NOT NULL, keyspace TEXT NOT NULL, id TEXT NOT NULL,
		at BIGINT NOT NULL, actor TEXT NOT NULL, UNIQUE (action, keyspace, id));
		INSERT INTO pending (action, keyspace, id, at, actor) SELECT action, keyspace, id, at, actor FROM refused;
		DROP TABLE refused; ALTER TABLE nodes DROP COLUMN earlier; DELETE FROM meta WHERE name = 'oldest_program'; DELETE FROM schema_version WHERE version >= 10`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	n.start()
	n.want(full, gateway.RevokedKey)
	if got := n.r.Status().Pending; got != 1 {
		t.Errorf("%d to be written", got)
	}
	n.down.Store(false)
	n.waitSynced()
	n.primaryHolds(id, gateway.StatusRevoked)
}

// TestCrashWhileReplacing begins where a crash left a copy half made, and finds what the former
// one held refused.
func TestCrashWhileReplacing(t *testing.T) {
	t.Parallel()
	n, id, full := newNodeWithKey(t)
	before := n.backup()
	if _, err := n.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	n.waitSynced()
	n.down.Store(true)
	n.restore(before)
	n.stop()
	b, err := replica.NewCopy(ctxOf(t), n.file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Discard()
	n.down.Store(false)
	n.start()
	n.want(full, gateway.RevokedKey)
	n.waitSynced()
	n.want(full, gateway.RevokedKey)
	n.primaryHolds(id, gateway.StatusRevoked)
}
