package gateway_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
)

// join starts an engine on a database that others use too.
func (w *world) join(address, name string, trust cluster.Staleness) {
	w.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s := must(postgres.New(postgres.Config{Address: address, Logger: quiet}))(w.t)
	w.store = &faultyStore{Store: s.Store}
	w.gw = must(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Node: name, Logger: quiet}, Registry: s, Staleness: trust}))(w.t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := w.gw.Start(ctx)
	for errors.Is(err, gateway.ErrStore) && ctx.Err() == nil {
		err = w.gw.Start(ctx) // a busy machine's database may be late
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
}

// anHour is a staleness that no test reaches.
var anHour = cluster.Staleness{Default: time.Hour}

// comes waits until ok holds, for longer than other tests need to.
func comes(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never happened: " + what)
		}
	}
}

// A gateway that cannot reach a shared store does not reject unknown keys, and accepts known ones for
// its staleness only.
func TestCutOff(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	own := newWorld(t)
	a, b, c, d := &world{t: t, hasher: own.hasher}, &world{t: t, hasher: own.hasher}, &world{t: t, hasher: own.hasher}, &world{t: t, hasher: own.hasher}
	for _, w := range []*world{a, b, c, d} {
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
	for _, w := range []*world{b, c, d} {
		comes(t, "it knows the key", func() bool { return w.check(key) == gateway.Allowed })
	}
	comes(t, "b knows of no such key", func() bool { return b.check(unknown) == gateway.InvalidKey })

	short1, ended := c.live(key)
	defer short1.Done()
	long1, goesOn := d.live(key)
	defer long1.Done()
	proxy.Refuse()
	if got := b.check(key); got != gateway.Allowed {
		t.Errorf("a known key just after the cut: %v", got)
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
	comes(t, "b says nothing of an unknown key", func() bool { return b.check(unknown) == gateway.Unavailable })
	comes(t, "b says nothing of a known key", func() bool { return b.check(key) == gateway.Unavailable })
	comes(t, "nor does c, of this keyspace", func() bool { return c.check(key) == gateway.Unavailable })
	comes(t, "b and c are not named any more, since they accept no keys of this keyspace", func() bool {
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
		t.Error("a live request goes on though nothing is known of its key")
	}
	if len(goesOn) > 0 {
		t.Errorf("a live request of a keyspace that is not stale was ended: %v", <-goesOn)
	}
	proxy.Restore()
	comes(t, "b refuses what was revoked meanwhile", func() bool { return b.check(key) == gateway.RevokedKey })
	comes(t, "b takes a key it did not know", func() bool { return b.check(unused) == gateway.Allowed })
	if !b.gw.Ready() {
		t.Error("it is not ready again")
	}
}

// A gateway that cannot read the list of nodes names those it read last, with deadlines no earlier than
// theirs.
func TestOthersAreNamedWhileTheStoreIsUnreachable(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	own := newWorld(t)
	a, b := &world{t: t, hasher: own.hasher}, &world{t: t, hasher: own.hasher}
	for _, w := range []*world{a, b} {
		w.use()
	}
	const trust = time.Minute
	b.join(url, "b", cluster.Staleness{Default: trust})
	a.join(at(proxy.Addr()), "a", anHour)
	comes(t, "a has looked who there is", func() bool { return a.gw.NodesKnown() > 1 })
	proxy.Refuse()
	// b goes on telling the store that it is there.
	time.Sleep(4 * time.Second)
	before := time.Now()
	got := a.gw.Confirm(t.Context(), "default", math.MaxInt64, 0)
	if len(got.Pending) != 1 || got.Pending[0].Name != "b" {
		t.Fatalf("with a cut off: %+v", got)
	}
	// Within a second it says so again.
	if by := got.Pending[0].Deadline; by.Before(before.Add(trust - time.Second)) {
		t.Errorf("b, which is trusted for a minute from now on, is said to stop in %v", by.Sub(before))
	}

	s := must(postgres.New(postgres.Config{Address: at(proxy.Addr()), Logger: slog.New(slog.DiscardHandler)}))(t)
	defer s.Close()
	c := must(cluster.New(cluster.Options{Options: gateway.Options{Store: s, Node: "c"}, Registry: s}))(t)
	defer c.Close(t.Context())
	got = c.Confirm(t.Context(), "default", math.MaxInt64, 0)
	if len(got.Pending) != 1 || got.Pending[0].Name != cluster.AnyOther || !got.Pending[0].Deadline.IsZero() {
		t.Errorf("where nobody was ever known: %+v", got)
	}
	proxy.Restore()
}

// A database that went back by a change gives its number to another: who has not noticed yet has not
// confirmed that, whatever it says, and does not miss it for having written something itself since.
func TestNumbersGivenAgain(t *testing.T) {
	url := testserver.PostgresURL(t)
	own := newWorld(t)
	a, b := &world{t: t, hasher: own.hasher}, &world{t: t, hasher: own.hasher}
	for name, w := range map[string]*world{"a": a, "b": b} {
		w.use()
		w.join(url, name, anHour)
	}
	a.tenant("acme", "free", 0)
	id, key := a.key("acme")
	other, _ := a.key("acme")
	lost, _ := a.key("acme")
	comes(t, "b knows the key", func() bool { return b.check(key) == gateway.Allowed })
	a.editKey(lost, revoke)
	seq := a.gw.Stats().Seq
	comes(t, "b has confirmed all", func() bool {
		return len(a.gw.Confirm(t.Context(), "default", seq, time.Second).Pending) == 0
	})
	b.store.deaf.Store(true)
	back := must(sql.Open("pgx", url))(t)
	defer back.Close()
	if _, err := back.Exec(`WITH s AS (UPDATE sequences SET value = value - 1 WHERE name = 'changes' RETURNING value),
		c AS (DELETE FROM changes WHERE seq > (SELECT value FROM s))
		UPDATE nodes SET seq = least(seq, (SELECT value FROM s))`); err != nil {
		t.Fatal(err)
	}
	comes(t, "a has noticed", func() bool { return a.gw.Stats().Seq == seq-1 })
	a.editKey(id, revoke)
	if got := a.gw.Stats().Seq; got != seq {
		t.Fatalf("the revocation is change %d, not %d", got, seq)
	}
	// Longer than it takes b to say how far it is.
	got := a.gw.Confirm(t.Context(), "default", seq, 3*time.Second)
	if len(got.Pending) != 1 || got.Pending[0].Name != "b" {
		t.Errorf("b can't have confirmed a change that it has not read: %+v", got)
	}
	b.editKey(other, revoke)
	b.store.deaf.Store(false)
	comes(t, "b refuses the key", func() bool { return b.check(key) == gateway.RevokedKey })
	comes(t, "b has confirmed", func() bool {
		return len(a.gw.Confirm(t.Context(), "default", seq, time.Second).Pending) == 0
	})
}

// A request that needs a lease of credits does not wait for an unresponsive database until its client
// gives up.
func TestLeasesFromAStoreThatDoesNotAnswer(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	own := newWorld(t, plan("free", "credits"))
	a := &world{t: t, hasher: own.hasher}
	a.use(plan("free", "credits"))
	a.join(at(proxy.Addr()), "a", anHour)
	a.tenant("acme", "free", 5)
	_, key := a.key("acme")
	a.want(gateway.Allowed, key)
	proxy.Hold()
	defer proxy.Restore()
	// What bounds other writes is thrice as long.
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

// A shorter staleness holds at once, also while the store is unreachable.
func TestShorterStalenessHoldsWhileCutOff(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	w := newWorld(t)
	a := &world{t: t, hasher: w.hasher}
	a.use()
	a.join(at(proxy.Addr()), "a", anHour)
	proxy.Refuse()
	if !a.gw.ReadyFor("default") {
		t.Error("it accepts no key within an hour")
	}
	a.gw.SetStaleness(cluster.Staleness{Default: 50 * time.Millisecond})
	comes(t, "it accepts no more keys", func() bool { return !a.gw.ReadyFor("default") })
	a.gw.SetStaleness(cluster.Staleness{Default: 2 * time.Hour})
	comes(t, "it accepts keys by the announced staleness", func() bool { return a.gw.ReadyFor("default") })
	proxy.Restore()
}

func TestTwoOfOneName(t *testing.T) {
	url := testserver.PostgresURL(t)
	own := newWorld(t)
	a := &world{t: t, hasher: own.hasher}
	a.use()
	a.join(url, "a", anHour)
	s := must(postgres.New(postgres.Config{Address: url, Logger: slog.New(slog.DiscardHandler)}))(t)
	defer s.Close()
	again := must(cluster.New(cluster.Options{Options: gateway.Options{Store: s, Node: "a"}, Registry: s}))(t)
	defer again.Close(t.Context())
	if err := again.Start(t.Context()); !errors.Is(err, cluster.ErrNameTaken) {
		t.Errorf("a second gateway of that name: %v", err)
	}
	a.stop()
	if err := again.Start(t.Context()); err != nil {
		t.Errorf("after the first was stopped: %v", err)
	}
}

// What changed is not missed because the rows that told of it are gone.
func TestDroppedChangesAreNotMissed(t *testing.T) {
	w := newWorld(t)
	w.tenant("acme", "free", 0)
	id, key := w.key("acme")
	last, _ := w.key("acme")
	w.want(gateway.Allowed, key)
	other := &world{t: t, path: w.path, hasher: w.hasher}
	other.use()
	other.start()
	w.store.down.Store(true)
	n := w.store.changes.Load()
	other.editKey(id, revoke)
	other.editKey(last, revoke)
	db := must(sql.Open("sqlite", w.path))(t)
	defer db.Close()
	if _, err := db.Exec(`DELETE FROM changes WHERE seq < (SELECT max(seq) FROM changes)`); err != nil {
		t.Fatal(err)
	}
	comes(t, "something is noticed", func() bool { return w.store.changes.Load() > n })
	w.store.down.Store(false)
	comes(t, "the revocation counts", func() bool { return w.check(key) == gateway.RevokedKey })
}
