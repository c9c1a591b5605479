package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An error route that answers with only a status determines the response, for GET and HEAD alike.
func TestErrorRoutesKeepTheirStatus(t *testing.T) {
	s := newTestSite(t, siteConfig("", `keygate
	respond ok
	handle_errors {
		@away path /away
		redir @away /sign-in
		@none path /none
		respond @none 204
		@same path /same
		respond @same 401
		@text path /text
		respond @text "no"
		@seen path /seen
		header @seen X-Seen yes
		@fails path /fails
		error @fails 500
	}`), nil)
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/away": {302, ""}, "/none": {204, ""}, "/same": {401, ""}, "/text": {401, "no"},
		"/seen": {401, "missing_key"}, "/fails": {401, "missing_key"}, "/other": {401, "missing_key"},
	} {
		a, head := s.get("GET", path), s.get("HEAD", path)
		if a.status != want.status || want.body == "" && a.body != "" || !strings.Contains(a.body, want.body) {
			t.Errorf("%s: %d %q, want %d %q", path, a.status, a.body, want.status, want.body)
		}
		if head.status != a.status || head.body != "" {
			t.Errorf("HEAD %s: %d %q, GET has %d", path, head.status, head.body, a.status)
		}
		for _, name := range []string{"Content-Type", "Location"} {
			if a.header.Get(name) != head.header.Get(name) {
				t.Errorf("HEAD %s: %s is %q, GET has %q", path, name, head.header.Get(name), a.header.Get(name))
			}
		}
	}
}

// An error route can serve the page that it names, but never the file that the rejected request
// asked for.
func TestErrorPagesDoNotServeTheRejectedFile(t *testing.T) {
	www := t.TempDir()
	for name, text := range map[string]string{
		"report.txt": "SECRET", "report": "SECRET", "page.html": "SECRET", "index.html": "SECRET", "dir/index.html": "SECRET",
		"list/a.txt": "SECRET", "static/report.txt": "SECRET", "404.html": "not found", "401.html": "sign in",
	} {
		name = filepath.Join(www, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct{ routes, body string }{
		"a page for another status": {"@404 expression {err.status_code} == 404\nrewrite @404 /404.html\nfile_server", "missing_key"},
		"file_server alone":         {"file_server", "missing_key"},
		"browse":                    {"file_server browse", "missing_key"},
		"in a handle block":         {"handle {\nroot * " + www + "\nfile_server\n}", "missing_key"},
		"templates":                 {"templates\nfile_server", "missing_key"},
		"a named route":             {"invoke files", "missing_key"},
		"try_files":                 {"try_files {path} {path}.html {path}/index.html\nfile_server", "missing_key"},
		"under a prefix":            {"rewrite * /static{path}\nfile_server", "missing_key"},
		"the same path again":       {"rewrite * {path}?x=1\nfile_server", "missing_key"},
		"a page":                    {"rewrite * /{err.status_code}.html\nfile_server", "sign in"},
		"a page behind try_files":   {"try_files /none.html /401.html\nfile_server", "sign in"},
		"text after the files":      {"file_server {\npass_thru\n}\nrespond \"text\"", "text"},
	} {
		t.Run(name, func(t *testing.T) {
			site := "root * " + www + "\nkeygate\nfile_server browse\nhandle_errors {\n" + tt.routes + "\n}"
			s := newTestSite(t, strings.Replace(siteConfig("", site), "SITE {", "&(files) {\nfile_server\n}\nSITE {", 1), nil)
			if a := s.get("GET", "/report.txt", "X-API-Key", s.key); a.body != "SECRET" {
				t.Fatalf("with a key: %d %s", a.status, a.body)
			}
			for _, path := range []string{"/report.txt", "/report", "/page", "/", "/dir/", "/list/", "/index.html", "//report.txt"} {
				a := s.get("GET", path)
				if a.status != http.StatusUnauthorized || !strings.Contains(a.body, tt.body) || strings.Contains(a.body, "SECRET") || strings.Contains(a.body, "a.txt") {
					t.Errorf("%s: %d %s", path, a.status, a.body)
				}
				if head := s.get("HEAD", path); head.status != a.status || head.header.Get("Content-Type") != a.header.Get("Content-Type") || head.header.Get("Etag") != a.header.Get("Etag") {
					t.Errorf("HEAD %s: %d %v, GET has %v", path, head.status, head.header, a.header)
				}
			}
		})
	}
}

// A keygate directive in an error route does not admit a rejected request, and admits requests
// that failed for other reasons.
func TestErrorRouteAdmitsNoRejectedRequest(t *testing.T) {
	asked := 0
	s := newTestSite(t, siteConfig("", `keygate
	reverse_proxy 127.0.0.1:1
	handle_errors {
		handle {
			keygate {
				optional /*
			}
			reverse_proxy UPSTREAM
		}
	}`), func(http.ResponseWriter, *http.Request) { asked++ })
	if a := s.get("GET", "/", "X-API-Key", s.key); a.status != 200 || asked != 1 {
		t.Fatalf("with a key: %d, the fallback was asked %d times", a.status, asked)
	}
	for _, key := range []string{"", s.key[:len(s.key)-1] + "!", "kg_live_" + strings.Repeat("a", 32)} {
		if a := s.get("GET", "/", "X-API-Key", key); a.status != 401 || asked != 1 {
			t.Errorf("%q: %d %s, the fallback was asked %d times", key, a.status, a.body, asked)
		}
	}
}

// An error route with a proxy to the site's own upstream forwards only an error page's path, never
// the rejected request.
func TestRejectedRequestIsNotProxied(t *testing.T) {
	for name, tt := range map[string]struct{ routes, asked string }{
		"the request's own path": {"reverse_proxy UPSTREAM", ""},
		"in a handle block":      {"handle {\nreverse_proxy UPSTREAM\n}", ""},
		"of some errors":         {"@404 expression {err.status_code} == 404\nrewrite @404 /404\nreverse_proxy UPSTREAM", ""},
		"a named route":          {"invoke api", ""},
		"a query alone":          {"rewrite * {path}?error=1\nreverse_proxy UPSTREAM", ""},
		"a page":                 {"rewrite * /error/{err.status_code}\nreverse_proxy UPSTREAM", "/error/401"},
		"a page of the proxy":    {"reverse_proxy UPSTREAM {\nrewrite /error\n}", "/error"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := ""
			config := siteConfig("", "keygate\nreverse_proxy UPSTREAM\nhandle_errors {\n"+tt.routes+"\n}")
			config = strings.Replace(config, "SITE {", "&(api) {\nreverse_proxy UPSTREAM\n}\nSITE {", 1)
			s := newTestSite(t, config, func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.Path
				_, _ = w.Write([]byte("from the upstream"))
			})
			if a := s.get("GET", "/orders", "X-API-Key", s.key); a.status != 200 || asked != "/orders" {
				t.Fatalf("with a key: %d, %q was asked for", a.status, asked)
			}
			asked = ""
			a := s.get("POST", "/orders")
			if asked != tt.asked {
				t.Errorf("the upstream was asked for %q, want %q", asked, tt.asked)
			}
			if tt.asked == "" && (a.status != 401 || !strings.Contains(a.body, "missing_key")) {
				t.Errorf("answered %d %s", a.status, a.body)
			}
		})
	}
}
