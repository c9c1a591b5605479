package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// corsHeaders returns the response's CORS headers as "name: value" lines.
func corsHeaders(h http.Header) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if strings.HasPrefix(name, "Access-Control-Allow-") || name == "Access-Control-Max-Age" {
			out = append(out, strings.TrimPrefix(name, "Access-Control-")+": "+strings.Join(h[name], "|"))
		}
	}
	return strings.Join(out, "; ")
}

const allPreflight = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"

func TestCORSAnswersPreflights(t *testing.T) {
	const a = "https://a.test"
	open := config.CORSConfig{Origins: []string{a, "https://b.test"}, Answer: true}
	full := config.CORSConfig{
		Origins: []string{a}, Methods: []string{"GET", "PUT"}, Headers: []string{"X-API-Key", "Content-Type"},
		Credentials: true, MaxAge: caddy.Duration(time.Hour), Answer: true,
	}
	every := config.CORSConfig{Origins: []string{"*"}, Answer: true}
	const echoed = "Allow-Headers: x-api-key, content-type; Allow-Methods: DELETE; Allow-Origin: "
	for _, tt := range []struct {
		name    string
		cors    config.CORSConfig
		origin  string
		headers []string
		want    string
	}{
		{"as asked for", open, a, []string{"x-api-key, content-type"}, echoed + a},
		{"over two lines", open, a, []string{"x-api-key", "content-type"}, echoed + a},
		{"the second origin", open, "https://b.test", []string{"x-api-key,content-type"}, echoed + "https://b.test"},
		{"no headers", open, a, nil, "Allow-Methods: DELETE; Allow-Origin: " + a},
		{"names that are none", open, a, []string{"x-api-key, a b, *, é, , content-type, \"q\""}, echoed + a},
		{"a list too long", open, a, []string{strings.Repeat("x-a,", maxRequestedHeaders)}, "Allow-Methods: DELETE; Allow-Origin: " + a},
		{"another origin", open, "https://evil.test", []string{"x-api-key"}, ""},
		{"a longer origin", open, a + ".evil.test", nil, ""},
		{"a sandboxed page", open, "null", nil, ""},
		{"as configured", full, a, []string{"x-other"}, "Allow-Credentials: true; Allow-Headers: X-API-Key, Content-Type; Allow-Methods: GET, PUT; Allow-Origin: " + a + "; Max-Age: 3600"},
		{"another origin, all configured", full, "https://b.test", []string{"x-other"}, ""},
		{"every origin", every, "https://evil.test", []string{"x-api-key, content-type"}, echoed + "*"},
	} {
		g := newHarness(t, freePlan, config.HandlerConfig{CORS: &tt.cors})
		r := httptest.NewRequest("OPTIONS", "http://localhost/v1/things", http.NoBody)
		r.Header.Set("Origin", tt.origin)
		r.Header.Set("Access-Control-Request-Method", "DELETE")
		r.Header["Access-Control-Request-Headers"] = tt.headers
		u, w := g.ask(t, r)
		if u.Request != nil || w.Code != http.StatusNoContent || w.Body.Len() > 0 {
			t.Errorf("%s: answered %d %q, reached the upstream: %v", tt.name, w.Code, w.Body, u.Request != nil)
		}
		if got := corsHeaders(w.Header()); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if got := strings.Join(w.Header()["Vary"], "|"); got != allPreflight {
			t.Errorf("%s: Vary is %q", tt.name, got)
		}
	}
}

// The directive checks OPTIONS requests that are not preflights. Preflights that its matcher
// excludes go to the upstream.
func TestCORSAnswersOnlyPreflights(t *testing.T) {
	cors := &config.CORSConfig{Origins: []string{"https://a.test"}, Answer: true}
	only := config.HandlerConfig{CORS: cors, Config: rules.Config{Only: []rules.Pattern{{Methods: []string{"DELETE"}, Path: "/api/*"}}}}
	for _, tt := range []struct {
		name   string
		config config.HandlerConfig
		target string
		change func(http.Header)
		want   int // 200 is the upstream's status
	}{
		{"a preflight", config.HandlerConfig{CORS: cors}, "/api/x", func(http.Header) {}, 204},
		{"for a public path", config.HandlerConfig{CORS: cors, Config: rules.Config{Public: []rules.Pattern{{Path: "/api/*"}}}}, "/api/x", func(http.Header) {}, 204},
		{"with a cookie", config.HandlerConfig{CORS: cors}, "/api/x", func(h http.Header) { h.Set("Cookie", "a=1") }, 401},
		{"without an origin", config.HandlerConfig{CORS: cors}, "/api/x", func(h http.Header) { h.Del("Origin") }, 401},
		{"without a method", config.HandlerConfig{CORS: cors}, "/api/x", func(h http.Header) { h.Del("Access-Control-Request-Method") }, 401},
		{"for a method that the matcher takes", only, "/api/x", func(http.Header) {}, 204},
		{"for a method that the matcher leaves out", only, "/api/x", func(h http.Header) { h.Set("Access-Control-Request-Method", "PUT") }, 200},
		{"for a path that the matcher leaves out", only, "/x", func(http.Header) {}, 200},
		{"for an ambiguous path", only, "/api%2Fx", func(http.Header) {}, 400},
		{"not to be answered", config.HandlerConfig{CORS: &config.CORSConfig{Origins: cors.Origins}}, "/api/x", func(http.Header) {}, 200},
		{"a list of origins", config.HandlerConfig{CORS: corsList(t, cors.Origins...)}, "/api/x", func(http.Header) {}, 200},
	} {
		g := newHarness(t, freePlan, tt.config)
		r := httptest.NewRequest("OPTIONS", "http://localhost"+tt.target, http.NoBody)
		r.Header.Set("Origin", "https://a.test")
		r.Header.Set("Access-Control-Request-Method", "DELETE")
		tt.change(r.Header)
		u, w := g.ask(t, r)
		if w.Code != tt.want || (u.Request != nil) != (tt.want == 200) {
			t.Errorf("%s: answered %d, want %d; reached the upstream: %v", tt.name, w.Code, tt.want, u.Request != nil)
		}
		if allowed := w.Header().Get("Access-Control-Allow-Origin") != ""; tt.want == 200 && allowed {
			t.Errorf("%s: the upstream's response is changed", tt.name)
		}
	}
}

// corsList returns the CORS configuration for a list of origins.
func corsList(t *testing.T, origins ...string) *config.CORSConfig {
	t.Helper()
	text, err := json.Marshal(origins)
	if err != nil {
		t.Fatal(err)
	}
	c := new(config.CORSConfig)
	if err := json.Unmarshal(text, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// Pages of allowed origins can read the upstream's responses and rejections.
func TestCORSOfResponses(t *testing.T) {
	const a = "https://a.test"
	named := config.CORSConfig{Origins: []string{a}}
	credentials := config.CORSConfig{Origins: []string{a}, Credentials: true}
	every := config.CORSConfig{Origins: []string{"*"}}
	list := *corsList(t, a)
	upstreams := config.CORSConfig{Origins: []string{a}}
	for _, tt := range []struct {
		name, origin  string
		cors          config.CORSConfig
		own           string // own is the value of the header Access-Control-Allow-Origin that the upstream sets itself.
		want          string
		varies        bool
		refused       string
		refusedVaries bool
	}{
		{"named", a, named, "", "Allow-Origin: " + a, true, "Allow-Origin: " + a, true},
		{"another", "https://evil.test", named, "", "", true, "", true},
		{"none", "", named, "", "", true, "", true},
		{"credentials", a, credentials, "", "Allow-Credentials: true; Allow-Origin: " + a, true, "Allow-Credentials: true; Allow-Origin: " + a, true},
		{"every", "https://evil.test", every, "", "Allow-Origin: *", false, "Allow-Origin: *", true},
		{"the upstream's own", a, upstreams, "https://own.test", "Allow-Origin: https://own.test", false, "Allow-Origin: " + a, true},
		{"a list", a, list, "", "", false, "Allow-Credentials: true; Allow-Origin: " + a, true},
	} {
		g := newHarness(t, freePlan, config.HandlerConfig{CORS: &tt.cors, Config: rules.Config{Public: []rules.Pattern{{Path: "/public"}}}})
		upstream := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			if tt.own != "" {
				w.Header().Set("Access-Control-Allow-Origin", tt.own)
			}
			w.WriteHeader(http.StatusOK)
			return nil
		})
		for _, target := range []string{"/", "/public", "/rejected"} {
			r := httptest.NewRequest("GET", "http://localhost"+target, http.NoBody)
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			want, varies, status := tt.want, tt.varies, http.StatusOK
			switch target {
			case "/":
				r.Header.Set("X-Api-Key", g.key)
			case "/rejected":
				want, varies, status = tt.refused, tt.refusedVaries, http.StatusUnauthorized
			}
			w := httptest.NewRecorder()
			if err := g.serve(w, r, upstream); err != nil {
				t.Fatal(err)
			}
			if got := corsHeaders(w.Header()); w.Code != status || got != want || lists(w.Header()["Vary"], "Origin") != varies {
				t.Errorf("%s, %s: answered %d, %q, want %q; Vary is %q", tt.name, target, w.Code, got, want, w.Header()["Vary"])
			}
		}
	}
}

// A CORS configuration that is a list in saved JSON stays a list when it is written again. An
// object with unknown fields is an error.
func TestCORSInJSON(t *testing.T) {
	for _, text := range []string{
		`["https://a.test","https://b.test"]`,
		`[]`,
		`{"origins":["https://a.test"]}`,
		`{"origins":["https://a.test"],"methods":["GET"],"headers":["X-A"],"credentials":true,"max_age":3600000000000,"answer":true}`,
	} {
		var h config.HandlerConfig
		if err := json.Unmarshal([]byte(`{"cors":`+text+`}`), &h); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := h.CORS.Check(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if h.CORS.RefusalsOnly() != (text[0] == '[') {
			t.Errorf("%s: about refusals only is %v", text, h.CORS.RefusalsOnly())
		}
		if out, err := json.Marshal(&h); err != nil || string(out) != `{"cors":`+text+`}` {
			t.Errorf("%s becomes %s, %v", text, out, err)
		}
	}
	for text, want := range map[string]string{
		`{"origins":["https://a.test"],"origin":"x"}`: "unknown field",
		`"https://a.test"`:                            "cannot unmarshal",
		`["https://a.test",1]`:                        "cannot unmarshal",
	} {
		var h config.HandlerConfig
		if err := json.Unmarshal([]byte(`{"cors":`+text+`}`), &h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		`["https://a.test","a.test"]`:                  "cors[1]: ",
		`{"answer":true}`:                              "cors: no origin",
		`{"origins":["https://a.test","a.test"]}`:      "cors.origins[1]: ",
		`{"origins":["https://a.test"],"max_age":-1}`:  "cors.max_age: ",
		`{"origins":["*"],"credentials":true}`:         "cors.credentials: ",
		`{"origins":["*"],"methods":["GET","a\r\nb"]}`: "cors.methods[1]: ",
		`{"origins":["*"],"headers":["a\r\nb"]}`:       "cors.headers[0]: ",
	} {
		var h config.HandlerConfig
		if err := json.Unmarshal([]byte(`{"cors":`+text+`}`), &h); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := h.CORS.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
