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

// postgresPrimary returns what opens a store on the PostgreSQL at url.
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

// TestPostgresUnreachable kills PostgreSQL under two nodes, and restarts one of them meanwhile.
func TestPostgresUnreachable(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	a := newNodeOn(t, "", postgresPrimary(t, pg.URL()))
	b := newNodeOn(t, "", postgresPrimary(t, pg.URL()))
	a.tenant("a")
	_, fine := a.key("a")
	revoked, second := a.key("a")
	away, third := a.key("a")
	a.waitSynced()
	b.waitSynced()
	b.want(fine, gateway.Allowed)
	if _, err := b.RevokeKey(ctxOf(t), ada, ks, revoked); err != nil {
		t.Fatal(err)
	}
	a.waitSynced()
	testkit.Eventually(t, "the other node rejects it", func() bool { return a.reasonFor(second) == gateway.RevokedKey })

	pg.Kill()
	a.restart()
	for _, n := range []*node{a, b} {
		n.want(fine, gateway.Allowed)
		n.want(second, gateway.RevokedKey)
		n.want(third, gateway.Allowed)
	}
	if _, err := a.CreateKey(ctxOf(t), ada, ks, "a", management.KeyFields{Name: management.Some("x")}); !errors.Is(err, gateway.ErrStore) {
		t.Fatalf("creating while PostgreSQL is unreachable: %v", err)
	}
	if r, err := a.RevokeKey(ctxOf(t), ada, ks, away); err != nil || r.Durable {
		t.Fatalf("revoking while PostgreSQL is unreachable: %+v, %v", r, err)
	}
	a.want(third, gateway.RevokedKey)

	pg.Start()
	a.waitSynced()
	b.waitSynced()
	for _, n := range []*node{a, b} {
		n.want(fine, gateway.Allowed)
		n.want(second, gateway.RevokedKey)
		n.want(third, gateway.RevokedKey)
	}
}

// TestPostgresJoin revokes a key between the moment in which a gateway's copy was brought up to date and
// that in which others hear of the gateway: nobody waited for it.
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

// TestPostgresPartition cuts a node off from PostgreSQL, without a connection being closed, while
// another revokes a key.
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
	testkit.Eventually(t, "the node notices", func() bool { return a.r.Status().Unreachable != nil })
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

// TestPostgresRestored puts an older state of the database in place of the one that a node has
// followed.
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
	// Another database altogether: nothing of it is known, and nothing that was known is in it.
	now = after
	n.start()
	n.waitSynced()
	n.want(full, gateway.InvalidKey)
	n.tenant("b")
	_, other := n.key("b")
	n.want(other, gateway.Allowed)
}

// rewinder is a database of a PostgreSQL server that can be put back to what it was.
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

// alone does what nobody may be connected to the database for, as soon as nobody is.
func (b *rewinder) execAlone(query string) {
	b.t.Helper()
	b.exec("ALTER DATABASE keygate ALLOW_CONNECTIONS false")
	testkit.Eventually(b.t, query, func() bool {
		b.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'keygate'")
		_, err := b.conn.Exec(ctxOf(b.t), query)
		return err == nil
	})
}

// backup returns the name of a copy of the database.
func (b *rewinder) backup() string {
	b.t.Helper()
	b.made++
	name := fmt.Sprint("backup_", b.made)
	b.execAlone("CREATE DATABASE " + name + " TEMPLATE keygate")
	b.exec("ALTER DATABASE keygate ALLOW_CONNECTIONS true")
	return name
}

// restore puts a backup in the place of the database.
func (b *rewinder) restore(backup string) {
	b.t.Helper()
	b.made++
	b.execAlone(fmt.Sprint("ALTER DATABASE keygate RENAME TO former_", b.made))
	b.exec("CREATE DATABASE keygate TEMPLATE " + backup)
}

// TestPostgresRewinds puts backups of PostgreSQL in its place under a node that goes on.
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
	for _, what := range []string{"fine", "revoked", "disabled", "deleted", "rotated"} {
		ids[what], fulls[what] = n.key("a")
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
	refused := func() {
		t.Helper()
		for what, full := range fulls {
			if got := n.reasonFor(full); got == gateway.Allowed && what != "fine" {
				t.Fatalf("a %s key is let in", what)
			}
		}
	}
	for _, backup := range []string{known, unknown, known} {
		b.restore(backup)
		n.backAt = time.Now()
		refused()
		n.waitSynced()
		refused()
	}
	n.want(fulls["fine"], gateway.Allowed)
	// As a node sees it that has no copy.
	other := newNodeOn(t, "", postgresPrimary(t, b.url))
	for what, full := range fulls {
		if got := other.reasonFor(full); (got == gateway.Allowed) != (what == "fine") {
			t.Errorf("elsewhere the %s key is %v", what, got)
		}
	}
}
