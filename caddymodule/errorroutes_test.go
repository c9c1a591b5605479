package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An error route that looks for a file by the path of a rejected request never serves the
// protected file, however the path is written.
func TestErrorRoutesServeNoFileOfAmbiguousPath(t *testing.T) {
	www := t.TempDir()
	if err := os.Mkdir(filepath.Join(www, "private"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"private/secret.txt": "SECRET", "error.html": "PAGE"} {
		if err := os.WriteFile(filepath.Join(www, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newTestSite(t, siteConfig("", "root * "+www+`
	keygate {
		public /open
	}
	file_server
	handle_errors {
		uri strip_suffix ;
		try_files {path} /error.html
		file_server
	}`), nil)
	if a := s.get("GET", "/private/secret.txt", "X-API-Key", s.key); a.body != "SECRET" {
		t.Fatalf("with a key: %d %s", a.status, a.body)
	}
	for path, status := range map[string]int{
		"/private/secret.txt": 401, "/private%2F%2Fsecret.txt": 400, "/private/x/..%2Fsecret.txt": 400,
		"/private/.%2Fsecret.txt": 400, "/x%2F../private/secret.txt": 400, "/private/secret.txt;": 400,
	} {
		if a := s.get("GET", path); a.status != status || strings.Contains(a.body, "SECRET") {
			t.Errorf("%s: %d %s, want %d without the file", path, a.status, a.body, status)
		}
	}
	if a := s.get("GET", "/other%2Ffile"); a.status != 400 || a.body != "PAGE" {
		t.Errorf("a page that the error route names: %d %s", a.status, a.body)
	}
}
