package caddymodule

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
)

func init() { caddy.RegisterModule(eventCollector{}) }

// collected holds the events that eventCollector has received.
var collected struct {
	mu     sync.Mutex
	events []caddy.Event
}

func collectedEvents() []caddy.Event {
	collected.mu.Lock()
	defer collected.mu.Unlock()
	return append([]caddy.Event(nil), collected.events...)
}

// eventCollector is a handler of Caddy's events app that records events.
type eventCollector struct{}

func (eventCollector) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.keygate_test", New: func() caddy.Module { return new(eventCollector) }}
}

func (eventCollector) Handle(_ context.Context, e caddy.Event) error {
	collected.mu.Lock()
	defer collected.mu.Unlock()
	collected.events = append(collected.events, e)
	return nil
}

func TestEventsApp(t *testing.T) {
	app := &App{Config: config.Config{Store: &config.StoreConfig{Path: filepath.Join(t.TempDir(), "keygate.db")}}}
	subscriptions := caddy.ModuleMap{"events": json.RawMessage(
		`{"subscriptions": [{"events": ["keygate.key.created", "keygate.job.finished"], "handlers": [{"handler": "keygate_test"}]}]}`)}
	if err := load(t, app, subscriptions); err != nil {
		t.Fatal(err)
	}
	ctx, ada := context.Background(), management.Actor{Name: "ada", Via: "api"}
	a := current(t)
	if !a.engine.Wants("key.created") || a.engine.Wants("key.revoked") {
		t.Error("the wanted events are not the subscribed ones")
	}
	m := a.engine.Manager()
	if _, err := m.CreateTenant(ctx, ada, "", "acme", management.TenantFields{}); err != nil {
		t.Fatal(err)
	}
	k, err := m.CreateKey(ctx, ada, "", "acme", management.KeyFields{Name: management.Some("ci")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.RevokeKey(ctx, ada, "", k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.engine.Webhooks().PostEvent(ctx, ada, "", "acme", "job.finished", json.RawMessage(`{"n": 5}`)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the collector has two events", func() bool { return len(collectedEvents()) >= 2 })
	got := collectedEvents()
	if len(got) != 2 || got[0].Name() != "keygate.key.created" || got[1].Name() != "keygate.job.finished" {
		t.Fatalf("received %v", got)
	}
	if d := got[0].Data; d["type"] != "key.created" || d["key_id"] != k.ID || d["tenant"] != "acme" || d["id"] == nil || d["timestamp"] == nil {
		t.Errorf("data %v", d)
	}
	if d := got[1].Data; d["n"] != 5. {
		t.Errorf("data %v", d)
	}
	if b, _ := json.Marshal(got[0].Data); len(b) == 0 || strings.Contains(string(b), k.Key) {
		t.Errorf("a key is in %s", b)
	}

	// Without subscriptions in its configuration, the app requests no events from the engine.
	if err := load(t, app, nil); err != nil {
		t.Fatal(err)
	}
	if current(t).engine.Wants("key.created") {
		t.Error("an event without a subscription is wanted")
	}
}
