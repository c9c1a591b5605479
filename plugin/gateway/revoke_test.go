package gateway_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// A look-up that begins before a revocation and ends after it does not make the key valid, neither
// for its own request nor for later ones.
func TestSlowLoadCannotReviveARevokedKey(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	for range 20 {
		id, key := w.key("acme")
		read, revoked := make(chan struct{}), make(chan struct{})
		var once sync.Once
		hold := func() { once.Do(func() { close(read); <-revoked }) }
		w.store.afterLookup.Store(&hold)
		result := make(chan gateway.Reason, 1)
		go func() { result <- w.check(key) }()
		<-read // The record was read before the revocation.
		w.editKey(id, revoke)
		close(revoked)
		if got := <-result; got != gateway.RevokedKey {
			t.Fatalf("a request that was loading when the key was revoked: %v", got)
		}
		w.store.afterLookup.Store(nil)
		w.want(gateway.RevokedKey, key)
	}
}

// A look-up that begins before a tenant's suspension and ends after it does not make the tenant
// active.
func TestSlowLoadCannotReviveASuspendedTenant(t *testing.T) {
	w := newFixture(t)
	for i := range 20 {
		slug := fmt.Sprintf("tenant-%d", i)
		w.tenant(slug, "free", 0)
		_, key := w.key(slug)
		read, suspended := make(chan struct{}), make(chan struct{})
		var once sync.Once
		hold := func() { once.Do(func() { close(read); <-suspended }) }
		w.store.afterLookup.Store(&hold)
		result := make(chan gateway.Reason, 1)
		go func() { result <- w.check(key) }()
		<-read
		w.editTenant(slug, func(t *gateway.Tenant) { t.Active = false })
		close(suspended)
		if got := <-result; got != gateway.TenantInactive {
			t.Fatalf("a request that was loading when the tenant was suspended: %v", got)
		}
		w.store.afterLookup.Store(nil)
		w.want(gateway.TenantInactive, key)
	}
}

// No request passes after its key's revocation has returned, while keys are disabled, enabled,
// edited and revoked, and look-ups are slow.
func TestNoRequestPassesAfterRevocation(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	slow := func() {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		}
	}
	w.store.afterLookup.Store(&slow)
	const keys = 12
	type target struct {
		id, key string
		// bad is set after the call that made the key invalid has returned. It is cleared before the call that makes the key valid
		// again.
		bad atomic.Bool
	}
	targets := make([]*target, keys)
	for i := range targets {
		targets[i] = &target{}
		targets[i].id, targets[i].key = w.key("acme")
	}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	var checks, wrong atomic.Int64
	for range 3 {
		readers.Go(func() {
			req := w.request("")
			var d gateway.Decision
			for {
				select {
				case <-stop:
					return
				default:
				}
				x := targets[rand.IntN(keys)]
				bad := x.bad.Load()
				req.Now, req.Credential = time.Now(), x.key
				w.gw.Check(context.Background(), req, &d)
				d.Done()
				checks.Add(1)
				if bad && d.Reason == gateway.Allowed && x.bad.Load() {
					wrong.Add(1)
				}
			}
		})
	}
	for i := range 3 {
		writers.Go(func() {
			for round := range 4 {
				for j := i; j < keys; j += 3 {
					x := targets[j]
					if err := w.tryEditKey(x.id, disable); err != nil {
						t.Error(err)
					}
					x.bad.Store(true)
					_ = w.tryEditKey(x.id, func(k *gateway.Key) { k.Description = fmt.Sprint(round) })
					x.bad.Store(false)
					if err := w.tryEditKey(x.id, enable); err != nil {
						t.Error(err)
					}
					if got := w.check(x.key); got != gateway.Allowed {
						t.Errorf("an enabled key: %v", got)
					}
				}
			}
			for j := i; j < keys; j += 3 {
				if err := w.tryEditKey(targets[j].id, revoke); err != nil {
					t.Error(err)
				}
				targets[j].bad.Store(true)
			}
		})
	}
	writers.Wait()
	before := checks.Load()
	testkit.Eventually(t, "requests ran after the last revocation", func() bool { return checks.Load() > before+1000 })
	close(stop)
	readers.Wait()
	if wrong.Load() != 0 {
		t.Errorf("%d of %d requests passed after their key became invalid", wrong.Load(), checks.Load())
	}
	for _, x := range targets {
		w.want(gateway.RevokedKey, x.key)
	}
}

// A gateway follows the changes that another process writes to the same file.
func TestAnotherProcessRevokes(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	w.want(gateway.Allowed, key)
	other := &fixture{t: t, path: w.path, hasher: w.hasher}
	other.use()
	other.n.Store(1000)
	other.start()
	other.editKey(id, revoke)
	testkit.Eventually(t, "the other process's revocation counts", func() bool { return w.check(key) == gateway.RevokedKey })
	_, fresh := other.key("acme")
	testkit.Eventually(t, "the other process's key is known", func() bool { return w.check(fresh) == gateway.Allowed })
}

// live lets the gateway check a request that stays open. It returns the decision, and a channel that gets the reason when
// the gateway ends the request.
func (w *fixture) live(key string) (d *gateway.Decision, ended chan gateway.Reason) {
	w.t.Helper()
	d, ended = new(gateway.Decision), make(chan gateway.Reason, 2)
	w.gw.Check(context.Background(), w.request(key), d)
	if d.Reason != gateway.Allowed {
		w.t.Fatal(d.Reason)
	}
	d.Track(func(r gateway.Reason) { ended <- r })
	return d, ended
}

func TestLiveRequestsEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(w *fixture, id string)
		want gateway.Reason
	}{
		{"revoked", func(w *fixture, id string) { w.editKey(id, revoke) }, gateway.RevokedKey},
		{"disabled", func(w *fixture, id string) { w.editKey(id, disable) }, gateway.DisabledKey},
		{"suspended", func(w *fixture, id string) {
			w.editTenant("acme", func(t *gateway.Tenant) { t.Active = false })
		}, gateway.TenantInactive},
		{"expired by an edit", func(w *fixture, id string) {
			w.editKey(id, func(k *gateway.Key) { k.ExpiresAt = time.Now().Add(-time.Second) })
		}, gateway.ExpiredKey},
		{"expires soon", func(w *fixture, id string) {
			w.editKey(id, func(k *gateway.Key) { k.ExpiresAt = time.Now().Add(100 * time.Millisecond) })
		}, gateway.ExpiredKey},
		{"deleted", func(w *fixture, id string) {
			w.update(func(tx management.Tx) []gateway.Change {
				k, err := tx.Key("default", id)
				if err != nil {
					w.t.Fatal(err)
				}
				gone := *k
				gone.DeletedAt = time.Now()
				if err := tx.UpdateKey(&gone); err != nil {
					w.t.Fatal(err)
				}
				if err := tx.DeleteSecrets("default", id); err != nil {
					w.t.Fatal(err)
				}
				return []gateway.Change{{Kind: gateway.ChangeKey, Keyspace: "default", ID: id}}
			})
		}, gateway.InvalidKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFixture(t)
			w.tenant("acme", "free", 0)
			w.tenant("other", "free", 0)
			id, key := w.key("acme")
			_, bystander := w.key("other")
			d, ended := w.live(key)
			defer d.Done()
			finished, finishedEnded := w.live(key)
			finished.Done()
			by, byEnded := w.live(bystander)
			defer by.Done()
			c.edit(w, id)
			select {
			case got := <-ended:
				if got != c.want {
					t.Errorf("ended for %v, want %v", got, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("never ended")
			}
			if len(finishedEnded) != 0 || len(byEnded) != 0 {
				t.Error("a finished request, or one of another tenant, was ended")
			}
		})
	}
}

// A request that is tracked while its key is being revoked is ended, whichever of the two comes
// first.
func TestTrackRacesRevocation(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	for range 50 {
		id, key := w.key("acme")
		w.want(gateway.Allowed, key)
		d, ended := new(gateway.Decision), make(chan gateway.Reason, 1)
		w.gw.Check(context.Background(), w.request(key), d)
		var wg sync.WaitGroup
		wg.Go(func() { w.editKey(id, revoke) })
		wg.Go(func() { d.Track(func(r gateway.Reason) { ended <- r }) })
		wg.Wait()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the request was not ended")
		}
		d.Done()
	}
}

func TestGraceEndsLiveRequests(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, old := w.key("acme")
	d, ended := w.live(old)
	defer d.Done()
	next := w.generate()
	w.update(func(tx management.Tx) []gateway.Change {
		secrets, err := tx.Secrets("default", id)
		if err != nil {
			t.Fatal(err)
		}
		secrets[0].ExpiresAt = time.Now().Add(200 * time.Millisecond)
		if err := tx.UpdateSecret(secrets[0]); err != nil {
			t.Fatal(err)
		}
		w.insertSecret(tx, id, next)
		return []gateway.Change{{Kind: gateway.ChangeKey, Keyspace: "default", ID: id}}
	})
	fresh, freshEnded := w.live(next)
	defer fresh.Done()
	if got := <-ended; got != gateway.RevokedKey {
		t.Errorf("the old secret's request ended for %v", got)
	}
	if len(freshEnded) != 0 {
		t.Error("the new secret's request was ended with the old one's")
	}
}

// TestExpiryIsCheckedWhenTheTimerFires checks that a timer that fires too early ends no request. A timer fires too early
// if the clock was set back, or if a change moved the expiry.
func TestExpiryIsCheckedWhenTheTimerFires(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	expire := func(in time.Duration) {
		w.editKey(id, func(k *gateway.Key) {
			if k.ExpiresAt = time.Now().Add(in); in == 0 {
				k.ExpiresAt = time.Time{}
			}
		})
	}
	wait := func(what string, ended chan gateway.Reason) {
		t.Helper()
		select {
		case r := <-ended:
			if r != gateway.ExpiredKey {
				t.Errorf("%s: ended as %v", what, r)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: not ended", what)
		}
	}
	expire(time.Hour)
	d, ended := w.live(key)
	d.RunOut()
	if len(ended) != 0 {
		t.Fatal("ended an hour before the expiry")
	}
	expire(0)
	d.RunOut()
	if len(ended) != 0 {
		t.Fatal("ended although the key no longer expires")
	}
	expire(300 * time.Millisecond)
	d.RunOut() // RunOut sets the timer to the new expiry.
	wait("at the expiry", ended)
	d.Done()
}

func TestTrackAfterASweep(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	var d gateway.Decision
	w.gw.Check(context.Background(), w.request(key), &d)
	if d.Reason != gateway.Allowed {
		t.Fatal(d.Reason)
	}
	w.gw.Sweep()
	ended := make(chan gateway.Reason, 2)
	d.Track(func(r gateway.Reason) { ended <- r })
	w.gw.Sweep()
	w.editKey(id, revoke)
	select {
	case r := <-ended:
		if r != gateway.RevokedKey {
			t.Errorf("ended as %v", r)
		}
	default:
		t.Error("not ended by the revocation")
	}
	d.Done()
}
