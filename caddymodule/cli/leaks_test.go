package cli_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A site with keygate_api accepts a report of a leaked key from a client that sends the key,
// without a management token.
func TestLeakReportedToSite(t *testing.T) {
	s := newShell(t, "unix/DIR/a.sock", `{
	admin ADMIN
	keygate {
		store sqlite DIR/keygate.db
		plan free {
			on_leak revoke
		}
	}
}
http://SITE {
	log {
		output file DIR/access.log
	}
	keygate_api
}
`)
	s.keygate(0, "tenant", "create", "acme")
	var k struct{ ID, Key string }
	if err := json.Unmarshal([]byte(s.keygate(0, "key", "create", "--tenant", "acme", "--name", "ci", "--json")), &k); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(s.dir, "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	_, site, _ := strings.Cut(string(config), "http://127")
	site, _, _ = strings.Cut("http://127"+site, " ")
	post := func(path string) int {
		t.Helper()
		resp, err := http.Post(site+path, "application/json", strings.NewReader(`{"key":"`+k.Key+`","url":"https://example.com/"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := post("/v1/leaks/github"); got != 404 {
		t.Errorf("GitHub's reports, which are not configured, are answered %d", got)
	}
	if got := post("/v1/leaks"); got != 202 {
		t.Errorf("a report is answered %d", got)
	}
	if out := s.keygate(0, "key", "get", k.ID); !strings.Contains(out, "revoked") {
		t.Errorf("after it the key is %s", out)
	}
	if out := s.keygate(0, "audit"); !strings.Contains(out, "key.leaked") || !strings.Contains(out, "127.0.0.1") || strings.Contains(out, k.Key) {
		t.Errorf("the audit shows %s", out)
	}
	if log, err := os.ReadFile(filepath.Join(s.dir, "access.log")); err != nil || strings.Contains(string(log), k.Key) {
		t.Errorf("%v, and the log: %s", err, log)
	}
}
