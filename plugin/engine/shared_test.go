package engine_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// TestUnreachablePrimary checks that an engine starts and reloads while its primary is unreachable, and
// serves when the primary answers.
func TestUnreachablePrimary(t *testing.T) {
	pg := testserver.NewPostgres(t)
	address := pg.Login("gate", "tulip-1")
	other := pg.Login("gate2", "tulip-2", "gate")
	target := engine.Target{Path: "shop", Address: engine.Address{DSN: address}, Node: "gw"}
	pg.Kill()

	e := newEngine(t, engine.Options{Target: target})
	c := newConfig(t, "free").at(address)
	apply(t, e, c)
	wantState(t, e, engine.Verifying)
	if c.isReady() || e.View() != c.View {
		t.Error("not adopted, or ready without a primary")
	}
	// Close ends the retries of the engine, so a closed engine does not serve when the primary answers later.
	closed := newEngine(t, engine.Options{Target: engine.Target{Path: "shop", Address: target.Address, Node: "gw2"}})
	given := newConfig(t, "free").at(address)
	apply(t, closed, given)
	began := time.Now()
	closeEngine(t, closed)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("Close took %s while it retried", took)
	}
	wantState(t, closed, engine.Closing)

	pg.Start()
	testkit.Eventually(t, "the engine serves", func() bool { return e.State() == engine.Serving })
	testkit.Eventually(t, "the configuration is ready", c.isReady)
	if given.isReady() {
		t.Error("a closed engine became ready")
	}
	createTenant(t, e, "acme", "free")
	inUse := func() string { return e.Store().(interface{ Identity() string }).Identity() }
	before := inUse()

	// If the server rejects a new address, Apply fails and changes nothing.
	applyFails(t, e, newConfig(t, "free").at(strings.Replace(address, "tulip-1", "tulip-0", 1)), "new address of the store", "password authentication failed")
	// The new address is right, but the configuration lacks the plan "free", which a tenant of the store
	// holds. Apply fails.
	applyFails(t, e, newConfig(t, "gold").at(other), "'free'")
	testkit.Eventually(t, "nothing is connected as the other user", func() bool {
		var n int
		pg.Query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'gate2'", &n)
		return n == 0
	})
	wantState(t, e, engine.Serving)
	if e.View() != c.View || inUse() != before {
		t.Errorf("a configuration that failed is used, at %s", inUse())
	}

	// The engine adopts a new configuration while the primary is unreachable, and verifies it when the
	// primary answers.
	pg.Kill()
	moved := newConfig(t, "free", "gold").at(other)
	apply(t, e, moved)
	wantState(t, e, engine.Degraded)
	e.Retire(&c.Config)
	if e.View() != moved.View || moved.isReady() {
		t.Error("not adopted, or ready without a primary")
	}
	pg.Start()
	testkit.Eventually(t, "the engine serves again", func() bool { return e.State() == engine.Serving })
	testkit.Eventually(t, "the next configuration is ready", moved.isReady)
}

// TestOtherEngineServes checks that an engine which can't reach its store does not replace another
// engine that serves.
func TestOtherEngineServes(t *testing.T) {
	nowhere := testserver.NewProxy(t, "127.0.0.1:1")
	nowhere.Refuse()
	dsn := "postgres://gate:x@" + nowhere.Addr() + "/none?sslmode=disable"
	serving := true
	e := newEngine(t, engine.Options{
		Target: engine.Target{Path: "none", Address: engine.Address{DSN: dsn}},
		Other:  func() (string, bool) { return "the store in use", serving },
	})
	c := newConfig(t, "free").at(dsn)
	applyFails(t, e, c, "none does not answer, so nothing was changed", "the store in use stays in use")
	wantState(t, e, engine.Verifying)
	if e.View() != nil {
		t.Error("the configuration was adopted")
	}
	serving = false
	apply(t, e, c)
	if e.View() != c.View {
		t.Error("without another engine the configuration was not adopted")
	}
}

// TestLimitsFollowConfigurations checks that limits move to Redis and back as each new configuration
// states. If a configuration is retired, the limits return to the former place.
func TestLimitsFollowConfigurations(t *testing.T) {
	server := testserver.NewRedis(t, "--requirepass", "rose-1")
	at := func(password string) engine.Limits {
		return engine.Limits{Redis: "redis://:" + password + "@" + server.Addr(), Timeout: 10 * time.Second}
	}
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}})
	here := newConfig(t, "free")
	apply(t, e, here)
	if e.Limits() != nil {
		t.Fatal("limits are in Redis")
	}

	wrong := newConfig(t, "free")
	wrong.Limits = at("rose-2")
	applyFails(t, e, wrong, "limits redis", "WRONGPASS", "nothing was changed")
	if e.Limits() != nil || e.View() != here.View {
		t.Error("a configuration that failed is used")
	}

	shared := newConfig(t, "free")
	shared.Limits = at("rose-1")
	apply(t, e, shared)
	limits := e.Limits()
	if limits == nil || limits.Leased() {
		t.Fatalf("limits %+v", limits)
	}
	testkit.Eventually(t, "Redis answers", func() bool { return !limits.Unreachable() })
	wantState(t, e, engine.Serving)

	leased := newConfig(t, "free")
	leased.Limits = at("rose-1")
	leased.Limits.Leased = true
	apply(t, e, leased)
	if e.Limits() != limits || !limits.Leased() {
		t.Error("a change of the mode made another connection, or did nothing")
	}
	e.Retire(&leased.Config)
	if e.Limits() != limits || limits.Leased() {
		t.Error("the mode is still that of a configuration that was given up")
	}

	local := newConfig(t, "free")
	apply(t, e, local)
	if e.Limits() != nil {
		t.Error("limits are still in Redis")
	}
	e.Retire(&local.Config)
	limits = e.Limits()
	if limits == nil {
		t.Fatal("limits did not return to Redis")
	}

	key := createKey(t, e)
	if r := check(e, shared, key); r != gateway.Allowed {
		t.Errorf("a key is answered with %s", r)
	}
	server.Kill()
	testkit.Eventually(t, "the engine finds Redis unreachable", func() bool { check(e, shared, key); return limits.Unreachable() })
	wantState(t, e, engine.Degraded)
	server.Start()
	testkit.Eventually(t, "the engine serves", func() bool { return e.State() == engine.Serving })
}
