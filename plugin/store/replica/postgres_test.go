package replica_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// postgresPrimary returns a function that opens a store on the PostgreSQL at url.
func postgresPrimary(t testing.TB, url string) func() *cutPrimary {
	return func() *cutPrimary {
		t.Helper()
		s, err := postgres.New(postgres.Config{Address: url, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return cutPostgres(s)
	}
}

// TestPostgresUnreachable kills PostgreSQL under two nodes and restarts one of the nodes meanwhile. Both
// nodes must continue to check keys, and deliver revocations after PostgreSQL runs again.
func TestPostgresUnreachable(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	a := newNodeOn(t, "", postgresPrimary(t, pg.URL()))
	b := newNodeOn(t, "", postgresPrimary(t, pg.URL()))
	a.tenant("a")
	_, active := a.key("a")
	revoked, second := a.key("a")
	cutOff, third := a.key("a")
	a.waitSynced()
	b.waitSynced()
	b.want(active, gateway.Allowed)
	if _, err := b.RevokeKey(ctxOf(t), ada, ks, revoked); err != nil {
		t.Fatal(err)
	}
	a.waitSynced()
	testkit.Eventually(t, "the other node rejects the key", func() bool { return a.reasonFor(second) == gateway.RevokedKey })

	pg.Kill()
	a.restart()
	for _, n := range []*node{a, b} {
		n.want(active, gateway.Allowed)
		n.want(second, gateway.RevokedKey)
		n.want(third, gateway.Allowed)
	}
	if _, err := a.CreateKey(ctxOf(t), ada, ks, "a", management.KeyFields{Name: management.Some("x")}); !errors.Is(err, gateway.ErrStore) {
		t.Fatalf("creating while PostgreSQL is unreachable: %v", err)
	}
	if r, err := a.RevokeKey(ctxOf(t), ada, ks, cutOff); err != nil || r.Durable {
		t.Fatalf("revoking while PostgreSQL is unreachable: %+v, %v", r, err)
	}
	a.want(third, gateway.RevokedKey)

	pg.Start()
	a.waitSynced()
	b.waitSynced()
	for _, n := range []*node{a, b} {
		n.want(active, gateway.Allowed)
		n.want(second, gateway.RevokedKey)
		n.want(third, gateway.RevokedKey)
	}
}

// TestPostgresJoin revokes a key after a starting gateway has synced its copy, but before the gateway
// has registered with the cluster. No node waits for the gateway's confirmation, so the gateway must
// sync once more.
func TestPostgresJoin(t *testing.T) {
	t.Parallel()
	url := testserver.PostgresURL(t)
	a, late := newNodeOn(t, "", postgresPrimary(t, url)), newNodeOn(t, "", postgresPrimary(t, url))
	a.tenant("a")
	id, full := a.key("a")
	late.waitSynced()
	late.want(full, gateway.Allowed)
	late.stop()

	late.primary = late.open()
	late.primary.down = &late.down
	var err error
	if late.r, err = replica.Open(t.Context(), replica.Options{File: late.file, Primary: late.primary, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	late.primary.held.Store(&held)
	if late.gw, err = cluster.New(cluster.Options{Options: gateway.Options{Store: late.r, Node: "late", Logger: quiet}, Registry: late.r}); err != nil {
		t.Fatal(err)
	}
	late.stopped = false
	if _, err := a.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { close(held) })
	if err := late.gw.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	late.want(full, gateway.RevokedKey)
}

// TestPostgresPartition blocks a node's connections to PostgreSQL without closing them. Meanwhile
// another node revokes a key.
func TestPostgresPartition(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	proxy := testserver.NewProxy(t, pg.Addr())
	a := newNodeOn(t, "", postgresPrimary(t, pg.URLAt(proxy.Addr())))
	b := newNodeOn(t, "", postgresPrimary(t, pg.URL()))
	b.tenant("a")
	id, full := b.key("a")
	other, second := b.key("a")
	a.waitSynced()
	a.want(full, gateway.Allowed)
	proxy.Hold()
	if _, err := b.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	b.want(full, gateway.RevokedKey)
	testkit.Eventually(t, "the node finds the primary unreachable", func() bool { return a.r.Status().Unreachable != nil })
	a.want(second, gateway.Allowed)
	if r, err := a.DisableKey(ctxOf(t), ada, ks, other); err != nil || r.Durable {
		t.Fatalf("disabling while cut off: %+v, %v", r, err)
	}
	a.want(second, gateway.DisabledKey)
	proxy.Restore()
	a.waitSynced()
	b.waitSynced()
	for _, n := range []*node{a, b} {
		n.want(full, gateway.RevokedKey)
		n.want(second, gateway.DisabledKey)
	}
}

// TestPostgresRestored replaces the database to which a node's copy belongs by an empty database.
func TestPostgresRestored(t *testing.T) {
	t.Parallel()
	before, after := testserver.PostgresURL(t), testserver.PostgresURL(t)
	now := before
	n := newNodeOn(t, "", func() *cutPrimary { return postgresPrimary(t, now)() })
	n.tenant("a")
	id, full := n.key("a")
	n.waitSynced()
	if _, err := n.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	n.waitSynced()
	n.stop()
	// The new database has no data in common with the former one.
	now = after
	n.start()
	n.waitSynced()
	n.want(full, gateway.InvalidKey)
	n.tenant("b")
	_, other := n.key("b")
	n.want(other, gateway.Allowed)
}

// rewinder is a database of a PostgreSQL server. A test can make backups of the database and restore
// them.
type rewinder struct {
	t    *testing.T
	conn *pgx.Conn
	url  string
	made int
}

func newRewinder(t *testing.T) *rewinder {
	t.Helper()
	pg := testserver.NewPostgres(t)
	conn, err := pgx.Connect(ctxOf(t), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	b := &rewinder{t: t, conn: conn, url: strings.Replace(pg.URL(), "/postgres?", "/keygate?", 1)}
	b.exec("CREATE DATABASE keygate")
	return b
}

func (b *rewinder) exec(query string) {
	b.t.Helper()
	if _, err := b.conn.Exec(ctxOf(b.t), query); err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
}

// execAlone runs a statement that fails while another client is connected to the database. It ends all
// connections until the statement succeeds.
func (b *rewinder) execAlone(query string) {
	b.t.Helper()
	b.exec("ALTER DATABASE keygate ALLOW_CONNECTIONS false")
	testkit.Eventually(b.t, query, func() bool {
		b.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'keygate'")
		_, err := b.conn.Exec(ctxOf(b.t), query)
		return err == nil
	})
}

// backup makes a copy of the database and returns its name.
func (b *rewinder) backup() string {
	b.t.Helper()
	b.made++
	name := fmt.Sprint("backup_", b.made)
	b.execAlone("CREATE DATABASE " + name + " TEMPLATE keygate")
	b.exec("ALTER DATABASE keygate ALLOW_CONNECTIONS true")
	return name
}

// restore replaces the database by a backup.
func (b *rewinder) restore(backup string) {
	b.t.Helper()
	b.made++
	b.execAlone(fmt.Sprint("ALTER DATABASE keygate RENAME TO former_", b.made))
	b.exec("CREATE DATABASE keygate TEMPLATE " + backup)
}

// TestPostgresRewinds restores backups of PostgreSQL under a running node, and checks that revoked keys
// stay rejected.
func TestPostgresRewinds(t *testing.T) {
	t.Parallel()
	b := newRewinder(t)
	n := newNodeOn(t, "", postgresPrimary(t, b.url))
	n.tenant("a")
	n.tenant("b")
	n.waitSynced()
	unknown := b.backup()
	n.waitSynced()
	fulls := map[string]string{}
	ids := map[string]string{}
	for _, name := range []string{"active", "revoked", "disabled", "deleted", "rotated"} {
		ids[name], fulls[name] = n.key("a")
	}
	_, fulls["suspended"] = n.key("b")
	n.waitSynced()
	known := b.backup()
	n.waitSynced()
	ctx := ctxOf(t)
	_, err := n.RevokeKey(ctx, ada, ks, ids["revoked"])
	if err == nil {
		_, err = n.DisableKey(ctx, ada, ks, ids["disabled"])
	}
	if err == nil {
		err = n.DeleteKey(ctx, ada, ks, ids["deleted"], nil)
	}
	if err == nil {
		_, err = n.RotateKey(ctx, ada, ks, ids["rotated"], 0)
	}
	if err == nil {
		_, err = n.SuspendTenant(ctx, ada, ks, "b")
	}
	if err != nil {
		t.Fatal(err)
	}
	n.waitSynced()
	expectRejected := func() {
		t.Helper()
		for name, full := range fulls {
			if got := n.reasonFor(full); got == gateway.Allowed && name != "active" {
				t.Fatalf("a %s key is accepted", name)
			}
		}
	}
	for _, backup := range []string{known, unknown, known} {
		b.restore(backup)
		n.backAt = time.Now()
		expectRejected()
		n.waitSynced()
		expectRejected()
	}
	n.want(fulls["active"], gateway.Allowed)
	// A node without a copy rejects the same keys, because the revocations were written to the primary.
	other := newNodeOn(t, "", postgresPrimary(t, b.url))
	for name, full := range fulls {
		if got := other.reasonFor(full); (got == gateway.Allowed) != (name == "active") {
			t.Errorf("on a node without a former copy the %s key is %v", name, got)
		}
	}
}
