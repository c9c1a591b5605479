package gateway_test

import (
	"testing"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A revocation by another process is not forgotten because the store could not be read
// just when it was noticed.
func TestFailedCatchUpIsRepeated(t *testing.T) {
	w := newWorld(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	w.want(gateway.Allowed, key)
	other := &world{t: t, path: w.path, hasher: w.hasher}
	other.use()
	other.start()
	// The store is away while the other process writes, and has been read in vain before
	// it comes back.
	w.store.down.Store(true)
	n := w.store.changes.Load()
	other.editKey(id, revoke)
	eventually(t, "the change is noticed", func() bool { return w.store.changes.Load() > n })
	w.store.down.Store(false)
	eventually(t, "the other process's revocation counts", func() bool { return w.check(key) == gateway.RevokedKey })
}
