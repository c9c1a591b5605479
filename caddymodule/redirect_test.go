package caddymodule

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/management"
)

// onPostgres returns an app with a store in PostgreSQL.
func onPostgres(address, node, replica string) *App {
	return &App{Config: config.Config{
		Store: &config.StoreConfig{Type: config.StorePostgres, DSN: address, Replica: replica}, Node: node,
		Keyspaces: map[string]*config.KeyspaceConfig{"shop": {Plans: []*config.PlanConfig{{Name: "free"}}}},
	}}
}

// A reload can change the address of PostgreSQL while the engine and its replica stay. If the new
// address is wrong or the reload fails later, nothing changes.
func TestReloadToAnotherAddress(t *testing.T) {
	pg := testserver.NewPostgres(t)
	address := pg.Login("gate", "tulip-1")
	proxy := testserver.NewProxy(t, pg.Addr())
	other := strings.Replace(pg.Login("gate2", "tulip-2", "gate"), pg.Addr(), proxy.Addr(), 1)
	replica := filepath.Join(t.TempDir(), "replica.db")
	if err := load(t, onPostgres(address, "gw", replica), nil); err != nil {
		t.Fatal(err)
	}
	first := current(t)
	testkit.Eventually(t, "the gateway checks keys", first.Ready)
	for _, name := range []string{"keygate_store_unreachable", "keygate_store_away", "keygate_revocations_pending", "keygate_refusals_pending"} {
		if v := metric(t, name); v != 0 {
			t.Errorf("%s is %v while PostgreSQL answers", name, v)
		}
	}
	called := func() string {
		return current(t).engine.Replica().Primary().(interface{ Identity() string }).Identity()
	}
	before := called()

	wrong := func(app *App, extra caddy.ModuleMap, words ...string) {
		t.Helper()
		err := load(t, app, extra)
		wantError(t, err, words...)
		if err != nil && strings.Contains(err.Error(), "tulip") {
			t.Errorf("the error shows a password: %q", err)
		}
		if current(t) != first || called() != before || !first.Ready() {
			t.Fatalf("the rejected configuration changed the running one: its store is %s", called())
		}
	}
	wrong(onPostgres(strings.Replace(address, "tulip-1", "tulip-0", 1), "gw", replica), nil, "new address of the store", "password authentication failed")
	wrong(onPostgres(strings.Replace(other, "gate2", "gate3", 1), "gw", replica), nil, "gate3")
	// If the new configuration needs another engine, the running engine stands in the way: both
	// would use the same database or replica.
	wrong(onPostgres(address, "gw2", replica), nil, "a reload can't change to it", replica, "as node gw2")
	wrong(onPostgres(address+"&search_path=public", "gw", ""), nil, "is the database in use", "a reload can't change to it")
	wrong(onPostgres(strings.Replace(address, "/postgres?", "/none?", 1), "gw", ""), nil, "/none does not answer, so nothing was changed", "no such database")
	// A reload with a new address can't drop a plan that tenants have.
	actor := management.Actor{Name: "test", Via: "cli"}
	if _, err := first.engine.Manager().CreateTenant(t.Context(), actor, "shop", "acme", management.TenantFields{Plan: management.Some("free")}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the replica has the tenant", func() bool { return plans(t, first)["free"] == 1 })
	bare := onPostgres(other, "gw", replica)
	bare.Keyspaces["shop"].Plans[0].Name = "gold"
	wrong(bare, nil, "'free'")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for range 4 { // Caddy starts apps in random order, so several reloads cover both orders.
		wrong(onPostgres(other, "gw", replica), caddy.ModuleMap{"http": fmt.Appendf(nil, `{"servers":{"s":{"listen":[%q]}}}`, taken.Addr())}, "address already in use")
	}
	testkit.Eventually(t, "the rejected address has no connections", func() bool { return proxy.Connections() == 0 })

	if err := load(t, onPostgres(other, "gw", replica), nil); err != nil {
		t.Fatal(err)
	}
	if a := current(t); a.engine != first.engine || !a.Ready() || !strings.HasPrefix(called(), "postgres://gate2@"+proxy.Addr()) {
		t.Errorf("another engine: %v, ready: %v, at %s", a.engine != first.engine, a.Ready(), called())
	}
	pg.Exec("ALTER ROLE gate NOLOGIN")
	testkit.Eventually(t, "the former user's connections end", func() bool {
		var n int
		pg.Query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'gate'", &n)
		return n == 0
	})
	if held := plans(t, current(t)); held["free"] != 1 {
		t.Errorf("tenants: %v", held)
	}
	// While neither the current nor the new address answers, a reload accepts the new one, as a
	// start does.
	pg.Exec("ALTER ROLE gate LOGIN")
	pg.Kill()
	if err := load(t, onPostgres(address, "gw", replica), nil); err != nil {
		t.Fatal(err)
	}
	pg.Start()
	testkit.Eventually(t, "the store is reached again", func() bool {
		_, err := current(t).engine.Store().TenantsByPlan(t.Context(), "shop")
		return err == nil
	})
	if proxy.Connections() != 0 || called() != before {
		t.Errorf("%d connections to the former address; the store is %s", proxy.Connections(), called())
	}
}
