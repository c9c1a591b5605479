package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// offline runs `caddy keygate … --offline` with the gateway's configuration and store.
func (g *gateway) offline(t testing.TB, stdin string, args ...string) *result {
	t.Helper()
	return g.command(t, stdin, append(append([]string{"keygate"}, args...), "--offline", "--config", g.config, "--adapter", "caddyfile")...)
}

// made creates a key, and its tenant if needed. It returns the id and the full key.
func (g *gateway) made(t testing.TB, slug string) (id, full string) {
	t.Helper()
	g.api(t, "PUT", "/v1/tenants/"+slug, record{})
	k := g.api(t, "POST", "/v1/tenants/"+slug+"/keys", record{"name": "k"}).want(http.StatusCreated).json()
	g.keep(k.text("key"))
	return k.text("id"), k.text("key")
}

const offlineConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		pepper {env.PEPPER}
		accept legacy {
			prefix old_
			length 20-40
		}
		plan standard {
		}
	}
}
{$KEYGATE_LISTEN} {
	keygate_api
	handle {
		keygate
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
}
`

// With --offline, the few commands that an emergency needs open the store without a gateway. A
// gateway obeys their changes, whether it starts later or runs at the same time.
func TestOffline(t *testing.T) {
	t.Parallel()
	g := prepare(t, written(t, offlineConfig), newUpstream(t), "PEPPER=a pepper that is long enough")
	if r := g.offline(t, "", "audit", "--verify").exits(1); !strings.Contains(r.err, g.database) {
		t.Errorf("where there is no store: %s", r.err)
	}
	if _, err := os.Stat(g.database); err == nil {
		t.Fatal("audit --offline created a store")
	}
	g.start()
	id, full := g.made(t, "acme")
	other, otherFull := g.made(t, "acme")
	_, third := g.made(t, "acme")
	for _, key := range []string{full, otherFull, third} {
		g.send(t, "GET", "/x", "", "X-API-Key", key).passed()
	}
	g.stop()

	token := g.offline(t, "", "token", "create", "--name", "rescue", "--scope", "*", "--json").json()
	g.keep(token.text("token"))
	r := g.offline(t, "", "key", "revoke", id).exits(0)
	if !strings.Contains(r.out, "revoked") || !strings.Contains(r.err, g.database) {
		t.Errorf("revoked: %q, %q", r.out, r.err)
	}
	g.offline(t, "", "key", "revoke", "key_unknown").exits(1)
	imported := "old_0123456789abcdefghij"
	g.keep(imported)
	g.offline(t, "tenant,key\nbee,"+imported+"\n", "key", "import", "--create-tenants").exits(0)
	if r := g.offline(t, "", "key", "export", "--format", "jsonl").exits(0); strings.Count(r.out, "\n") != 4 {
		t.Errorf("exported:\n%s", r.out)
	}
	if r := g.offline(t, "", "audit", "--verify", "--json").json(); r["intact"] != true {
		t.Errorf("the chain: %v", r)
	}
	if r := g.offline(t, "", "audit", "--json", "--key", id, "--limit", "1", "--actor", "night watch").json().records("data"); len(r) != 1 || r[0]["via"] != "cli" || r[0]["action"] != "key.revoked" {
		t.Errorf("the event: %v", r)
	}

	g.start()
	bearer := "Bearer " + token.text("token")
	g.send(t, "GET", "/x", "", "X-API-Key", full).rejected(http.StatusUnauthorized).problem("revoked_key")
	g.send(t, "GET", "/x", "", "X-API-Key", otherFull).passed()
	g.send(t, "GET", "/x", "", "X-API-Key", imported).passed()
	g.send(t, "GET", "/v1/keys", "", "Authorization", bearer).want(http.StatusOK)

	// The running gateway has the key in memory and still rejects it soon.
	g.offline(t, "", "key", "revoke", other).exits(0)
	testkit.Eventually(t, "the running gateway rejects the revoked key", func() bool {
		return g.send(t, "GET", "/x", "", "X-API-Key", otherFull).status == http.StatusUnauthorized
	})
	g.send(t, "GET", "/x", "", "X-API-Key", third).passed()
	if r := g.api(t, "GET", "/v1/audit/verify", nil).want(http.StatusOK).json(); r["intact"] != true {
		t.Errorf("the chain of both: %v", r)
	}
}

// Commands without offline mode say so, and a wrong pepper or a wrong file changes nothing.
func TestOfflineRejected(t *testing.T) {
	t.Parallel()
	g := prepare(t, written(t, offlineConfig), newUpstream(t), "PEPPER=a pepper that is long enough")
	g.start()
	id, full := g.made(t, "acme")
	g.stop()
	for name, args := range map[string][]string{
		"another command": {"key", "list"},
		"a verb of keys":  {"key", "disable", id},
		"status":          {"status"},
		"an address":      {"key", "revoke", id, "--address", g.adminAddr},
		"a server":        {"key", "revoke", id, "--server", "https://keys.example.com"},
	} {
		r := g.offline(t, "", args...).exits(2)
		if name == "another command" && !strings.Contains(r.err, "key revoke") {
			t.Errorf("the error does not name the commands with --offline: %s", r.err)
		}
	}
	g.command(t, "", "keygate", "key", "revoke", id, "--offline").exits(2)

	env := g.env
	g.env = append(env[:len(env):len(env)], "PEPPER=another pepper, long enough too")
	if r := g.offline(t, "", "key", "revoke", id).exits(1); !strings.Contains(r.err, "pepper") {
		t.Errorf("another pepper: %s", r.err)
	}
	g.env = append(env[:len(env):len(env)], "PEPPER=")
	if r := g.offline(t, "", "key", "revoke", id).exits(1); !strings.Contains(r.err, "PEPPER") {
		t.Errorf("no pepper: %s", r.err)
	}
	notOurs := filepath.Join(g.dir, "other.db")
	if err := os.WriteFile(notOurs, []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	g.env = append(env[:len(env):len(env)], "KEYGATE_DB="+notOurs)
	if r := g.offline(t, "", "key", "revoke", id).exits(1); !strings.Contains(r.err, notOurs) {
		t.Errorf("no database: %s", r.err)
	}
	g.env = env
	g.start()
	g.send(t, "GET", "/x", "", "X-API-Key", full).passed()
}
