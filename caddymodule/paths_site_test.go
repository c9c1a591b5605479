package caddymodule

import (
	"net/http"
	"strings"
	"testing"
)

// With keygate_paths, Caddy chooses a handle block by the same canonical path that goes upstream.
func TestPathsBeforeBranches(t *testing.T) {
	s := newTestSite(t, siteConfig("", `
	keygate_paths {
		allow encoded_slash /files/*
	}
	handle /api/* {
		keygate
		reverse_proxy UPSTREAM {
			header_up X-Original {http.request.orig_uri}
		}
	}
	handle /files/* {
		keygate {
			scope_default deny
			public /files/*
		}
		reverse_proxy UPSTREAM
	}
	handle_path /v2/* {
		keygate {
			protect /secret/*
			paths {
				allow encoded_slash /open/*
			}
		}
		reverse_proxy UPSTREAM
	}
	handle {
		reverse_proxy UPSTREAM
	}
	handle_errors {
		respond "{http.error.status_code} {keygate.reason}"
	}`), func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.RequestURI + " " + r.Header.Get("X-Original")))
	})
	for target, want := range map[string]string{
		"/x":                  "/x ",
		"//x/../y":            "/y ",
		"/files/a%2Fb":        "/files/a%2Fb ",
		"/files/a%2Fb/%7e":    "/files/a%2Fb/%7e ",
		"/v2/open":            "/open ",
		"//v2//open/%7e":      "/open/~ ",
		"/api/x":              "401 missing_key",
		"//api/x":             "401 missing_key",
		"//x/../api//y":       "401 missing_key",
		"/x/%2e%2e/api/y":     "401 missing_key",
		"/v2/secret/x":        "401 missing_key",
		"/v2/x/../secret//x":  "401 missing_key",
		"/api;x/y":            "400 ambiguous_path",
		"/x/..;/api/y":        "400 ambiguous_path",
		"/x%2fy":              "400 ambiguous_path",
		"/files/..%2fapi/x":   "400 ambiguous_path",
		"/files/a%2fb;c":      "400 ambiguous_path",
		"/v2/open/a%2fb":      "400 ambiguous_path",
		"/v2/secret%2fx":      "400 ambiguous_path",
		"/files/a%2f..%2f..":  "400 ambiguous_path",
		"/files/%5c..%5capi/": "400 ambiguous_path",
	} {
		if got := s.get("GET", target); got.body != want {
			t.Errorf("%s: %d %q, want %q", target, got.status, got.body, want)
		}
	}
	if got := s.get("GET", "//api/x/./%7e", "X-API-Key", s.key); got.body != "/api/x/~ /api/x/~" {
		t.Errorf("with a key: %d %q", got.status, got.body)
	}
	a := s.get("GET", "/x;y", "X-API-Key", s.key)
	if a.status != http.StatusBadRequest || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("an ambiguous path: %d, Cache-Control %q", a.status, a.header.Get("Cache-Control"))
	}
}

func TestPathsDirectiveRejects(t *testing.T) {
	for _, tt := range []struct{ directive, want string }{
		{"keygate_paths /api/*", "keygate_paths takes no matcher"},
		{"keygate_paths none", "unknown keyspace 'none'"},
		{"keygate_paths {\nas_sent /s3//x\n}", "as_sent /s3//x"},
		{"keygate_paths {\nallow dots /x\n}", "allow takes 'encoded_slash' or 'parameters'"},
		{"keygate_paths {\nkeep\n}", "unrecognized option 'keep'"},
	} {
		_, err := adapt(file("", "", siteWith(tt.directive+"\nkeygate\nreverse_proxy localhost:9000")))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "Caddyfile:1") {
			t.Errorf("%s: %v", tt.directive, err)
		}
	}
}
