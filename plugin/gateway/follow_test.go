package gateway_test

import (
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// TestFailedCatchUpIsRetried checks that a gateway that fails to read a revocation by another process reads it later.
func TestFailedCatchUpIsRetried(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	w.want(gateway.Allowed, key)
	other := &fixture{t: t, path: w.path, hasher: w.hasher}
	other.use()
	other.start()
	// The store fails while the other process writes, until this process has tried to read the
	// change.
	w.store.down.Store(true)
	n := w.store.changes.Load()
	other.editKey(id, revoke)
	testkit.Eventually(t, "the gateway has tried to read the changes", func() bool { return w.store.changes.Load() > n })
	w.store.down.Store(false)
	testkit.Eventually(t, "the revoked key is rejected", func() bool { return w.check(key) == gateway.RevokedKey })
}
