package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/management"
)

// harness is a directive with its app and a real store, but without a server.
type harness struct {
	handler *Handler
	key     string
}

func newHarness(t testing.TB, plan *config.PlanConfig, handler config.HandlerConfig) *harness {
	t.Helper()
	return newKeyspaceHarness(t, &config.KeyspaceConfig{Plans: []*config.PlanConfig{plan}, Scopes: []string{"admin", "read"}, CumulativeScopes: true}, handler)
}

func newKeyspaceHarness(t testing.TB, keyspace *config.KeyspaceConfig, handler config.HandlerConfig) *harness {
	t.Helper()
	app := &App{Config: config.Config{Store: &config.StoreConfig{Path: filepath.Join(t.TempDir(), "keygate.db")}, Keyspaces: map[string]*config.KeyspaceConfig{"shop": keyspace}}}
	raw, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: caddy.ModuleMap{config.AppName: raw}})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ctx.App(config.AppName)
	if err != nil {
		t.Fatal(err)
	}
	a := loaded.(*App)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Stop()
		if err := a.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	h := &Handler{HandlerConfig: handler}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	m := a.engine.Manager()
	actor := management.Actor{Name: "test", Via: "cli"}
	if _, err := m.CreateTenant(context.Background(), actor, "shop", "acme", management.TenantFields{}); err != nil {
		t.Fatal(err)
	}
	key, err := m.CreateKey(context.Background(), actor, "shop", "acme", management.KeyFields{Name: management.Some("bench")})
	if err != nil {
		t.Fatal(err)
	}
	return &harness{h, key.Key}
}

// serve sends one request through the handler, prepared as by a Caddy server.
func (g *harness) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
	return g.handler.ServeHTTP(w, r, next)
}
