package gateway_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
)

// join starts the fixture's gateway as a member of a cluster, on a database that several members share.
func (w *fixture) join(address, name string, staleness cluster.Staleness) {
	w.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s := testkit.Must[*postgres.Store](w.t)(postgres.New(postgres.Config{Address: address, Logger: quiet}))
	w.store = &faultyStore{Store: s.Store}
	w.gw = testkit.Must[*cluster.Member](w.t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Node: name, Logger: quiet}, Registry: s, Staleness: staleness}))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := w.gw.Start(ctx)
	for errors.Is(err, gateway.ErrStore) && ctx.Err() == nil {
		err = w.gw.Start(ctx) // On a busy machine the database may answer too late, so the start is repeated.
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
}

// anHour is a staleness limit that is so long that no test reaches it.
var anHour = cluster.Staleness{Default: time.Hour}

// A gateway that cannot reach a shared store does not reject unknown keys, and accepts known keys
// only within its staleness.
func TestUnreachableSharedStore(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	own := newFixture(t)
	a, b, c, d := &fixture{t: t, hasher: own.hasher}, &fixture{t: t, hasher: own.hasher}, &fixture{t: t, hasher: own.hasher}, &fixture{t: t, hasher: own.hasher}
	for _, w := range []*fixture{a, b, c, d} {
		w.use()
	}
	const short = 6 * time.Second
	a.join(url, "a", anHour)
	b.join(at(proxy.Addr()), "b", cluster.Staleness{Default: short})
	c.join(at(proxy.Addr()), "c", cluster.Staleness{Default: time.Hour, Keyspaces: map[string]time.Duration{"default": short}})
	d.join(at(proxy.Addr()), "d", cluster.Staleness{Default: short, Keyspaces: map[string]time.Duration{"default": time.Hour}})
	a.tenant("acme", "free", 0)
	id, key := a.key("acme")
	_, unused := a.key("acme")
	own.tenant("acme", "free", 0)
	_, unknown := own.key("acme")
	for _, w := range []*fixture{b, c, d} {
		testkit.Eventually(t, "the node knows the key", func() bool { return w.check(key) == gateway.Allowed })
	}
	testkit.Eventually(t, "b rejects an unknown key", func() bool { return b.check(unknown) == gateway.InvalidKey })

	liveAtC, ended := c.live(key)
	defer liveAtC.Done()
	liveAtD, endedAtD := d.live(key)
	defer liveAtD.Done()
	proxy.Refuse()
	if got := b.check(key); got != gateway.Allowed {
		t.Errorf("a known key right after the cut: %v", got)
	}
	a.editKey(id, revoke)
	got := a.gw.Confirm(t.Context(), "default", 0, time.Millisecond)
	for i, p := range got.Pending {
		if want := string("bcd"[i]); p.Name != want || (time.Until(p.Deadline) > time.Minute) != (want == "d") {
			t.Errorf("with b, c and d cut off: %+v", got)
		}
	}
	if len(got.Pending) != 3 {
		t.Errorf("with b, c and d cut off: %+v", got)
	}
	testkit.Eventually(t, "b does not decide about an unknown key", func() bool { return b.check(unknown) == gateway.Unavailable })
	testkit.Eventually(t, "b does not decide about a known key", func() bool { return b.check(key) == gateway.Unavailable })
	testkit.Eventually(t, "c does not decide about keys of this keyspace", func() bool { return c.check(key) == gateway.Unavailable })
	testkit.Eventually(t, "b and c, which accept no keys of this keyspace, are not pending", func() bool {
		got := a.gw.Confirm(t.Context(), "default", 0, time.Millisecond).Pending
		return len(got) == 1 && got[0].Name == "d"
	})
	if b.gw.Ready() || b.gw.ReadyFor("default") || b.gw.ReadyFor("another") {
		t.Error("a gateway that accepts no key is ready")
	}
	if !c.gw.Ready() || c.gw.ReadyFor("default") || !c.gw.ReadyFor("another") {
		t.Error("c accepts keys of other keyspaces than this, and only those")
	}
	if !d.gw.Ready() || !d.gw.ReadyFor("default") || d.gw.ReadyFor("another") {
		t.Error("d accepts keys of this keyspace, and of no other")
	}
	if got := d.check(key); got != gateway.Allowed {
		t.Errorf("a known key of a keyspace that is not stale: %v", got)
	}
	select {
	case r := <-ended:
		if r != gateway.Unavailable {
			t.Errorf("a live request was ended as %v", r)
		}
	case <-time.After(time.Minute):
		t.Error("a live request of a stale keyspace was not ended")
	}
	if len(endedAtD) > 0 {
		t.Errorf("a live request of a keyspace that is not stale was ended: %v", <-endedAtD)
	}
	proxy.Restore()
	testkit.Eventually(t, "b rejects the key that was revoked during the outage", func() bool { return b.check(key) == gateway.RevokedKey })
	testkit.Eventually(t, "b accepts a key that it did not know", func() bool { return b.check(unused) == gateway.Allowed })
	if !b.gw.Ready() {
		t.Error("b is not ready after the outage")
	}
}

// A database that lost its newest change gives that change's number to the next one. A node that
// has not noticed the loss does not count as confirmed, although it reported that number, and
// applies the new change even after a write of its own.
func TestReusedChangeNumbers(t *testing.T) {
	url := testserver.PostgresURL(t)
	own := newFixture(t)
	a, b := &fixture{t: t, hasher: own.hasher}, &fixture{t: t, hasher: own.hasher}
	for name, w := range map[string]*fixture{"a": a, "b": b} {
		w.use()
		w.join(url, name, anHour)
	}
	a.tenant("acme", "free", 0)
	id, key := a.key("acme")
	other, _ := a.key("acme")
	lost, _ := a.key("acme")
	testkit.Eventually(t, "b knows the key", func() bool { return b.check(key) == gateway.Allowed })
	a.editKey(lost, revoke)
	seq := a.gw.Stats().Seq
	testkit.Eventually(t, "b has confirmed all changes", func() bool {
		return len(a.gw.Confirm(t.Context(), "default", seq, time.Second).Pending) == 0
	})
	b.store.failChanges.Store(true)
	db := testkit.Must[*sql.DB](t)(sql.Open("pgx", url))
	defer db.Close()
	if _, err := db.Exec(`WITH s AS (UPDATE sequences SET value = value - 1 WHERE name = 'changes' RETURNING value),
		c AS (DELETE FROM changes WHERE seq > (SELECT value FROM s))
		UPDATE nodes SET seq = least(seq, (SELECT value FROM s))`); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a has noticed the loss", func() bool { return a.gw.Stats().Seq == seq-1 })
	a.editKey(id, revoke)
	if got := a.gw.Stats().Seq; got != seq {
		t.Fatalf("the revocation is change %d, not %d", got, seq)
	}
	// The wait is longer than the interval at which b reports.
	got := a.gw.Confirm(t.Context(), "default", seq, 3*time.Second)
	if len(got.Pending) != 1 || got.Pending[0].Name != "b" {
		t.Errorf("b, which has not read the change, is not pending: %+v", got)
	}
	b.editKey(other, revoke)
	b.store.failChanges.Store(false)
	testkit.Eventually(t, "b rejects the key", func() bool { return b.check(key) == gateway.RevokedKey })
	testkit.Eventually(t, "b has confirmed", func() bool {
		return len(a.gw.Confirm(t.Context(), "default", seq, time.Second).Pending) == 0
	})
}

// While the database does not answer, a request that needs a lease of credits is Unavailable
// before its client gives up.
func TestLeaseFromAnUnresponsiveStore(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	own := newFixture(t, plan("free", "credits"))
	a := &fixture{t: t, hasher: own.hasher}
	a.use(plan("free", "credits"))
	a.join(at(proxy.Addr()), "a", anHour)
	a.tenant("acme", "free", 5)
	_, key := a.key("acme")
	a.want(gateway.Allowed, key)
	proxy.Hold()
	defer proxy.Restore()
	// Other writes have a timeout that is three times as long as the one for leases.
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for range 3 {
		var d gateway.Decision
		a.gw.Check(ctx, a.request(key), &d)
		if d.Done(); d.Reason != gateway.Unavailable || ctx.Err() != nil {
			t.Fatalf("the request got %v, %v", d.Reason, ctx.Err())
		}
	}
}

// A shorter staleness is in effect at once, even while the store is unreachable.
func TestShorterStalenessWhileUnreachable(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	w := newFixture(t)
	a := &fixture{t: t, hasher: w.hasher}
	a.use()
	a.join(at(proxy.Addr()), "a", anHour)
	proxy.Refuse()
	if !a.gw.ReadyFor("default") {
		t.Error("the node accepts no key within an hour of staleness")
	}
	a.gw.SetStaleness(cluster.Staleness{Default: 50 * time.Millisecond})
	testkit.Eventually(t, "the node accepts no more keys", func() bool { return !a.gw.ReadyFor("default") })
	a.gw.SetStaleness(cluster.Staleness{Default: 2 * time.Hour})
	testkit.Eventually(t, "the node accepts keys within the announced staleness", func() bool { return a.gw.ReadyFor("default") })
	proxy.Restore()
}

func TestNodeNamesAreUnique(t *testing.T) {
	url := testserver.PostgresURL(t)
	own := newFixture(t)
	a := &fixture{t: t, hasher: own.hasher}
	a.use()
	a.join(url, "a", anHour)
	s := testkit.Must[*postgres.Store](t)(postgres.New(postgres.Config{Address: url, Logger: slog.New(slog.DiscardHandler)}))
	defer s.Close()
	second := testkit.Must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{Store: s, Node: "a"}, Registry: s}))
	defer second.Close(t.Context())
	if err := second.Start(t.Context()); !errors.Is(err, cluster.ErrNameTaken) {
		t.Errorf("a second gateway of that name: %v", err)
	}
	a.stop()
	if err := second.Start(t.Context()); err != nil {
		t.Errorf("after the first gateway was stopped: %v", err)
	}
}

// TestDroppedChangesAreNotMissed checks that a process applies changes whose rows were removed from the store before the
// process read them.
func TestDroppedChangesAreNotMissed(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	last, _ := w.key("acme")
	w.want(gateway.Allowed, key)
	other := &fixture{t: t, path: w.path, hasher: w.hasher}
	other.use()
	other.start()
	w.store.down.Store(true)
	n := w.store.changes.Load()
	other.editKey(id, revoke)
	other.editKey(last, revoke)
	db := testkit.Must[*sql.DB](t)(sql.Open("sqlite", w.path))
	defer db.Close()
	if _, err := db.Exec(`DELETE FROM changes WHERE seq < (SELECT max(seq) FROM changes)`); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the gateway has tried to read the changes", func() bool { return w.store.changes.Load() > n })
	w.store.down.Store(false)
	testkit.Eventually(t, "the key is rejected", func() bool { return w.check(key) == gateway.RevokedKey })
}
