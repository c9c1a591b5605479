package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// newPost returns a POST with a form as its body.
func newPost(target, body string) *http.Request {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", formType)
	return r
}

// A matcher that selects by method also selects a POST that names such a method in its query or
// body.
func TestExcludedPostsNameNoIncludedMethod(t *testing.T) {
	deletes := []rules.Pattern{{Methods: []string{"DELETE"}, Path: "*"}}
	notPosts := []rules.Pattern{{Methods: []string{"POST"}, Path: "*"}}
	for name, tt := range map[string]struct {
		config   rules.Config
		override string
		target   string
		body     string
		key      bool
		want     int
	}{
		"plain":                 {rules.Config{Only: deletes}, "", "/items/7", "a=1", false, 200},
		"named in the body":     {rules.Config{Only: deletes}, "", "/items/7", "_method=DELETE", false, 401},
		"named in the query":    {rules.Config{Only: deletes}, "", "/items/7?_method=delete", "", false, 401},
		"with a key":            {rules.Config{Only: deletes}, "", "/items/7", "_method=DELETE", true, 200},
		"another method":        {rules.Config{Only: deletes}, "", "/items/7", "_method=PUT", false, 200},
		"too long to be read":   {rules.Config{Only: deletes}, "", "/items/7", strings.Repeat("a", maxOverrideBody+1), false, 401},
		"overrides pass":        {rules.Config{Only: deletes}, config.OverridePass, "/items/7", "_method=DELETE", false, 200},
		"all but POST":          {rules.Config{Except: notPosts}, "", "/items/7", "_method=DELETE", false, 401},
		"all but POST, plain":   {rules.Config{Except: notPosts}, "", "/items/7", "a=1", false, 200},
		"another path":          {rules.Config{Only: []rules.Pattern{{Methods: []string{"DELETE"}, Path: "/admin/*"}}}, "", "/items/7", "_method=DELETE", false, 200},
		"a path that is public": {rules.Config{Only: deletes, Public: []rules.Pattern{{Path: "/items/*"}}}, "", "/items/7", "_method=DELETE", false, 200},
	} {
		g := newHarness(t, freePlan, config.HandlerConfig{Config: tt.config, MethodOverride: tt.override})
		r := newPost("http://localhost"+tt.target, tt.body)
		if tt.key {
			r.Header.Set("X-Api-Key", g.key)
		}
		u, w := g.ask(t, r)
		if w.Code != tt.want || (u.Request != nil) != (tt.want == 200) || u.Request != nil && u.body != tt.body {
			t.Errorf("%s: answered %d, want %d; the upstream got %q", name, w.Code, tt.want, u.body)
		}
		if tt.key && (u.Request == nil || u.Header.Get("X-Tenant-Id") != "acme") {
			t.Errorf("%s: the upstream got no tenant", name)
		}
	}
}

// A header that names another path is removed from every request, even with method_override pass,
// and even if the directive's matcher excludes the request.
func TestPathHeadersAreRemoved(t *testing.T) {
	const path, method = "X-Original-Url", "X-Http-Method-Override"
	deletes := rules.Config{Only: []rules.Pattern{{Methods: []string{"DELETE"}, Path: "*"}}}
	for name, tt := range map[string]struct {
		config       config.HandlerConfig
		path, method bool
	}{
		"by default":                  {config.HandlerConfig{}, false, false},
		"check":                       {config.HandlerConfig{MethodOverride: config.OverrideCheck}, false, false},
		"pass":                        {config.HandlerConfig{MethodOverride: config.OverridePass}, false, true},
		"keep_overrides":              {config.HandlerConfig{KeepOverrides: true}, true, true},
		"excluded":                    {config.HandlerConfig{Config: deletes}, false, false},
		"excluded, pass":              {config.HandlerConfig{Config: deletes, MethodOverride: config.OverridePass}, false, true},
		"without rules":               {config.HandlerConfig{StripOnly: true}, false, false},
		"without rules, pass":         {config.HandlerConfig{StripOnly: true, MethodOverride: config.OverridePass}, false, true},
		"without rules, keep":         {config.HandlerConfig{StripOnly: true, KeepOverrides: true}, true, true},
		"public":                      {config.HandlerConfig{Config: rules.Config{Public: []rules.Pattern{{Path: "/*"}}}}, false, false},
		"public, pass":                {config.HandlerConfig{Config: rules.Config{Public: []rules.Pattern{{Path: "/*"}}}, MethodOverride: config.OverridePass}, false, true},
		"observed, pass, without key": {config.HandlerConfig{Observe: true, MethodOverride: config.OverridePass}, false, true},
	} {
		g := newHarness(t, freePlan, tt.config)
		r := newPost("http://localhost/items/7", "a=1")
		r.Header.Set("X-Api-Key", g.key)
		for _, h := range []string{path, "X_Rewrite_URL", "X-Original-Uri", "X-Forwarded-Uri", "X-Forwarded-Path", "X-Script-Name", "X-Waws-Unencoded-Url", "X-Envoy-Original-Path"} {
			r.Header[h] = []string{"/admin"}
		}
		for _, h := range []string{method, "X-Http-Method", "X-Method-Override", "X-Forwarded-Method", "X-Original-Method"} {
			r.Header.Set(h, "DELETE")
		}
		u, w := g.ask(t, r)
		if u.Request == nil {
			t.Errorf("%s: answered %d", name, w.Code)
			continue
		}
		paths, methods := 0, 0
		for h := range u.Header {
			if isOneOf(h, pathOverrideHeaders[:]) {
				paths++
			}
			if isOneOf(h, methodOverrideHeaders[:]) {
				methods++
			}
		}
		if wantPaths, wantMethods := count(tt.path, len(pathOverrideHeaders)), count(tt.method, len(methodOverrideHeaders)); paths != wantPaths || methods != wantMethods {
			t.Errorf("%s: %d headers that name a path arrived, want %d; %d that name a method, want %d", name, paths, wantPaths, methods, wantMethods)
		}
	}
}

func count(all bool, n int) int {
	if all {
		return n
	}
	return 0
}

// The directives of the shipped products remove headers that name another path.
func TestProductsRemovePathHeaders(t *testing.T) {
	t.Chdir("../configs")
	files := shipped(t)
	for _, name := range products {
		handlers := make(map[string]any)
		handlersIn(t, files[name+".Caddyfile"], handlers)
		h, _ := handlers[name].(map[string]any)
		if h["method_override"] != config.OverridePass || h["keep_overrides"] != nil {
			t.Errorf("%s: method_override is %v, keep_overrides %v", name, h["method_override"], h["keep_overrides"])
		}
	}
}

// verify and explain apply the rules of the method that a POST's query names, as the proxy does.
func TestVerifyReadsMethodsInQueries(t *testing.T) {
	ctx := context.Background()
	scope := func(methods ...string) config.HandlerConfig {
		return config.HandlerConfig{Config: rules.Config{Scopes: []rules.ScopeRule{{Pattern: rules.Pattern{Methods: methods, Path: "/items/*"}, Scope: "admin"}}}}
	}
	pass := scope("DELETE")
	pass.MethodOverride = config.OverridePass
	outside := config.HandlerConfig{Config: rules.Config{Only: []rules.Pattern{{Methods: []string{"DELETE"}, Path: "*"}}, ScopeDeny: true}}
	for name, tt := range map[string]struct {
		config       config.HandlerConfig
		method, path string
		want         string
	}{
		"no query":              {scope("DELETE"), "POST", "/items/7", "allowed"},
		"another method":        {scope("DELETE"), "POST", "/items/7?_method=DELETE", "insufficient_scope"},
		"encoded":               {scope("DELETE"), "POST", "/items/7?a=1&%5Fmethod=delete", "insufficient_scope"},
		"not a POST":            {scope("DELETE"), "GET", "/items/7?_method=DELETE", "insufficient_scope"},
		"no method":             {scope("DELETE"), "", "/items/7?_method=DELETE", "insufficient_scope"},
		"overrides pass":        {pass, "POST", "/items/7?_method=DELETE", "allowed"},
		"excluded":              {outside, "POST", "/items/7", "allowed"},
		"included by the query": {outside, "POST", "/items/7?_method=DELETE", "insufficient_scope"},
	} {
		g := newHarness(t, &config.PlanConfig{Name: "free", Scopes: []string{"read"}}, tt.config)
		j := g.handler.app.Verifier()
		r := inspect.Request{Key: g.key, Method: tt.method, Path: tt.path}
		v, err := j.Verify(ctx, "shop", r)
		if err != nil || v.Reason != tt.want {
			t.Errorf("%s: verify says %s, want %s; %v", name, v.Reason, tt.want, err)
		}
		if v, err = j.Explain(ctx, "shop", r); err != nil || v.Reason != tt.want {
			t.Errorf("%s: explain says %s, want %s; %v", name, v.Reason, tt.want, err)
		}
	}
}

// actingBody is a body that calls a function when its first byte is read.
type actingBody struct {
	io.Reader
	act func()
}

func (b *actingBody) Read(p []byte) (int, error) {
	if b.act != nil {
		b.act()
		b.act = nil
	}
	return b.Reader.Read(p)
}

func (*actingBody) Close() error { return nil }

// A client may delay its body until its key has been authenticated. If the key is revoked
// meanwhile, the request is rejected.
func TestKeyRevokedWhileItsBodyIsRead(t *testing.T) {
	g := newHarness(t, freePlan, config.HandlerConfig{Config: rules.Config{Scopes: []rules.ScopeRule{{Pattern: rules.Pattern{Methods: []string{"DELETE"}, Path: "/items/*"}, Scope: "admin"}}}})
	ctx, actor, m := context.Background(), management.Actor{Name: "test", Via: "cli"}, g.handler.app.engine.Manager()
	key, err := m.CreateKey(ctx, actor, "shop", "acme", management.KeyFields{Name: management.Some("ci")})
	if err != nil {
		t.Fatal(err)
	}
	send := func(act func()) (*reached, int) {
		r := newPost("http://localhost/items/7", "")
		r.Body, r.ContentLength = &actingBody{strings.NewReader("a=1"), act}, 3
		r.Header.Set("X-Api-Key", key.Key)
		u, w := g.ask(t, r)
		return u, w.Code
	}
	if u, status := send(nil); status != 200 || u.body != "a=1" {
		t.Fatalf("before: answered %d", status)
	}
	acted := errors.New("the body was not read")
	u, status := send(func() { _, acted = m.RevokeKey(ctx, actor, "shop", key.ID) })
	if acted != nil || status != http.StatusUnauthorized || u.Request != nil {
		t.Errorf("answered %d, reached the upstream: %v; %v", status, u.Request != nil, acted)
	}
}
