package replica_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// postgresTruth returns what opens a store on the PostgreSQL at url.
func postgresTruth(t testing.TB, url string) func() *sqlstore.Store {
	return func() *sqlstore.Store {
		t.Helper()
		s, err := sqlstore.NewPostgres(sqlstore.PostgresConfig{Address: url, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// TestPostgresAway kills PostgreSQL under two nodes, and restarts one of them meanwhile.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	a := newNodeOn(t, "", postgresTruth(t, pg.URL()))
	b := newNodeOn(t, "", postgresTruth(t, pg.URL()))
	a.tenant("a")
	_, fine := a.key("a")
	revoked, second := a.key("a")
	away, third := a.key("a")
	a.settled()
	b.settled()
	b.want(fine, gateway.Allowed)
	if _, err := b.RevokeKey(ctxOf(t), ada, ks, revoked); err != nil {
		t.Fatal(err)
	}
	a.settled()
	eventually(t, "the other node refuses it", func() bool { return a.judge(second) == gateway.RevokedKey })

	pg.Kill()
	a.restart()
	for _, n := range []*node{a, b} {
		n.want(fine, gateway.Allowed)
		n.want(second, gateway.RevokedKey)
		n.want(third, gateway.Allowed)
	}
	if _, err := a.CreateKey(ctxOf(t), ada, ks, "a", management.KeyFields{Name: management.Some("x")}); !errors.Is(err, gateway.ErrStore) {
		t.Fatalf("creating while PostgreSQL is away: %v", err)
	}
	if r, err := a.RevokeKey(ctxOf(t), ada, ks, away); err != nil || r.Durable {
		t.Fatalf("revoking while PostgreSQL is away: %+v, %v", r, err)
	}
	a.want(third, gateway.RevokedKey)

	pg.Start()
	a.settled()
	b.settled()
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
	a, late := newNodeOn(t, "", postgresTruth(t, url)), newNodeOn(t, "", postgresTruth(t, url))
	a.tenant("a")
	id, full := a.key("a")
	late.settled()
	late.want(full, gateway.Allowed)
	late.stop()

	late.truth = &cutTruth{Store: late.open(), down: &late.down}
	var err error
	if late.r, err = replica.Open(t.Context(), replica.Options{File: late.file, Truth: late.truth, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	late.truth.held.Store(&held)
	if late.gw, err = gateway.New(gateway.Options{Store: late.r, Registry: late.r, Node: "late", Logger: quiet}); err != nil {
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
	a := newNodeOn(t, "", postgresTruth(t, pg.URLAt(proxy.Addr())))
	b := newNodeOn(t, "", postgresTruth(t, pg.URL()))
	b.tenant("a")
	id, full := b.key("a")
	other, second := b.key("a")
	a.settled()
	a.want(full, gateway.Allowed)
	proxy.Hold()
	if _, err := b.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	b.want(full, gateway.RevokedKey)
	eventually(t, "the node notices", func() bool { return a.r.Status().Away != nil })
	a.want(second, gateway.Allowed)
	if r, err := a.DisableKey(ctxOf(t), ada, ks, other); err != nil || r.Durable {
		t.Fatalf("disabling while cut off: %+v, %v", r, err)
	}
	a.want(second, gateway.DisabledKey)
	proxy.Restore()
	a.settled()
	b.settled()
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
	n := newNodeOn(t, "", func() *sqlstore.Store { return postgresTruth(t, now)() })
	n.tenant("a")
	id, full := n.key("a")
	n.settled()
	if _, err := n.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	n.settled()
	n.stop()
	// Another database altogether: nothing of it is known, and nothing that was known is in it.
	now = after
	n.start()
	n.settled()
	n.want(full, gateway.InvalidKey)
	n.tenant("b")
	_, other := n.key("b")
	n.want(other, gateway.Allowed)
}

// turnBack is a database of a PostgreSQL server that can be put back to what it was.
type turnBack struct {
	t    *testing.T
	conn *pgx.Conn
	url  string
	made int
}

func newTurnBack(t *testing.T) *turnBack {
	t.Helper()
	pg := testserver.NewPostgres(t)
	conn, err := pgx.Connect(ctxOf(t), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	b := &turnBack{t: t, conn: conn, url: strings.Replace(pg.URL(), "/postgres?", "/keygate?", 1)}
	b.exec("CREATE DATABASE keygate")
	return b
}

func (b *turnBack) exec(query string) {
	b.t.Helper()
	if _, err := b.conn.Exec(ctxOf(b.t), query); err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
}

// alone does what nobody may be connected to the database for, as soon as nobody is.
func (b *turnBack) alone(query string) {
	b.t.Helper()
	b.exec("ALTER DATABASE keygate ALLOW_CONNECTIONS false")
	eventually(b.t, query, func() bool {
		b.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'keygate'")
		_, err := b.conn.Exec(ctxOf(b.t), query)
		return err == nil
	})
}

// backup returns the name of a copy of the database.
func (b *turnBack) backup() string {
	b.t.Helper()
	b.made++
	name := fmt.Sprint("backup_", b.made)
	b.alone("CREATE DATABASE " + name + " TEMPLATE keygate")
	b.exec("ALTER DATABASE keygate ALLOW_CONNECTIONS true")
	return name
}

// restore puts a backup in the place of the database.
func (b *turnBack) restore(backup string) {
	b.t.Helper()
	b.made++
	b.alone(fmt.Sprint("ALTER DATABASE keygate RENAME TO former_", b.made))
	b.exec("CREATE DATABASE keygate TEMPLATE " + backup)
}

// TestPostgresGoesBack puts backups of PostgreSQL in its place under a node that goes on.
func TestPostgresGoesBack(t *testing.T) {
	t.Parallel()
	b := newTurnBack(t)
	n := newNodeOn(t, "", postgresTruth(t, b.url))
	n.tenant("a")
	n.tenant("b")
	n.settled()
	unknown := b.backup()
	n.settled()
	fulls := map[string]string{}
	ids := map[string]string{}
	for _, what := range []string{"fine", "revoked", "disabled", "deleted", "rotated"} {
		ids[what], fulls[what] = n.key("a")
	}
	_, fulls["suspended"] = n.key("b")
	n.settled()
	known := b.backup()
	n.settled()
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
	n.settled()
	refused := func() {
		t.Helper()
		for what, full := range fulls {
			if got := n.judge(full); got == gateway.Allowed && what != "fine" {
				t.Fatalf("a %s key is let in", what)
			}
		}
	}
	for _, backup := range []string{known, unknown, known} {
		b.restore(backup)
		n.backAt = time.Now()
		refused()
		n.settled()
		refused()
	}
	n.want(fulls["fine"], gateway.Allowed)
	// As a node sees it that has no copy.
	other := newNodeOn(t, "", postgresTruth(t, b.url))
	for what, full := range fulls {
		if got := other.judge(full); (got == gateway.Allowed) != (what == "fine") {
			t.Errorf("elsewhere the %s key is %v", what, got)
		}
	}
}
