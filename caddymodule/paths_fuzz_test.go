package caddymodule

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/internal/pathlab"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// FuzzForwardedPath verifies that the canonical path goes upstream byte for byte and replaces the
// path in Caddy's copy of the request. It also verifies that requests with an ambiguous path are
// not forwarded.
func FuzzForwardedPath(f *testing.F) {
	i := 0
	for _, path := range pathlab.Targets[:2] {
		for _, target := range pathlab.Hostile(path, false) {
			if i++; i%9 == 0 {
				f.Add(target)
			}
		}
	}
	for _, family := range pathlab.Honest() {
		f.Add(family.Paths[0])
	}
	g := newHarness(f, &config.PlanConfig{Name: "free"}, config.HandlerConfig{Config: rules.Config{Protect: []rules.Pattern{{Path: "/closed"}}}})
	f.Fuzz(func(t *testing.T, target string) {
		path, _, _ := strings.Cut(target, "?")
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: lab.test\r\n\r\n")))
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		canonical, fault := rules.Canonical(path)
		reached := false
		w := httptest.NewRecorder()
		err = g.serve(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			reached = true
			arrived := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
			for name, u := range map[string]*url.URL{"upstream": r.URL, "in the request as it arrived": arrived.URL} {
				if u.EscapedPath() != canonical {
					t.Errorf("%q is %q %s, want %q", target, u.EscapedPath(), name, canonical)
				}
			}
			for name, uri := range map[string]string{"request URI": r.RequestURI, "request URI as it arrived": arrived.RequestURI} {
				if p, _, _ := strings.Cut(uri, "?"); p != canonical {
					t.Errorf("%q has the %s %q, want %q", target, name, uri, canonical)
				}
			}
			return nil
		}))
		switch {
		case err != nil:
			t.Errorf("%q: %v", target, err)
		case fault != 0 && (reached || w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"code":"ambiguous_path"`)):
			t.Errorf("%q is ambiguous (%v), but was answered %d %s", target, fault, w.Code, w.Body)
		case fault == 0 && !reached && !strings.HasPrefix(strings.ToLower(canonical), "/closed"):
			t.Errorf("%q was answered %d %s", target, w.Code, w.Body)
		}
	})
}
