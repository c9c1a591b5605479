package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// checkCase is a request and the expected decision. reason is "" if the request passes without a
// decision.
type checkCase struct {
	name         string
	directive    config.HandlerConfig
	method, path string
	key          string
	reason       string
	cost         int64
}

// Placeholders for keys in a checkCase: the fixture's key; the same key with most of its quota
// spent; a well-formed key that was never issued; the fixture's key without its last characters.
const (
	checkKey        = "valid"
	checkKeySpent   = "spent"
	checkKeyUnknown = "unknown"
	checkKeyCut     = "cut"
)

func checkCases() []checkCase {
	pattern := func(path string, methods ...string) rules.Pattern {
		return rules.Pattern{Methods: methods, Path: path}
	}
	all := config.HandlerConfig{Config: rules.Config{
		Public:   []rules.Pattern{pattern("/public/*")},
		Optional: []rules.Pattern{pattern("/optional/*")},
		Scopes:   []rules.ScopeRule{{Pattern: pattern("/read/*"), Scope: "read"}, {Pattern: pattern("/admin/*"), Scope: "admin"}, {Pattern: pattern("/items/*", "DELETE"), Scope: "admin"}},
		Costs:    []rules.CostRule{{Pattern: pattern("/items/*", "POST"), Cost: 5}, {Pattern: pattern("/optional/*"), Cost: 3}, {Pattern: pattern("/free"), Cost: 0}, {Pattern: pattern("/items/*", "PUT"), Cost: 9}, {Pattern: pattern("/dear"), Cost: 60}},
	}}
	protected := config.HandlerConfig{Config: rules.Config{Protect: []rules.Pattern{pattern("/private/*")}}}
	deny := config.HandlerConfig{Config: rules.Config{ScopeDeny: true, Scopes: []rules.ScopeRule{{Pattern: pattern("/read/*"), Scope: "read"}}}}
	only := config.HandlerConfig{Config: rules.Config{Only: []rules.Pattern{pattern("/api/*")}, Except: []rules.Pattern{pattern("/api/open")}}}
	methods := config.HandlerConfig{Config: rules.Config{Only: []rules.Pattern{pattern("*", "DELETE")}}}
	return []checkCase{
		{"default", all, "GET", "/v1/things", checkKey, "allowed", 1},
		{"no key", all, "GET", "/v1/things", "", "missing_key", 0},
		{"no shape", all, "GET", "/v1/things", checkKeyCut, "malformed_key", 0},
		{"no prefix", all, "GET", "/v1/things", "hunter2", "malformed_key", 0},
		{"cost of a method", all, "POST", "/items/7", checkKey, "allowed", 5},
		{"no cost", all, "GET", "/free", checkKey, "allowed", 0},
		{"above the quota", all, "GET", "/dear", checkKeySpent, "quota_exceeded", 0},
		{"scope held", all, "GET", "/read/7", checkKey, "allowed", 1},
		{"scope missing", all, "GET", "/admin/7", checkKey, "insufficient_scope", 0},
		{"scope of another spelling", all, "GET", "/ADMIN//7", checkKey, "insufficient_scope", 0},
		{"scope of a method", all, "DELETE", "/items/7", checkKey, "insufficient_scope", 0},
		{"query names a method", all, "POST", "/items/7?_method=DELETE", checkKey, "insufficient_scope", 0},
		{"query names a dearer method", all, "POST", "/items/7?_method=put", checkKey, "allowed", 9},
		{"public", all, "GET", "/public/x", "", "", 0},
		{"public with a key", all, "GET", "/public/x", checkKey, "", 0},
		{"public with a malformed key", all, "GET", "/public/x", checkKeyCut, "", 0},
		{"optional", all, "GET", "/optional/x", "", "", 0},
		{"optional with a key", all, "GET", "/optional/x", checkKey, "allowed", 3},
		{"optional with a credential of others", all, "GET", "/optional/x", "hunter2", "", 0},
		{"optional with a malformed key", all, "GET", "/optional/x", checkKeyCut, "malformed_key", 0},
		{"protected", protected, "GET", "/private/x", "", "missing_key", 0},
		{"protected with a key", protected, "GET", "/private/x", checkKey, "allowed", 1},
		{"not protected", protected, "GET", "/x", "", "", 0},
		{"scope by default", deny, "GET", "/x", checkKey, "insufficient_scope", 0},
		{"inside the matcher", only, "GET", "/api/x", "", "missing_key", 0},
		{"outside the matcher", only, "GET", "/x", checkKey, "", 0},
		{"excepted", only, "GET", "/api/open", "", "", 0},
		{"outside by its method", methods, "POST", "/x", checkKey, "", 0},
		{"inside by its query", methods, "POST", "/x?_method=DELETE", checkKey, "allowed", 1},
		{"ambiguous", all, "GET", "/public/..%2Fadmin/7", checkKey, "ambiguous_path", 0},
		{"canonical", all, "POST", "/x/..//items/7", checkKey, "allowed", 5},
		{"unknown", all, "GET", "/v1/things", checkKeyUnknown, "invalid_key", 0},
	}
}

// TestHandlerVerifyAndExplainAgree checks that the handler, verify and explain decide in the same way about the same
// request, and charge the same cost.
func TestHandlerVerifyAndExplainAgree(t *testing.T) {
	ctx := context.Background()
	for _, tc := range checkCases() {
		t.Run(tc.name, func(t *testing.T) {
			g := newHarness(t, &config.PlanConfig{Name: "free", Scopes: []string{"read"}, Limits: []string{"quota 100/month"}}, tc.directive)
			v := g.handler.app.Verifier()
			key := tc.key
			switch key {
			case checkKey, checkKeySpent:
				key = g.key
			case checkKeyCut:
				key = g.key[:len(g.key)-3]
			case checkKeyUnknown:
				var err error
				if key, err = g.handler.keyspace.Grammar.Generate(""); err != nil {
					t.Fatal(err)
				}
			}
			if spend := int64(50); tc.key == checkKeySpent {
				if r, err := v.Verify(ctx, "shop", inspect.Request{Key: key, Cost: &spend}); err != nil || !r.Allowed {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			left := func() int64 {
				r, err := v.Explain(ctx, "shop", inspect.Request{Key: g.key, Cost: new(int64)})
				if err != nil {
					t.Fatal(err)
				}
				n, err := strconv.ParseInt(r.Headers["X-RateLimit-Remaining"], 10, 64)
				if err != nil {
					t.Fatalf("%+v: %v", r, err)
				}
				return n
			}
			q := inspect.Request{Key: key, Method: tc.method, Path: tc.path}
			reason, allowed := tc.reason, tc.reason == "allowed" || tc.reason == ""
			if reason == "" {
				reason = "allowed"
			}
			for _, by := range []struct {
				name string
				ask  func(context.Context, string, inspect.Request) (inspect.Result, error)
				cost int64
			}{{"explain", v.Explain, 0}, {"verify", v.Verify, tc.cost}} {
				before := left()
				r, err := by.ask(ctx, "shop", q)
				if err != nil || r.Reason != reason || r.Allowed != allowed || (r.KeyID != "") != (key == g.key && tc.reason != "" && tc.reason != "ambiguous_path") {
					t.Errorf("%s: %+v, want %s; %v", by.name, r, reason, err)
				}
				if took := before - left(); took != by.cost {
					t.Errorf("%s took %d, want %d", by.name, took, by.cost)
				}
			}
			before := left()
			r := httptest.NewRequest(tc.method, "http://localhost"+tc.path, nil)
			if key != "" {
				r.Header.Set("X-Api-Key", key)
			}
			repl, w, passed := caddy.NewReplacer(), httptest.NewRecorder(), false
			r = caddyhttp.PrepareRequest(r, repl, w, nil)
			err := g.handler.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				passed = true
				w.WriteHeader(http.StatusNoContent)
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := repl.GetString("keygate.reason"); got != tc.reason || passed != allowed {
				t.Errorf("the handler decides %q and passes it on: %v; want %q, %v", got, passed, tc.reason, allowed)
			}
			if took := before - left(); took != tc.cost {
				t.Errorf("the handler took %d, want %d", took, tc.cost)
			}
		})
	}
}

// If several directives have rules for a keyspace, verify and explain apply the rules of all of
// them.
func TestVerifyAppliesEveryDirective(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "free", Scopes: []string{"read"}, Limits: []string{"quota 100/month"}}, config.HandlerConfig{Config: rules.Config{Public: []rules.Pattern{{Path: "/a/*"}, {Path: "/b/*"}}}})
	second := pathRules{}
	var err error
	second.set, err = rules.New(rules.Config{
		Public: []rules.Pattern{{Path: "/a/*"}}, Scopes: []rules.ScopeRule{{Pattern: rules.Pattern{Path: "/c"}, Scope: "admin"}},
		Costs: []rules.CostRule{{Pattern: rules.Pattern{Path: "/b/*"}, Cost: 7}},
	}, func(scope string) (uint64, bool) {
		bit, ok := g.handler.keyspace.Scopes.Bit(scope)
		return uint64(bit), ok
	})
	if err != nil {
		t.Fatal(err)
	}
	g.handler.app.addRules("shop", &second)
	for path, want := range map[string]struct {
		reason, left string
	}{
		"/a/x": {"allowed", ""},
		"/b/x": {"allowed", "93"},
		"/c":   {"insufficient_scope", ""},
	} {
		r, err := g.handler.app.Verifier().Verify(context.Background(), "shop", inspect.Request{Key: g.key, Path: path})
		if err != nil || r.Reason != want.reason || r.Headers["X-RateLimit-Remaining"] != want.left {
			t.Errorf("%s: %+v, want %+v; %v", path, r, want, err)
		}
	}
}
