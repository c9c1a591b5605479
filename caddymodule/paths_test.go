package caddymodule

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// forwarded is a request as handlers after the directive receive it.
type forwarded struct {
	status            int
	uri, path, origin string
	tenant            string
}

// send parses a request as net/http does and sends it through the handler. The status is 200 if
// the request passed.
func (g *harness) send(t *testing.T, method, target string, header ...string) forwarded {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: api.example.com\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	var out forwarded
	w := httptest.NewRecorder()
	err = g.serve(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		o := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
		out = forwarded{uri: r.URL.RequestURI(), path: r.URL.Path, origin: o.RequestURI, tenant: r.Header.Get(headerTenantID)}
		if r.RequestURI != out.uri || o.URL.RequestURI() != out.origin {
			t.Errorf("%s: the URL is %q, the target %q; on arrival %q and %q", target, out.uri, r.RequestURI, o.URL.RequestURI(), out.origin)
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}))
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	out.status = w.Code
	return out
}

func patterns(paths ...string) (out []rules.Pattern) {
	for _, p := range paths {
		out = append(out, rules.Pattern{Path: p})
	}
	return out
}

// The checked path is the path that goes upstream and that error routes and FastCGI see.
func TestCanonicalPathGoesUpstream(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "standard"}, config.HandlerConfig{Config: rules.Config{Protect: patterns("/cargo/load")}})
	for target, want := range map[string]string{
		"/x":                       "/x",
		"/x?a=//b/../c":            "/x?a=//b/../c",
		"//x/y":                    "/x/y",
		"//x/../y":                 "/y",
		"/a/./b/%2e%2e/c":          "/a/c",
		"/%41%7e%3a%40":            "/A~:@",
		"/caf%c3%a9":               "/caf%C3%A9",
		"/a%20b":                   "/a%20b",
		"/a|b":                     "/a%7Cb",
		"/a%7cb":                   "/a%7Cb",
		"/!$&'()*+,=":              "/!$&'()*+,=",
		"/%21%24%26%27":            "/!$&'",
		"http://api.example.com/x": "/x",
		"http://API.example.com":   "/",
		"/a%25b":                   "/a%25b",
		"/":                        "/",
	} {
		got := g.send(t, "GET", target)
		if got.status != http.StatusOK || got.uri != want || got.origin != want {
			t.Errorf("%s: %d, forwarded %q, as it arrived %q, want %q", target, got.status, got.uri, got.origin, want)
		}
		if again := g.send(t, "GET", got.uri); again.uri != got.uri {
			t.Errorf("%s is canonical, and became %q", got.uri, again.uri)
		}
	}
	for _, target := range []string{"/cargo/load", "//cargo/load", "/cargo//load/", "/CARGO/load", "/cargo/load.json", "/cargo/load.json/", "/index.php/cargo/load", "/x/index.php/CARGO/load.x/", "/cargo/lo%61d", "/cargo/lo%2561d"} {
		if got := g.send(t, "GET", target); got.status != http.StatusUnauthorized {
			t.Errorf("%s without a key: %d", target, got.status)
		}
		if got := g.send(t, "GET", target, "X-API-Key: "+g.key); got.status != http.StatusOK || got.tenant != "acme" {
			t.Errorf("%s with a key: %d, tenant %q", target, got.status, got.tenant)
		}
	}
}

func TestAmbiguousPathsAreRejected(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "standard"}, config.HandlerConfig{Config: rules.Config{Protect: patterns("/cargo/load")}})
	for _, target := range []string{
		`/a\b`, "/a%2Fb", "/a%2fb", "/a%5cb", "/a%00", "/a%0a", "/a%7f", "/a%c2%85", "/a;b", "/a%3Bb", "/a%3f", "/a%23", "/a#b", "/a%252fb", "/a%252e%252e/b", "/a%25252fb",
		"/a%2500", "/a%25u002fb", "/a%ff", "/a%c0%af", "/a%e2%81%84b", "/a%ef%bc%8fb", "/a%e2%80%a4", "/a./b", "/a.", "/a%20/b", "/a%20", "/a%e3%80%80", "/.../x",
		"http://other.example.com/x", "http://user@api.example.com/x", "ftp://api.example.com/x", "*",
	} {
		for _, header := range []string{"Accept: */*", "X-API-Key: " + g.key} {
			if got := g.send(t, "GET", target, header); got.status != http.StatusBadRequest && !strings.Contains(target, "other.example") {
				t.Errorf("%s: %d, forwarded %q", target, got.status, got.uri)
			}
		}
	}
	if got := g.send(t, "OPTIONS", "*"); got.status != http.StatusOK {
		t.Errorf("OPTIONS *: %d", got.status)
	}
}

func TestPathExceptions(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "standard"}, config.HandlerConfig{Config: rules.Config{
		Protect: patterns("/projects/secret/*", "/s3/private/*"),
		Paths:   rules.PathsConfig{EncodedSlash: []string{"/projects/*"}, Parameters: []string{"/matrix/*"}, AsSent: []string{"/s3/*"}},
	}})
	for _, target := range []string{"/projects/a%2fb", "/projects/a%2Fb/c?x=1", "/matrix/a;b=1/c", "/s3/a//b", "/s3/a;b", "/s3/a%5Cb", "/s3/a.", "/s3/%41"} {
		if got := g.send(t, "GET", target); got.status != http.StatusOK || got.uri != target || got.origin != target {
			t.Errorf("%s: %d, forwarded %q, as it arrived %q", target, got.status, got.uri, got.origin)
		}
	}
	for _, target := range []string{
		"/other/a%2fb", "/projects%2fa", "/projects/..%2fb", "/projects/a%2f..%2f..%2fb", "/projects/a;b", "/projects/a%2fb;c", "/matrix/a%2fb", "/matrix/..;/b",
		"/matrix;/b", "/s3/..%2fb", "/s3/..;/x", `/s3/..\x`, "//s3/a;b", "/s3/%252e%252e/x", "/s3/..%c0%afx", "/projects/a%5cb", "/projects/a%2fb|c",
	} {
		if got := g.send(t, "GET", target); got.status != http.StatusBadRequest {
			t.Errorf("%s: %d, forwarded %q", target, got.status, got.uri)
		}
	}
	for _, target := range []string{"/projects/secret%2fx", "/projects/a%2f..%2fsecret%2fx", "/s3//private/x", "/s3/private;a/x", "/s3/x/../private/y", "/s3/private/x.", `/s3\private\x`} {
		if got := g.send(t, "GET", target); got.status != http.StatusUnauthorized && got.status != http.StatusBadRequest {
			t.Errorf("%s without a key: %d, forwarded %q", target, got.status, got.uri)
		}
	}
}

// With `report`, paths go upstream unchanged, and still no path bypasses a rule.
func TestPathReport(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "standard"}, config.HandlerConfig{Config: rules.Config{
		Protect: patterns("/cargo/load"), Paths: rules.PathsConfig{Report: true},
	}})
	for _, target := range []string{"/a%2fb", "/a//b", "/a;b", "/%7euser", "/a%252fb"} {
		if got := g.send(t, "GET", target); got.status != http.StatusOK || got.uri != target || got.origin != target {
			t.Errorf("%s: %d, forwarded %q, as it arrived %q", target, got.status, got.uri, got.origin)
		}
	}
	for _, target := range []string{"//cargo/load", "//x/cargo/load", "//x@y/cargo/load", "/cargo%2fload", "/cargo/load;x", "/x/..;/cargo/load", "/cargo/load%2f", `/cargo\load`} {
		if got := g.send(t, "GET", target); got.status != http.StatusUnauthorized {
			t.Errorf("%s without a key: %d, forwarded %q", target, got.status, got.uri)
		}
	}
}

// A directive without rules about paths changes no path, because there is no rule to bypass.
func TestPathlessDirectiveChangesNoPath(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "standard"}, config.HandlerConfig{})
	for _, target := range []string{"/a%2fb", "//a/../b", "/a;b", "/a.", "/%41"} {
		if got := g.send(t, "GET", target, "X-API-Key: "+g.key); got.status != http.StatusOK || got.uri != target {
			t.Errorf("%s: %d, forwarded %q", target, got.status, got.uri)
		}
		if got := g.send(t, "GET", target); got.status != http.StatusUnauthorized {
			t.Errorf("%s without a key: %d", target, got.status)
		}
	}
}

// A matcher of paths and methods works like a rule of the directive.
func TestMatcherWorksLikeRule(t *testing.T) {
	g := newHarness(t, &config.PlanConfig{Name: "standard"}, config.HandlerConfig{Config: rules.Config{
		Only:   append(patterns("/api/*"), rules.Pattern{Methods: []string{"POST"}, Path: "/form"}),
		Except: patterns("/api/health", "/api/docs/*"),
	}})
	for target, want := range map[string]int{
		"/": 200, "/apis": 200, "/api/health": 200, "/api/docs": 200, "/api/docs/x": 200, "/api/docs/x.json": 200, "/form": 200,
		"/api/x": 401, "/api": 401, "/API/x": 401, "//api/x": 401, "/x/../api/x": 401, "/index.php/api/x": 401, "/api.json": 401, "/api/health/x": 401,
		"/api/docs/index.php/api/x": 401, "/api/HEALTH": 401,
		"/api;x/y": 400, "/x/..;/api/y": 400, "/api%2fx": 400,
	} {
		if got := g.send(t, "GET", target); got.status != want {
			t.Errorf("%s without a key: %d, want %d", target, got.status, want)
		}
	}
	if got := g.send(t, "POST", "/form"); got.status != http.StatusUnauthorized {
		t.Errorf("POST /form without a key: %d", got.status)
	}
	if got := g.send(t, "GET", "/", "X-Tenant-ID: evil"); got.status != http.StatusOK || got.tenant != "" {
		t.Errorf("outside of the matcher: %d, tenant %q", got.status, got.tenant)
	}
}
