package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/sites"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/rules"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Requests share nothing through the reused parts of an exchange. Placeholders of an ended request
// keep their values.
func TestRequestsShareNothing(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "free", Limits: []string{"rate 100/h", "concurrency 2"}},
		config.HandlerConfig{Config: rules.Config{Public: []rules.Pattern{{Path: "/public"}}}})
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("X-Seen", r.Header.Get("X-Tenant-Id"))
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	send := func(path, key string) (*httptest.ResponseRecorder, *caddy.Replacer) {
		w, repl := httptest.NewRecorder(), caddy.NewReplacer()
		r := httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil)
		if key != "" {
			r.Header.Set("X-Api-Key", key)
		}
		r = caddyhttp.PrepareRequest(r, repl, w, nil)
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
		if err := g.handler.ServeHTTP(w, r, next); err != nil {
			t.Fatal(err)
		}
		return w, repl
	}
	var checked []*caddy.Replacer
	const rounds = 20
	for range rounds {
		w, repl := send("/", g.key)
		if w.Header().Get("X-Seen") != "acme" || w.Header().Get("X-Ratelimit-Limit") != "100" {
			t.Fatalf("a request with a key: %d %v", w.Code, w.Header())
		}
		checked = append(checked, repl)
		w, repl = send("/public", "")
		if w.Code != http.StatusNoContent || w.Header().Get("X-Seen") != "" || w.Header().Get("X-Ratelimit-Limit") != "" {
			t.Errorf("a public request: %d %v", w.Code, w.Header())
		}
		if v, ok := repl.Get("keygate.tenant"); ok {
			t.Errorf("a public request is of tenant %v", v)
		}
		if w, repl = send("/", ""); w.Code != http.StatusUnauthorized || w.Header().Get("X-Ratelimit-Limit") != "" {
			t.Errorf("a request without a key: %d %v", w.Code, w.Header())
		}
		if v, _ := repl.Get("keygate.reason"); v != "missing_key" {
			t.Errorf("a request without a key: %v", v)
		}
	}
	for _, repl := range checked {
		if v, _ := repl.Get("keygate.tenant"); v != "acme" {
			t.Errorf("asked late, a request is of tenant %v", v)
		}
		if v, _ := repl.Get("keygate.reason"); v != "allowed" {
			t.Errorf("asked late, a request's reason is %v", v)
		}
	}
	e := g.handler.app.engine
	if err := e.Usage().Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	report, err := sites.UsageService(g.handler.app, e.Manager()).OfTenant(context.Background(), management.Actor{Name: "test"}, "shop", "acme", usage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	var requests, allowed int64
	for _, line := range report.Data {
		requests, allowed = requests+line.Requests, allowed+line.Allowed
	}
	if requests != rounds || allowed != rounds {
		t.Errorf("%d requests are counted, %d allowed, of %d", requests, allowed, rounds)
	}
}

// A handler that writes after it has returned does not affect another request.
func TestWriteAfterReturn(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "free", Limits: []string{"rate 100/h"}}, config.HandlerConfig{})
	var late http.ResponseWriter
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
	r.Header.Set("X-Api-Key", g.key)
	if err := g.serve(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		late = w
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	before := w.Header().Clone()
	late.WriteHeader(http.StatusEarlyHints)
	late.WriteHeader(http.StatusTeapot)
	if w.Code == http.StatusTeapot || len(w.Header()) != len(before) {
		t.Errorf("a late writer wrote %d %v", w.Code, w.Header())
	}
}
