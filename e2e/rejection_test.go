package e2e

import (
	"strconv"
	"strings"
	"testing"
)

func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	k := s.key(t, "limited", record{"rate": "2/h"})
	const origin = "https://app.example"
	preflight := func(origin string) *answer {
		return s.send(t, "OPTIONS", "/admin/x", "", "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
	}
	for range 10 {
		preflight(origin).passed()
		preflight("https://elsewhere.example").passed()
	}
	// A request with only half of a preflight's headers is not a preflight.
	s.send(t, "OPTIONS", "/ping", "", "Origin", origin).rejected(401)
	s.send(t, "OPTIONS", "/ping", "", "Access-Control-Request-Method", "POST").rejected(401)
	s.send(t, "GET", "/ping", "", "Origin", origin, "Access-Control-Request-Method", "POST").rejected(401)

	if left := s.call(t, "GET", "/ping", k.full, "Origin", origin).passed().number("X-RateLimit-Remaining"); left != 1 {
		t.Errorf("%d remain: a preflight was charged", left)
	}
	a := s.call(t, "GET", "/ping", k.full, "Origin", origin).passed()
	if e := a.one("Access-Control-Expose-Headers"); !strings.Contains(e, "X-RateLimit-Remaining") || !strings.Contains(e, "Retry-After") {
		t.Errorf("exposed are %q", e)
	}
	for _, tc := range []struct {
		a      *answer
		status int
	}{{s.call(t, "GET", "/ping", k.full, "Origin", origin), 429}, {s.call(t, "GET", "/ping", "", "Origin", origin), 401}} {
		a := tc.a.rejected(tc.status)
		if a.one("Access-Control-Allow-Origin") != origin || a.header.Get("Access-Control-Allow-Credentials") != "true" || a.header.Get("Vary") != "Origin" {
			t.Errorf("a page can't read the rejection: %v", a.header)
		}
		if e := a.header.Values("Access-Control-Expose-Headers"); !strings.Contains(strings.Join(e, ","), "Retry-After") {
			t.Errorf("exposed are %q", e)
		}
	}
	for _, other := range []string{"https://elsewhere.example", "null", "https://app.example.evil", "http://app.example"} {
		if a := s.call(t, "GET", "/ping", "", "Origin", other).rejected(401); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("a page of %s may read rejections", other)
		}
	}
}

func TestErrorRoutes(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	reader := s.key(t, "free", record{"scopes": []string{"read"}})
	limited := s.key(t, "limited", record{"rate": "1/h"})
	if a := s.call(t, "GET", "/ping", "", "Accept", "text/html").rejected(401); a.body != "<h1>401 missing_key</h1>" {
		t.Errorf("a route with a body: %s", a.body)
	}
	s.call(t, "GET", "/ping", "", "Accept", "text/plain").rejected(401).problem("missing_key")
	a := s.call(t, "GET", "/admin/x", reader.full).rejected(403)
	a.problem("insufficient_scope")
	if a.header.Get("X-Seen") != "yes" || !strings.Contains(a.header.Get("WWW-Authenticate"), `scope="admin"`) {
		t.Errorf("a route without a body: %v", a.header)
	}
	s.call(t, "GET", "/ping", limited.full).passed()
	s.call(t, "GET", "/ping", limited.full).rejected(429).problem("rate_limited")
	for _, accept := range []string{"text/html", "text/plain"} {
		get := s.call(t, "GET", "/ping", "", "Accept", accept)
		a := s.call(t, "HEAD", "/ping", "", "Accept", accept).rejected(401)
		if a.body != "" {
			t.Errorf("HEAD: the body is %q", a.body)
		}
		if l := a.header.Get("Content-Length"); l != "" && l != strconv.Itoa(len(get.body)) {
			t.Errorf("HEAD: Content-Length %s, GET has %d", l, len(get.body))
		}
	}
}

func TestErrorRoutesThatFail(t *testing.T) {
	t.Parallel()
	s := startTestSite(t, "", "", `rewrite /old/* /new{uri}
	keygate {
		cors *
	}
	handle_path /mount/* {
		keygate
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
	handle_errors {
		@text path /text
		respond @text "{http.error.status_code}"
		@fails path /fails
		error @fails "again" 500
		@dead path /dead
		reverse_proxy @dead 127.0.0.1:1
		@elsewhere path /elsewhere
		redir @elsewhere /login
		@uri path /old/*
		respond @uri "{http.request.uri} {keygate.reason}"
		@missing path /missing
		file_server @missing {
			root /nonexistent
		}
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
	for _, path := range []string{"/fails", "/dead", "/missing", "/other", "/mount/x"} {
		s.call(t, "GET", path, "").rejected(401).problem("missing_key")
		if a := s.call(t, "HEAD", path, "").rejected(401); a.body != "" {
			t.Errorf("HEAD %s: %s", path, a.body)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		if a := s.call(t, method, "/elsewhere", ""); a.status != 302 || a.header.Get("Location") != "/login" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: a route that redirects: %d %v", method, a.status, a.header)
		}
	}
	if a := s.call(t, "GET", "/text", "").rejected(401); a.body != "401" {
		t.Errorf("the body is %s", a.body)
	}
	// Error routes get the URL as the client sent it.
	if a := s.call(t, "GET", "/old/x?a=1", "").rejected(401); a.body != "/old/x?a=1 missing_key" {
		t.Errorf("the body is %s", a.body)
	}
}

func TestErrorStyles(t *testing.T) {
	t.Parallel()
	for style, want := range map[string]string{
		"errors detail":   `{"detail":"Invalid API key."}`,
		"errors envelope": `{"error":{"code":"invalid_key","message":"Invalid API key."}}`,
		"errors envelope {\n code invalid_key UNAUTHORIZED\n message invalid_key \"No, \\\"no\\\".\"\n status invalid_key 404\n}": `{"error":{"code":"UNAUTHORIZED","message":"No, \"no\"."}}`,
	} {
		s := startTestSite(t, "", style, "keygate\nreverse_proxy {$KEYGATE_UPSTREAM}")
		a := s.call(t, "GET", "/ping", s.unknown()).says(want)
		if a.header.Get("Content-Type") != "application/json" || a.reached != nil || a.status < 400 {
			t.Errorf("%s: %d %v", style, a.status, a.header)
		}
	}
}
