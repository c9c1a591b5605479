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

// TestBackupAndRestore makes a backup while keys are created. The backup must contain every key that was
// acknowledged before. Restore needs a stopped gateway, and keeps the database that it replaces.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	g := start(t, written(t, offlineConfig), newUpstream(t), "PEPPER=a pepper that is long enough")
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
	r := g.keygate(t, "backup", "backup.db", "--json").json() // The backup's file name is relative to the directory in which the command runs.
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
	if r := g.restore(t, file).exits(1); !strings.Contains(r.err, "first stop the gateway") {
		t.Errorf("while it runs: %s", r.err)
	}
	_, late := g.made(t, "acme")
	g.send(t, "GET", "/x", "", "X-API-Key", late).passed()
	g.stop()

	second := filepath.Join(g.dir, "second.db")
	g.offline(t, "", "backup", second).exits(0)
	g.offline(t, "", "backup", second).exits(1)

	if r := g.restore(t, file).exits(0); !strings.Contains(r.out, ".replaced-") {
		t.Errorf("the command printed %q", r.out)
	}
	g.start()
	for _, full := range before {
		g.send(t, "GET", "/x", "", "X-API-Key", full).passed()
	}
	g.send(t, "GET", "/x", "", "X-API-Key", late).rejected(http.StatusUnauthorized).problem("invalid_key")
	g.made(t, "acme")
	if r := g.api(t, "GET", "/v1/audit/verify", nil).want(http.StatusOK).json(); r["intact"] != true {
		t.Errorf("the chain: %v", r)
	}
	g.stop()

	// The second backup is restored over a database that can't be read.
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

// TestRestoreRejected checks that a backup with another pepper or with a changed audit log is rejected,
// and that the store stays unchanged.
func TestRestoreRejected(t *testing.T) {
	t.Parallel()
	g := start(t, written(t, offlineConfig), newUpstream(t), "PEPPER=a pepper that is long enough")
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
	// A person with access to the database file can change the audit log by dropping the trigger.
	if _, err := db.Exec(`DROP TRIGGER audit_update; UPDATE audit SET action = 'key.revoked' WHERE action = 'key.created'`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if r := g.restore(t, file).exits(1); !strings.Contains(r.err, "audit chain") {
		t.Errorf("tampered with: %s", r.err)
	}
	if left, err := filepath.Glob(g.database + ".*"); err != nil || len(left) != 2 { // the lock file and the reserve
		t.Errorf("left: %v, %v", left, err)
	}
	g.start()
	g.send(t, "GET", "/x", "", "X-API-Key", full).passed()
}

// TestRestoreKeepsRevocations restores a backup over a readable store. Revocations made after the backup
// must stay in effect. They must also survive the restore of a backup that lacks the keys. With
// --as-it-was, the revocations are lost.
func TestRestoreKeepsRevocations(t *testing.T) {
	t.Parallel()
	g := start(t, written(t, offlineConfig), newUpstream(t), "PEPPER=a pepper that is long enough")
	g.made(t, "zero")
	g.keygate(t, "backup", "first.db").exits(0)
	change := func(method, path string, body any) *answer {
		t.Helper()
		a := g.api(t, method, path, body)
		if a.status/100 != 2 {
			t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
		}
		return a
	}

	_, fine := g.made(t, "acme")
	again, againKey := g.made(t, "acme")
	change("POST", "/v1/keys/"+again+"/disable", nil)
	ids, rejectedKeys := map[string]string{}, map[string]string{}
	for _, what := range []string{"revoked", "disabled", "deleted", "rotated"} {
		ids[what], rejectedKeys[what] = g.made(t, "acme")
	}
	_, rejectedKeys["suspended tenant's"] = g.made(t, "bee")
	_, rejectedKeys["deleted tenant's"] = g.made(t, "cee")
	token := g.api(t, "POST", "/v1/tokens", record{"name": "t", "scopes": []string{"keys:read"}}).want(http.StatusCreated).json()
	g.keep(token.text("token"))
	g.keygate(t, "backup", "known.db").exits(0)

	change("POST", "/v1/keys/"+again+"/enable", nil)
	change("POST", "/v1/keys/"+ids["revoked"]+"/revoke", nil)
	change("POST", "/v1/keys/"+ids["disabled"]+"/disable", nil)
	change("DELETE", "/v1/keys/"+ids["deleted"], nil)
	rotated := change("POST", "/v1/keys/"+ids["rotated"]+"/rotate", record{"grace": "0s"}).json()
	g.keep(rotated.text("key"))
	change("PATCH", "/v1/tenants/bee", record{"active": false})
	change("DELETE", "/v1/tenants/cee?force=true", nil)
	change("DELETE", "/v1/tokens/"+token.text("id"), nil)
	check := func(accepted bool) {
		t.Helper()
		g.send(t, "GET", "/x", "", "X-API-Key", fine).passed()
		for what, full := range rejectedKeys {
			a := g.send(t, "GET", "/x", "", "X-API-Key", full)
			if ok := a.status == http.StatusOK; ok != accepted {
				t.Errorf("a %s key: %d", what, a.status)
			}
		}
		a := g.send(t, "GET", "/v1/keys", "", "Authorization", "Bearer "+token.text("token"))
		if ok := a.status == http.StatusOK; ok != accepted {
			t.Errorf("a revoked token: %d", a.status)
		}
	}
	check(false)
	g.kill() // After a kill, the write-ahead log is not yet in the database file.

	known, first := filepath.Join(g.dir, "known.db"), filepath.Join(g.dir, "first.db")
	if r := g.restore(t, known).exits(0); !strings.Contains(r.out, "Kept from the former store: 8 revocations") {
		t.Errorf("the command printed %q", r.out)
	}
	g.start()
	check(false)
	// The key was enabled after the backup, but only revocations are kept: the key is disabled as
	// in the backup.
	g.send(t, "GET", "/x", "", "X-API-Key", againKey).rejected(http.StatusUnauthorized).problem("disabled_key")
	if r := g.api(t, "GET", "/v1/audit/verify", nil).want(http.StatusOK).json(); r["intact"] != true {
		t.Errorf("the chain: %v", r)
	}
	rows := g.api(t, "GET", "/v1/audit?key="+ids["revoked"], nil).want(http.StatusOK)
	if !strings.Contains(rows.body, "key.revoked") || !strings.Contains(rows.body, "(restore)") {
		t.Errorf("the audit: %s", rows.body)
	}
	g.stop()

	// The test first restores a wrong backup, which lacks some keys, and then the right one. The revocations
	// of the keys must survive both restores.
	if r := g.restore(t, first, "--json").json(); r["kept"] != 0.0 || r["unread"] != false {
		t.Errorf("restoring a backup that knows none of the keys: %v", r)
	}
	if r := g.restore(t, known, "--json").json(); r["kept"] != 8.0 {
		t.Errorf("restoring the right backup after the wrong one: %v", r)
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
	change("POST", "/v1/keys/"+ids["revoked"]+"/revoke", nil)
	g.stop()

	// An unreadable or missing store has no revocations to keep. The command must report that and name the
	// remedy.
	if err := os.WriteFile(g.database, []byte("nothing that is a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := g.restore(t, known).exits(0); !strings.Contains(r.out, "could not be read") || !strings.Contains(r.out, "accepted again") || !strings.Contains(r.out, "key revoke") {
		t.Errorf("the command printed %q", r.out)
	}
	if err := os.Remove(g.database); err != nil {
		t.Fatal(err)
	}
	if r := g.restore(t, known).exits(0); !strings.Contains(r.out, "no former store") || !strings.Contains(r.out, "accepted again") {
		t.Errorf("the command printed %q", r.out)
	}
	left, err := filepath.Glob(g.database + ".former-*")
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	g.start()
	check(true)
}
