package gateway_test

import (
	"context"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A key under a pepper that one configuration lacks is unknown, and becomes known under the next
// configuration with that pepper.
func TestUnknownKeyBecomesKnownWithItsPepper(t *testing.T) {
	const current, former = "the current pepper 0123456789", "the former pepper 0123456789"
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	w.hasher = testkit.Must[*apikey.Hasher](t)(apikey.NewHasher(former))
	w.use()
	_, key := w.key("acme")
	w.stop()

	w.hasher = testkit.Must[*apikey.Hasher](t)(apikey.NewHasher(current))
	w.use()
	w.noDigests = true // the filter must not answer in place of the store
	w.start()
	w.want(gateway.InvalidKey, key)
	w.want(gateway.InvalidKey, key)
	w.hasher = testkit.Must[*apikey.Hasher](t)(apikey.NewHasher(current, former))
	w.use()
	w.want(gateway.Allowed, key)
}

// TestLiveRequestOutlivesItsPepper checks that a running request continues when the digest of its key is stored again
// under another pepper.
func TestLiveRequestOutlivesItsPepper(t *testing.T) {
	const p1, p2 = "the first pepper 0123456789", "the second pepper 0123456789"
	w := newFixture(t)
	w.hasher = testkit.Must[*apikey.Hasher](t)(apikey.NewHasher(p1))
	w.use()
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	d, ended := w.live(key)
	defer d.Done()
	w.hasher = testkit.Must[*apikey.Hasher](t)(apikey.NewHasher(p2, p1))
	w.use()
	w.want(gateway.Allowed, key)
	alone := testkit.Must[*apikey.Hasher](t)(apikey.NewHasher(p2))
	testkit.Eventually(t, "the key is stored under the new pepper", func() bool {
		_, err := w.store.Store.Lookup(context.Background(), "default", []apikey.Candidate{{Algorithm: alone.PrimaryAlgorithm(), Digest: alone.Primary(key)}})
		return err == nil
	})
	w.editKey(id, func(k *gateway.Key) { k.Name = "renamed" })
	select {
	case r := <-ended:
		t.Fatalf("ended as %v by a new name of the key", r)
	default:
	}
	w.editKey(id, revoke)
	select {
	case r := <-ended:
		if r != gateway.RevokedKey {
			t.Errorf("ended as %v", r)
		}
	default:
		t.Error("not ended by the revocation")
	}
}
