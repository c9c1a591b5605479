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

// secretsOf returns the primary's secrets of a key, the newest first.
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

// primaryHolds fails the test if the key's status in the primary is not want.
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

// TestRewindBackAndForth revokes a key. Then it restores backups that lack the key, or that hold the key
// as it was before the revocation. The key must stay rejected.
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
		t.Fatal("a key is accepted that the primary lacks")
	}
	n.restart()
	expectRejected := func() {
		t.Helper()
		if got := n.reasonFor(full); got == gateway.Allowed {
			t.Fatal("a revoked key is accepted")
		}
	}
	n.restore(known)
	expectRejected()
	n.waitSynced()
	n.want(full, gateway.RevokedKey)
	n.primaryHolds(id, gateway.StatusRevoked)
	// The primary goes back several times in a row, and once while it is unreachable.
	for range 3 {
		n.restore(known)
		expectRejected()
		n.restore(unknown)
		n.restore(known)
		expectRejected()
	}
	n.down.Store(true)
	n.restore(known)
	n.restart()
	expectRejected()
	n.down.Store(false)
	n.waitSynced()
	n.want(full, gateway.RevokedKey)
	n.primaryHolds(id, gateway.StatusRevoked)
}

// TestEndedSecretsStay restores a backup in which the old secret of a rotation has no end. The node must
// still reject the old secret.
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
	expectRejected := func(full string) {
		t.Helper()
		if got := n.reasonFor(full); got == gateway.Allowed {
			t.Fatal("an ended secret is accepted")
		}
	}
	n.restore(before)
	expectRejected(first)
	n.waitSynced()
	expectRejected(first)
	expectRejected(second.Key)
	n.want(graced, gateway.Allowed)
	if list := n.secretsOf(other); len(list) != 1 || !list[0].ExpiresAt.Equal(end) {
		t.Errorf("the primary holds %+v, want an end at %v", list, end)
	}
	if list := n.secretsOf(id); len(list) != 1 || list[0].ExpiresAt.IsZero() {
		t.Errorf("the primary holds %+v", list)
	}
	// The restored backup holds the second secret, but not the third secret, which was never ended.
	n.restore(between)
	expectRejected(second.Key)
	n.waitSynced()
	expectRejected(first)
	expectRejected(second.Key)
	expectRejected(third.Key)
	// A further rotation gives the key a secret that the node accepts.
	fourth, err := n.RotateKey(ctxOf(t), ada, ks, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.want(fourth.Key, gateway.Allowed)
}

// TestRevokedTokensStay restores a backup in which a revoked management token is still active. The node
// must revoke the token in the primary again.
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
	testkit.Eventually(t, "the token is revoked again", func() bool {
		got, err := auth.New(n.Manager).Token(ctxOf(t), root, ks, token.ID)
		return err == nil && got.Status == gateway.StatusRevoked
	})
}

// TestReversedSince enables a key after the primary has gone back to an older state, and checks that the
// key stays accepted. A new tenant with the slug of a suspended tenant must not be suspended.
func TestReversedSince(t *testing.T) {
	t.Parallel()
	n, id, full := newNodeWithKey(t)
	before := n.backup()
	n.tenant("b")
	_, formerKey := n.key("b")
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
	_, newKey := n.key("b")
	n.waitSynced()
	n.restart()
	n.want(full, gateway.Allowed)
	n.want(newKey, gateway.Allowed)
	n.restore(withB)
	n.waitSynced()
	n.want(formerKey, gateway.TenantInactive)
	if _, err := n.ActivateTenant(ctxOf(t), ada, ks, "b"); err != nil {
		t.Fatal(err)
	}
	n.want(formerKey, gateway.Allowed)
}

// TestEarlierFiles opens a replica file of an earlier version with pending revocations, and checks that
// they are delivered to the primary.
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
		DROP TABLE refused; ALTER TABLE nodes DROP COLUMN earlier; DROP INDEX keys_allowance; ALTER TABLE keys DROP COLUMN allowance; DELETE FROM meta WHERE name = 'oldest_program'; DELETE FROM schema_version WHERE version >= 10`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	n.start()
	n.want(full, gateway.RevokedKey)
	if got := n.r.Status().Pending; got != 1 {
		t.Errorf("%d revocations are pending", got)
	}
	n.down.Store(false)
	n.waitSynced()
	n.primaryHolds(id, gateway.StatusRevoked)
}

// TestCrashWhileReplacing starts a node with the former copy and an incomplete new one, as after a crash.
// The former copy's revocations must still apply.
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
