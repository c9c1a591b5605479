package gateway_test

import (
	"context"
	"testing"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A key that one configuration could not know, for want of the pepper it was made with,
// is known to the next, which has it.
func TestUnknownUnderAnotherPepperIsNotRemembered(t *testing.T) {
	const current, former = "the current pepper 0123456789", "the former pepper 0123456789"
	w := newWorld(t)
	w.tenant("acme", "free", 0)
	w.hasher = must(apikey.NewHasher(former))(t)
	w.use()
	_, key := w.key("acme")
	w.stop()

	w.hasher = must(apikey.NewHasher(current))(t)
	w.use()
	w.noDigests = true // so that the filter, still being filled, does not answer
	w.start()
	w.want(gateway.InvalidKey, key)
	w.want(gateway.InvalidKey, key)
	w.hasher = must(apikey.NewHasher(current, former))(t)
	w.use()
	w.want(gateway.Allowed, key)
}

// A live request goes on when its key was stored under another pepper since.
func TestLiveRequestOutlivesItsPepper(t *testing.T) {
	const p1, p2 = "the first pepper 0123456789", "the second pepper 0123456789"
	w := newWorld(t)
	w.hasher = must(apikey.NewHasher(p1))(t)
	w.use()
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	d, ended := w.live(key)
	defer d.Done()
	w.hasher = must(apikey.NewHasher(p2, p1))(t)
	w.use()
	w.want(gateway.Allowed, key)
	alone := must(apikey.NewHasher(p2))(t)
	eventually(t, "the key is stored under the new pepper", func() bool {
		_, err := w.store.Store.Lookup(context.Background(), "default", []apikey.Candidate{{Algorithm: alone.PrimaryAlgorithm(), Digest: alone.Primary(key)}})
		return err == nil
	})
	w.editKey(id, func(k *gateway.Key) { k.Name = "renamed" })
	select {
	case r := <-ended:
		t.Fatalf("ended as %v by a new name", r)
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
