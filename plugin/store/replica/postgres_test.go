package replica_test

import (
	"errors"
	"testing"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
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
