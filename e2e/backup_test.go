package e2e

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// restore runs `caddy keygate restore` on the gateway's configuration.
func (g *gateway) restore(t testing.TB, file string, args ...string) *result {
	t.Helper()
	return g.command(t, "", append([]string{"keygate", "restore", file, "--config", g.config, "--adapter", "caddyfile"}, args...)...)
}

// A backup that is made while keys are made has every one that was acknowledged before; it
// is restored only where no gateway runs, and what it replaces is kept.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	g := start(t, written(t, breakGlass), newUpstream(t), "PEPPER=a pepper that is long enough")
	g.made(t, "acme")

	var mu sync.Mutex
	var acknowledged []string
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, full := g.made(t, "acme")
			mu.Lock()
			acknowledged = append(acknowledged, full)
			mu.Unlock()
		}
	}()
	made := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return acknowledged[:len(acknowledged):len(acknowledged)]
	}
	eventually(t, "some keys", func() bool { return len(made()) > 20 })
	before := made()
	file := filepath.Join(g.dir, "backup.db")
	r := g.keygate(t, "backup", "backup.db", "--json").json() // relative to where the command runs
	if r.text("file") != file {
		t.Errorf("backed up to %v", r)
	}
	eventually(t, "more keys", func() bool { return len(made()) > len(before)+20 })
	close(stop)
	<-ended
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || float64(info.Size()) != r["bytes"] {
		t.Errorf("the backup: %v, %v", info, err)
	}
	g.keygate(t, "backup", "backup.db").exits(1)
	g.keygate(t, "backup", "again.db", "--server", "https://keys.example.com").exits(2)
	if r := g.restore(t, file).exits(1); !strings.Contains(r.err, "stop the gateway") {
		t.Errorf("while it runs: %s", r.err)
	}
	_, late := g.made(t, "acme")
	g.send(t, "GET", "/x", "", "X-API-Key", late).passed()
	g.stop()

	second := filepath.Join(g.dir, "second.db")
	g.offline(t, "", "backup", second).exits(0)
	g.offline(t, "", "backup", second).exits(1)

	if r := g.restore(t, file).exits(0); !strings.Contains(r.out, ".replaced-") {
		t.Errorf("it said %q", r.out)
	}
	g.start()
	for _, full := range before {
		g.send(t, "GET", "/x", "", "X-API-Key", full).passed()
	}
	g.send(t, "GET", "/x", "", "X-API-Key", late).refused(http.StatusUnauthorized).problem("invalid_key")
	g.made(t, "acme")
	if r := g.api(t, "GET", "/v1/audit/verify", nil).want(http.StatusOK).json(); r["intact"] != true {
		t.Errorf("the chain: %v", r)
	}
	g.stop()

	// Back to the second one, over a database that a killed gateway and a bad disk left.
	if err := os.WriteFile(g.database, []byte("nothing that is a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.restore(t, second).exits(0)
	g.start()
	g.send(t, "GET", "/x", "", "X-API-Key", late).passed()
	for _, full := range made() {
		g.send(t, "GET", "/x", "", "X-API-Key", full).passed()
	}
}

// A backup that does not fit, or was tampered with, replaces nothing.
func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	g := start(t, written(t, breakGlass), newUpstream(t), "PEPPER=a pepper that is long enough")
	_, full := g.made(t, "acme")
	file := filepath.Join(g.dir, "backup.db")
	g.keygate(t, "backup", file).exits(0)
	g.stop()

	env := g.env
	g.env = append(env[:len(env):len(env)], "PEPPER=another pepper, long enough too")
	if r := g.restore(t, file).exits(1); !strings.Contains(r.err, "pepper") {
		t.Errorf("another pepper: %s", r.err)
	}
	g.env = env
	g.restore(t, file, "--address", g.adminAddr).exits(2)
	g.command(t, "", "keygate", "restore", file).exits(2)
	if r := g.restore(t, g.config).exits(1); !strings.Contains(r.err, "not a database") {
		t.Errorf("no backup: %s", r.err)
	}
	db, err := sql.Open("sqlite", "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	// As whoever has the file can do.
	if _, err := db.Exec(`DROP TRIGGER audit_update; UPDATE audit SET action = 'key.revoked' WHERE action = 'key.created'`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if r := g.restore(t, file).exits(1); !strings.Contains(r.err, "audit chain") {
		t.Errorf("tampered with: %s", r.err)
	}
	if left, err := filepath.Glob(g.database + ".*"); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	g.start()
	g.send(t, "GET", "/x", "", "X-API-Key", full).passed()
}
