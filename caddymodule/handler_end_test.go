package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/management"
)

// If the key is revoked at the moment the upstream answers, the client gets a complete rejection
// and nothing of the upstream's response, whatever the proxy does then.
func TestKeyRevokedAsUpstreamAnswers(t *testing.T) {
	for name, after := range map[string]func() error{
		"the proxy aborts":    func() error { panic(http.ErrAbortHandler) },
		"the proxy fails":     func() error { return caddyhttp.Error(http.StatusBadGateway, errors.New("cut off")) },
		"the proxy is silent": func() error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			g := newHarness(t, &config.PlanConfig{Name: "free", Limits: []string{"rate 100/h"}}, config.HandlerConfig{})
			m := g.handler.app.engine.Manager()
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				actor := management.Actor{Name: "test", Via: "cli"}
				if _, err := m.RevokeKey(context.Background(), actor, "shop", r.Header.Get("X-Key-Id")); err != nil {
					t.Error(err)
				}
				if r.Context().Err() == nil {
					t.Error("the request was not ended")
				}
				for _, name := range []string{"Set-Cookie", "Content-Encoding", "Etag"} {
					w.Header().Set(name, "upstream")
				}
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusOK)
				if _, err := w.Write([]byte("secret")); !errors.Is(err, errEnded) {
					t.Errorf("writing gave %v", err)
				}
				return after()
			})
			w := httptest.NewRecorder()
			w.Header().Set("Server", "Caddy")
			r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
			r.Header.Set("X-Api-Key", g.key)
			if err := g.serve(w, r, next); err != nil {
				t.Fatal(err)
			}
			if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), `"code":"revoked_key"`) || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			for name, v := range w.Header() {
				if v[0] == "upstream" || strings.HasPrefix(name, "X-Ratelimit") {
					t.Errorf("%s: %s in the refusal", name, v)
				}
			}
			if w.Header().Get("Server") != "Caddy" || w.Header().Get("Connection") != "close" {
				t.Errorf("the header is %v", w.Header())
			}
		})
	}
}

func TestEmptyResponseShowsLimits(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "free", Limits: []string{"rate 100/h"}}, config.HandlerConfig{})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
	r.Header.Set("X-Api-Key", g.key)
	if err := g.serve(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusOK || w.Header().Get("X-Ratelimit-Remaining") != "99" {
		t.Errorf("answered %d %v", w.Code, w.Header())
	}
}
