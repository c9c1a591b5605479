package engine_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

func TestLifecycle(t *testing.T) {
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}})
	c := newConfig(t, "free")
	wantState(t, e, engine.Opening)
	if e.Store() != nil || e.Manager() != nil || e.View() != nil {
		t.Error("an engine that opened nothing has a store, a manager or a view")
	}
	apply(t, e, c)
	wantState(t, e, engine.Serving)
	if !c.isReady() || c.isReady() {
		t.Error("Ready was not called exactly once")
	}
	key := createKey(t, e)
	if r := check(e, c, key); r != gateway.Allowed {
		t.Errorf("a key is answered with %s", r)
	}
	closeEngine(t, e)
	wantState(t, e, engine.Closing)
	if r := check(e, c, key); r != gateway.Unavailable {
		t.Errorf("after Close a key is answered with %s", r)
	}
	if err := e.Apply(t.Context(), &newConfig(t, "free").Config); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("Apply after Close: %v", err)
	}
	wantState(t, e, engine.Closing)
}

func TestStoreThatCannotBeOpened(t *testing.T) {
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "none", "keygate.db")}})
	applyFails(t, e, newConfig(t, "free"), "opening the store")
	wantState(t, e, engine.Opening)
	if e.View() != nil || e.Store() != nil {
		t.Error("the engine adopted a configuration, or has a store")
	}
}

func TestApplyRejectsConfigurationWithoutThePlansOfTheStore(t *testing.T) {
	target := engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}
	first := newEngine(t, engine.Options{Target: target})
	apply(t, first, newConfig(t, "free"))
	createTenant(t, first, "acme", "free")
	closeEngine(t, first)

	e := newEngine(t, engine.Options{Target: target})
	applyFails(t, e, newConfig(t, "gold"), "1 tenant is", "'free'")
	wantState(t, e, engine.Verifying)
	if e.View() != nil {
		t.Error("the configuration was adopted")
	}
	apply(t, e, newConfig(t, "free"))
	wantState(t, e, engine.Serving)
}

func TestFailedApplyChangesNothing(t *testing.T) {
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}})
	c := newConfig(t, "free")
	apply(t, e, c)
	createTenant(t, e, "acme", "free")

	bad := newConfig(t, "gold")
	bad.Keyspaces = map[string]engine.Keyspace{}
	bad.Events = &subscriber{wants: "key.created"}
	applyFails(t, e, bad, "'free'")
	wantState(t, e, engine.Serving)
	if e.View() != c.View {
		t.Error("the engine uses the view of the configuration that failed")
	}
	if e.Wants("key.created") {
		t.Error("the subscriber of the configuration that failed is used")
	}
	// Retire of a configuration that was never adopted changes almost nothing: only the view in use becomes
	// the newest one again.
	e.Retire(&bad.Config)
	if e.View() != c.View || !c.View.Newer(bad.View) {
		t.Error("the view of the configuration that failed is newer than the one in use")
	}
	wantState(t, e, engine.Serving)
}

func TestRollback(t *testing.T) {
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}})
	first, second := newConfig(t, "free"), newConfig(t, "free", "gold")
	first.Events, second.Events = &subscriber{wants: "first"}, &subscriber{wants: "second"}
	active := false
	second.Active = func() bool { return active }
	apply(t, e, first)
	apply(t, e, second)
	if e.View() != second.View {
		t.Fatal("the second configuration was not adopted")
	}
	// The program has not finished its start with the second configuration, so events still go to the first
	// configuration's subscriber.
	if !e.Wants("first") || e.Wants("second") {
		t.Error("events go to a configuration that is not active")
	}
	e.Retire(&second.Config)
	if e.View() != first.View || !first.View.Newer(second.View) {
		t.Error("the engine did not return to the configuration before")
	}
	wantState(t, e, engine.Serving)

	// After the first configuration is retired, the configuration that replaced it stays in use.
	active = true
	apply(t, e, second)
	e.Retire(&first.Config)
	e.Retire(&first.Config)
	if e.View() != second.View || !e.Wants("second") {
		t.Error("the newest configuration did not stay")
	}
	e.Retire(&second.Config)
	if e.View() != nil {
		t.Error("a configuration is left")
	}
}

func TestTenantsOfFormerPlansMoveOnceActive(t *testing.T) {
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}})
	apply(t, e, newConfig(t, "free"))
	createTenant(t, e, "acme", "free")

	given := newConfig(t, "gold").former("gold", "free")
	asked := make(chan struct{}, 1)
	given.Active = func() bool {
		select {
		case asked <- struct{}{}:
		default:
		}
		return false
	}
	apply(t, e, given)
	<-asked
	<-asked
	e.Retire(&given.Config)
	if held := tenantsByPlan(t, e); held["free"] != 1 {
		t.Errorf("a configuration that was given up moved tenants: %v", held)
	}

	apply(t, e, newConfig(t, "gold").former("gold", "free"))
	testkit.Eventually(t, "the tenant is moved", func() bool { return tenantsByPlan(t, e)["gold"] == 1 })
}

func TestMessagesGoToTheNewestConfiguration(t *testing.T) {
	e := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(t.TempDir(), "keygate.db")}})
	first, second := newConfig(t, "free"), newConfig(t, "free")
	first.Events, second.Events = &subscriber{panics: true}, &subscriber{panics: true}
	apply(t, e, first)
	createTenant(t, e, "acme", "free")
	testkit.Eventually(t, "the first one's log has the message", func() bool { return strings.Contains(first.log.String(), "a handler of Caddy's events app failed") })
	apply(t, e, second)
	createTenant(t, e, "zeta", "free")
	testkit.Eventually(t, "the second one's log has the message", func() bool { return strings.Contains(second.log.String(), "a handler of Caddy's events app failed") })
}

// subscriber wants one type of events. If its field panics is set, it wants all events and panics on each.
type subscriber struct {
	wants  string
	panics bool
}

func (s *subscriber) Wants(eventType string) bool { return s.panics || eventType == s.wants }

func (s *subscriber) Emit(events.Event) error {
	if s.panics {
		panic("a handler")
	}
	return nil
}
