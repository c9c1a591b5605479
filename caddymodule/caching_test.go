package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

func TestDecidesSharing(t *testing.T) {
	for _, tt := range []struct {
		want   bool
		values []string
	}{
		{false, nil},
		{false, []string{""}},
		{false, []string{"max-age=60"}},
		{false, []string{"no-cache, must-revalidate"}},
		{true, []string{"max-age=60, public"}},
		{true, []string{"Max-Age=60 ,\tPUBLIC"}},
		{true, []string{"max-age=60", "private"}},
		{true, []string{"no-store"}},
		{true, []string{"s-maxage=10"}},
		{true, []string{`S-MaxAge="10"`}},
		{false, []string{"s-maxage"}},
		{false, []string{"s-maxage=soon"}},
		{false, []string{`private="Set-Cookie"`}},
		{false, []string{`ext="a, public, b"`}},
		{false, []string{`ext="a\", public, b"`}},
		{true, []string{`ext="a\"", public`}},
		{false, []string{`ext="a, public`}},
		{false, []string{`max-age=1, ext="`, "public"}},
		{false, []string{"publicity, x-private, no-storey"}},
	} {
		if got := decidesSharing(tt.values); got != tt.want {
			t.Errorf("%q: %t, want %t", tt.values, got, tt.want)
		}
	}
}

func TestVary(t *testing.T) {
	l := newVaryList([]string{"Authorization", "X-Api-Key"})
	for _, tt := range []struct{ have, want []string }{
		{nil, []string{"Authorization, X-Api-Key"}},
		{[]string{"Accept"}, []string{"Accept", "Authorization, X-Api-Key"}},
		{[]string{"Accept, authorization"}, []string{"Accept, authorization", "X-Api-Key"}},
		{[]string{"AUTHORIZATION", "x-api-key,Accept"}, []string{"AUTHORIZATION", "x-api-key,Accept"}},
		{[]string{"*"}, []string{"*"}},
	} {
		hdr := http.Header{}
		if tt.have != nil {
			hdr["Vary"] = slices.Clone(tt.have)
		}
		l.addTo(hdr, make([]string, 1))
		if !slices.Equal(hdr["Vary"], tt.want) {
			t.Errorf("%q becomes %q, want %q", tt.have, hdr["Vary"], tt.want)
		}
	}
	names := credentialHeaders([]apikey.Place{
		{Kind: apikey.InQuery, Name: "api_key"}, {Kind: apikey.InCookie, Name: "a"}, {Kind: apikey.InHeader, Name: "X-Api-Key"}, {Kind: apikey.InCookie, Name: "b"},
	})
	if !slices.Equal(names, []string{"Cookie", "X-Api-Key"}) {
		t.Errorf("the headers are %q", names)
	}
	none := newVaryList(nil)
	hdr := http.Header{}
	if none.addTo(hdr, make([]string, 1)); len(hdr) > 0 {
		t.Errorf("without headers: %v", hdr)
	}
}

// A shared cache never gives one client's response to another client, whatever headers the
// upstream sends.
func TestCacheHeaders(t *testing.T) {
	s := newTestSite(t, siteConfig(`credentials {
			authorization Bearer
			header X-API-Key
			cookie session
			query api_key
		}`, `log_skip /unlogged
	keygate {
		public /public
		optional /app
		cors https://app.example
	}
	handle /down {
		reverse_proxy 127.0.0.1:1
	}
	handle /zip {
		encode gzip
		respond "`+strings.Repeat("text ", 300)+`"
	}
	reverse_proxy UPSTREAM`), func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Cache-Control", "Vary"} {
			for _, v := range r.Header["Echo-"+name] {
				w.Header().Add(name, v)
			}
		}
		switch r.URL.Path {
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		case "/206":
			w.Header().Set("Content-Range", "bytes 0-0/2")
			w.WriteHeader(http.StatusPartialContent)
		case "/500":
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	const vary = "Authorization, X-Api-Key, Cookie"
	key := []string{"X-API-Key", s.key}
	for _, tt := range []struct {
		name, method, path string
		header             []string
		status             int
		vary, cache        string
	}{
		{"plain", "GET", "/", key, 200, vary, "private"},
		{"HEAD", "HEAD", "/", key, 200, vary, "private"},
		{"304", "GET", "/304", key, 304, vary, "private"},
		{"206", "GET", "/206", key, 206, vary, "private"},
		{"500", "GET", "/500", key, 500, vary, "private"},
		{"a proxy's own error", "GET", "/down", key, 502, vary, "private"},
		{"by query", "GET", "/?api_key=" + s.key, nil, 200, vary, "private"},
		{"max-age", "GET", "/", append(key, "Echo-Cache-Control", "max-age=60"), 200, vary, "private, max-age=60"},
		{"two lines", "GET", "/", append(key, "Echo-Cache-Control", "max-age=60", "Echo-Cache-Control", "must-revalidate"), 200, vary, "private, max-age=60, must-revalidate"},
		{"public", "GET", "/", append(key, "Echo-Cache-Control", "max-age=60", "Echo-Cache-Control", "Public"), 200, vary, "max-age=60|Public"},
		{"the upstream varies", "GET", "/", append(key, "Echo-Vary", "Accept, x-api-key"), 200, "Accept, x-api-key|Authorization, Cookie", "private"},
		{"encode varies", "GET", "/zip", append(key, "Accept-Encoding", "gzip"), 200, "Accept-Encoding|" + vary, "private"},
		{"optional, anonymous", "GET", "/app", nil, 200, vary, "private"},
		{"public route", "GET", "/public", append(key, "Echo-Cache-Control", "max-age=60"), 200, "", "max-age=60"},
		{"missing key", "GET", "/", nil, 401, "Origin|" + vary, "no-store"},
		{"missing key, listed origin", "GET", "/", []string{"Origin", "https://app.example"}, 401, "Origin|" + vary, "no-store"},
		{"missing key, other origin", "HEAD", "/", []string{"Origin", "https://evil.example"}, 401, "Origin|" + vary, "no-store"},
	} {
		a := s.get(tt.method, tt.path, tt.header...)
		if a.status != tt.status {
			t.Errorf("%s: answered %d, want %d", tt.name, a.status, tt.status)
		}
		if got := strings.Join(a.header["Vary"], "|"); got != tt.vary {
			t.Errorf("%s: Vary is %q, want %q", tt.name, got, tt.vary)
		}
		if got := strings.Join(a.header["Cache-Control"], "|"); got != tt.cache {
			t.Errorf("%s: Cache-Control is %q, want %q", tt.name, got, tt.cache)
		}
	}
}

func TestCacheHeadersAsSent(t *testing.T) {
	s := newTestSite(t, siteConfig("", "keygate {\ncache_headers as_sent\n}\nreverse_proxy UPSTREAM"), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
	})
	if a := s.get("GET", "/", "X-API-Key", s.key); a.status != 200 || a.header.Get("Vary") != "" || a.header.Get("Cache-Control") != "max-age=60" {
		t.Errorf("answered %d %v", a.status, a.header)
	}
	if a := s.get("GET", "/"); a.status != 401 || a.header.Get("Vary") != "" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("without a key: %d %v", a.status, a.header)
	}
	if _, err := adapt("{\nkeygate\n}\n:80 {\nkeygate {\ncache_headers off\n}\n}\n"); err == nil || !strings.Contains(err.Error(), "as_sent") {
		t.Errorf("cache_headers off: %v", err)
	}
}

// Rejections are not cacheable, even on a site that makes its assets cacheable, and even from
// error routes.
func TestRejectionsAreNotStored(t *testing.T) {
	s := newTestSite(t, siteConfig("", `header Cache-Control "public, max-age=3600"
	keygate
	respond ok
	handle_errors {
		header >Cache-Control "public, max-age=60"
		@page path /page
		respond @page "sorry"
	}`), nil)
	for _, path := range []string{"/", "/page"} {
		if a := s.get("GET", path); a.status != 401 || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
}
