package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/management"
)

// rig is a directive with its app on a real store, and no server around it.
type rig struct {
	handler *Handler
	key     string
}

func newRig(t testing.TB, plan *PlanConfig, handler HandlerConfig) *rig {
	t.Helper()
	app := &App{Store: &StoreConfig{Path: filepath.Join(t.TempDir(), "keygate.db")}, Keyspaces: map[string]*KeyspaceConfig{
		"shop": {Plans: []*PlanConfig{plan}, Scopes: []string{"admin", "read"}, CumulativeScopes: true},
	}}
	raw, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: caddy.ModuleMap{appName: raw}})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ctx.App(appName)
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
	m := a.engine.management()
	actor := management.Actor{Name: "test", Via: "cli"}
	if _, err := m.CreateTenant(context.Background(), actor, "shop", "acme", management.TenantFields{}); err != nil {
		t.Fatal(err)
	}
	key, err := m.CreateKey(context.Background(), actor, "shop", "acme", management.KeyFields{Name: management.Some("bench")})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{h, key.Key}
}

// serve sends one request through the handler, as a Caddy server would.
func (g *rig) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
	return g.handler.ServeHTTP(w, r, next)
}

// discard is a ResponseWriter that costs nothing itself.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHandler is what the directive costs a request that passes, beyond what Caddy
// does for any request: "prepare only" is to be taken off.
func BenchmarkHandler(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	run := func(b *testing.B, serve func(w http.ResponseWriter, r *http.Request)) {
		b.ReportAllocs()
		w := &discard{http.Header{}}
		used := func() int64 {
			var u syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
				b.Fatal(err)
			}
			return u.Utime.Nano() + u.Stime.Nano()
		}
		before := used()
		defer func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }()
		for b.Loop() {
			clear(w.h)
			r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/v1/things", nil)
			r.Header["User-Agent"] = []string{"bench"}
			serve(w, r)
		}
	}
	b.Run("prepare only", func(b *testing.B) {
		run(b, func(w http.ResponseWriter, r *http.Request) {
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
			_ = next.ServeHTTP(w, r)
		})
	})
	b.Run("rate, quota and concurrency", func(b *testing.B) {
		g := newRig(b, &PlanConfig{Name: "free", Limits: []string{"rate 1000000000/s", "quota 1000000000000/month", "concurrency 50"}}, HandlerConfig{})
		run(b, func(w http.ResponseWriter, r *http.Request) {
			r.Header["X-Api-Key"] = []string{g.key}
			if err := g.serve(w, r, next); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("refused", func(b *testing.B) {
		g := newRig(b, &PlanConfig{Name: "free", Limits: []string{"rate 1/d"}}, HandlerConfig{})
		run(b, func(w http.ResponseWriter, r *http.Request) {
			r.Header["X-Api-Key"] = []string{g.key}
			if err := g.serve(w, r, next); err != nil {
				b.Fatal(err)
			}
		})
	})
}
