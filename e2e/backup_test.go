package e2e

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
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
	testkit.Eventually(t, "some keys", func() bool { return len(made()) > 20 })
	before := made()
	file := filepath.Join(g.dir, "backup.db")
	r := g.keygate(t, "backup", "backup.db", "--json").json() // relative to where the command runs
	if r.text("file") != file {
		t.Errorf("backed up to %v", r)
	}
	testkit.Eventually(t, "more keys", func() bool { return len(made()) > len(before)+20 })
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

// What was refused since a backup stays refused when it is restored over a store that can be
// read, also by way of a backup that does not know of it at all; unless it is asked for.
func TestRestoreKeepsRevocations(t *testing.T) {
	t.Parallel()
	g := start(t, written(t, breakGlass), newUpstream(t), "PEPPER=a pepper that is long enough")
	g.made(t, "zero")
	g.keygate(t, "backup", "first.db").exits(0)
	does := func(method, path string, body any) *answer {
		t.Helper()
		a := g.api(t, method, path, body)
		if a.status/100 != 2 {
			t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
		}
		return a
	}

	_, fine := g.made(t, "acme")
	again, againKey := g.made(t, "acme")
	does("POST", "/v1/keys/"+again+"/disable", nil)
	ids, refused := map[string]string{}, map[string]string{}
	for _, what := range []string{"revoked", "disabled", "deleted", "rotated"} {
		ids[what], refused[what] = g.made(t, "acme")
	}
	_, refused["suspended tenant's"] = g.made(t, "bee")
	_, refused["deleted tenant's"] = g.made(t, "cee")
	token := g.api(t, "POST", "/v1/tokens", record{"name": "t", "scopes": []string{"keys:read"}}).want(http.StatusCreated).json()
	g.keep(token.text("token"))
	g.keygate(t, "backup", "known.db").exits(0)

	does("POST", "/v1/keys/"+again+"/enable", nil)
	does("POST", "/v1/keys/"+ids["revoked"]+"/revoke", nil)
	does("POST", "/v1/keys/"+ids["disabled"]+"/disable", nil)
	does("DELETE", "/v1/keys/"+ids["deleted"], nil)
	rotated := does("POST", "/v1/keys/"+ids["rotated"]+"/rotate", record{"grace": "0s"}).json()
	g.keep(rotated.text("key"))
	does("PATCH", "/v1/tenants/bee", record{"active": false})
	does("DELETE", "/v1/tenants/cee?force=true", nil)
	does("DELETE", "/v1/tokens/"+token.text("id"), nil)
	check := func(lets bool) {
		t.Helper()
		g.send(t, "GET", "/x", "", "X-API-Key", fine).passed()
		for what, full := range refused {
			a := g.send(t, "GET", "/x", "", "X-API-Key", full)
			if ok := a.status == http.StatusOK; ok != lets {
				t.Errorf("a %s key: %d", what, a.status)
			}
		}
		a := g.send(t, "GET", "/v1/keys", "", "Authorization", "Bearer "+token.text("token"))
		if ok := a.status == http.StatusOK; ok != lets {
			t.Errorf("a revoked token: %d", a.status)
		}
	}
	check(false)
	g.kill() // its log is still to be moved into the database

	known, first := filepath.Join(g.dir, "known.db"), filepath.Join(g.dir, "first.db")
	if r := g.restore(t, known).exits(0); !strings.Contains(r.out, "Kept from the former store: 8 revocations") {
		t.Errorf("it said %q", r.out)
	}
	g.start()
	check(false)
	// As the backup has it, for nobody refused it since.
	g.send(t, "GET", "/x", "", "X-API-Key", againKey).refused(http.StatusUnauthorized).problem("disabled_key")
	if r := g.api(t, "GET", "/v1/audit/verify", nil).want(http.StatusOK).json(); r["intact"] != true {
		t.Errorf("the chain: %v", r)
	}
	rows := g.api(t, "GET", "/v1/audit?key="+ids["revoked"], nil).want(http.StatusOK)
	if !strings.Contains(rows.body, "key.revoked") || !strings.Contains(rows.body, "(restore)") {
		t.Errorf("the audit: %s", rows.body)
	}
	g.stop()

	// The wrong one, and then the right one: of what the first does not know, it keeps the refusals.
	if r := g.restore(t, first, "--json").json(); r["kept"] != 0.0 || r["unread"] != false {
		t.Errorf("over one that knows nothing: %v", r)
	}
	if r := g.restore(t, known, "--json").json(); r["kept"] != 8.0 {
		t.Errorf("by way of the wrong one: %v", r)
	}
	g.start()
	check(false)
	g.stop()

	r := g.restore(t, known, "--as-it-was").exits(0)
	if !strings.Contains(r.out, "revocations since the backup are lost") {
		t.Errorf("as it was: %q", r.out)
	}
	g.start()
	check(true)
	does("POST", "/v1/keys/"+ids["revoked"]+"/revoke", nil)
	g.stop()

	// What can't be read says nothing; it is said what to do.
	if err := os.WriteFile(g.database, []byte("nothing that is a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := g.restore(t, known).exits(0); !strings.Contains(r.out, "could not be read") || !strings.Contains(r.out, "accepted again") || !strings.Contains(r.out, "key revoke") {
		t.Errorf("it said %q", r.out)
	}
	if err := os.Remove(g.database); err != nil {
		t.Fatal(err)
	}
	if r := g.restore(t, known).exits(0); !strings.Contains(r.out, "no former store") || !strings.Contains(r.out, "accepted again") {
		t.Errorf("it said %q", r.out)
	}
	left, err := filepath.Glob(g.database + ".former-*")
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	g.start()
	check(true)
}
