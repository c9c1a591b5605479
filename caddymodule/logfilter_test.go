package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/apikey"
)

// With the log filter, requests that reach no directive are logged without keys, and all other
// text stays.
func TestLogFilter(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t)
	logs := filepath.Join(dir, "log")
	app := onSQLite(filepath.Join(dir, "keys.db"))
	adapted, err := adapt(fmt.Sprintf(`{
	admin off
	persist_config off
	log {
		output file %s
		format filter {
			request>uri keygate
			request>headers keygate
			resp_headers keygate
		}
	}
	keygate {
		store sqlite %s
		credentials {
			header X-Shop-Key
			query key
		}
	}
}
http://127.0.0.1:%d {
	log
	header Location {uri}
	respond "no directive here"
}
`, logs, app.Store.Path, port))
	if err != nil {
		t.Fatal(err)
	}
	if err := loadRaw(t, adapted); err != nil {
		t.Fatal(err)
	}
	ks := current(t).compiled.Keyspaces[config.DefaultKeyspace]
	key, err := ks.Grammar.Generate("live")
	if err != nil {
		t.Fatal(err)
	}
	const unshaped = "some-secret-of-another-shape"
	req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/%s/x?key=%s&a=%s", port, key, unshaped, key), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", unshaped)
	req.Header.Set("X-Shop-Key", unshaped)
	req.Header.Set("Referer", "https://example.com/?k="+key)
	req.Header.Set("X-Other", "before "+key+" after")
	req.Header.Set("X-Plain", "plain value")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if leaking := redact.LeakingLogs(current(t).ctx); len(leaking) > 0 {
		t.Errorf("the filter leaves leaks in %v", leaking)
	}
	stop(t)
	written, err := os.ReadFile(logs)
	if err != nil {
		t.Fatal(err)
	}
	text := string(written)
	if strings.Contains(text, key) || strings.Contains(text, unshaped) {
		t.Errorf("a key is in the log:\n%s", text)
	}
	shown, _ := ks.Grammar.Shown(key)
	if n := strings.Count(text, shown+"…"); n < 4 {
		t.Errorf("%s… stands %d times in the log, want in path, query, Referer and X-Other:\n%s", shown, n, text)
	}
	if !strings.Contains(text, "plain value") || !strings.Contains(text, "handled request") {
		t.Errorf("the log lacks what it may show:\n%s", text)
	}
}

// The directive's own log line holds no keys of its keyspace, and the log filter removes keys of
// other keyspaces from it.
func TestLogFilterOnOwnLines(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t)
	logs := filepath.Join(dir, "log")
	adapted, err := adapt(fmt.Sprintf(`{
	admin off
	persist_config off
	log {
		output file %s
		format filter {
			request>uri keygate
			request>headers keygate
			resp_headers keygate
		}
	}
	keygate {
		store sqlite %s
		keyspace one {
			prefix one_live_ live
		}
		keyspace two {
			prefix two_live_ live
			credentials {
				query token
			}
		}
	}
}
http://127.0.0.1:%d {
	log
	keygate one {
		public /*
	}
	header Location /{http.request.header.X-Other}
	respond ok
}
`, logs, filepath.Join(dir, "keys.db"), port))
	if err != nil {
		t.Fatal(err)
	}
	if err := loadRaw(t, adapted); err != nil {
		t.Fatal(err)
	}
	key, err := current(t).compiled.Keyspaces["two"].Grammar.Generate("live")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/%s/x", port, key), nil)
	if err != nil {
		t.Fatal(err)
	}
	const unshaped = "some-secret-of-another-shape"
	req.Header.Set("Referer", "https://example.com/?token="+unshaped)
	req.Header.Set("X-Other", "before "+key+" after")
	req.Header.Set("X-Plain", "plain value")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	stop(t)
	written, err := os.ReadFile(logs)
	if err != nil {
		t.Fatal(err)
	}
	text := string(written)
	if strings.Contains(text, key) || strings.Contains(text, unshaped) {
		t.Errorf("a key is in the log:\n%s", text)
	}
	if n := strings.Count(text, key[:12]+"…"); n != 3 {
		t.Errorf("%s… stands %d times in the log, want in path, X-Other and Location:\n%s", key[:12], n, text)
	}
	if !strings.Contains(text, "plain value") || !strings.Contains(text, "handled request") {
		t.Errorf("the log lacks what it may show:\n%s", text)
	}
}

// The log filter removes a configuration's keys only while that configuration is loaded.
func TestLogFilterForgets(t *testing.T) {
	app := onSQLite(filepath.Join(t.TempDir(), "keys.db"))
	app.Keyspaces = map[string]*config.KeyspaceConfig{"shop": {Prefixes: []apikey.Prefix{{Value: "shop_live_", Environment: "live"}}}}
	if err := load(t, app, nil); err != nil {
		t.Fatal(err)
	}
	key, err := current(t).compiled.Keyspaces["shop"].Grammar.Generate("live")
	if err != nil {
		t.Fatal(err)
	}
	filtered := func() string { return redact.LogFilter{}.Filter(zap.String("uri", "/"+key)).String }
	if got := filtered(); strings.Contains(got, key) {
		t.Errorf("while the configuration runs: %s", got)
	}
	stop(t)
	if got := filtered(); got != "/"+key {
		t.Errorf("afterwards: %s", got)
	}
}
