package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
)

// rotatedConfig is a configuration that reads the address of the database from a file. The environment
// of a running process can't change, so a new password without a restart needs a file.
const rotatedConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store postgres {file.{$DATABASE_FILE}} {
			{$STORE_OPTIONS}
		}
		node {env.NODE}
		plan free
	}
}

{$KEYGATE_LISTEN} {
	keygate_health /readyz
	keygate
	reverse_proxy {$KEYGATE_UPSTREAM}
}
`

// rotated is two gateways that read the database's address from a file. One gateway has a replica. A
// second engine could not open the replica's file. The other gateway has no replica and looks up keys in
// the database.
type rotated struct {
	*cluster
	file string
}

func startRotated(t *testing.T, address string) *rotated {
	t.Helper()
	r := &rotated{cluster: new(cluster), file: filepath.Join(t.TempDir(), "database")}
	r.write(t, address)
	config := written(t, rotatedConfig)
	r.add(t, config, "DATABASE_FILE="+r.file, "STORE_OPTIONS=max_staleness 1h")
	r.add(t, config, "DATABASE_FILE="+r.file, "STORE_OPTIONS=replica {env.REPLICA}")
	r.start()
	testkit.Eventually(t, "the replica is in use", func() bool { return r.nodes[1].replica(t)["used"] == true })
	return r
}

// write writes an address and a line break into the file, as editors and orchestrators do.
func (r *rotated) write(t *testing.T, address string) {
	t.Helper()
	if err := os.WriteFile(r.file, []byte(address+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rejectsReload checks that each gateway rejects a reload with the address, and that the answer names the
// reasons.
func (r *rotated) rejectsReload(t *testing.T, address string, reasons ...string) {
	t.Helper()
	r.write(t, address)
	r.everywhere(func(s *site) {
		said := s.load(t, rotatedConfig).want(http.StatusBadRequest).json().text("error")
		for _, reason := range append(reasons, "nothing was changed") {
			if !strings.Contains(said, reason) {
				t.Errorf("%s does not say %q: %s", s.dir, reason, said)
			}
		}
		if strings.Contains(said, "tulip") {
			t.Errorf("the answer contains a password: %s", said)
		}
	})
}

// reloads checks that each gateway accepts a reload with the given address of the database.
func (r *rotated) reloads(t *testing.T, address string) {
	t.Helper()
	r.write(t, address)
	r.everywhere(func(s *site) { s.reload(t, rotatedConfig) })
}

// TestClusterRotatesPassword changes the password, then the user, and then the host of the database under
// load, and checks that no request fails.
func TestClusterRotatesPassword(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	proxy := testserver.NewProxy(t, pg.Addr())
	address := pg.Login("gate", "tulip-1")
	r := startRotated(t, address)
	a, b := r.nodes[0], r.nodes[1]
	a.tenant(t, "acme", nil)
	steady := a.key(t, "acme", nil)
	r.known(t, steady)
	// A gateway without a replica must look up new keys in the database. Each step of the test uses some of
	// the keys.
	fresh := make(chan key, 24)
	for range cap(fresh) {
		fresh <- a.key(t, "acme", nil)
	}
	load := []*traffic{
		a.traffic(2, 20*time.Millisecond, &caller{name: "without a replica", key: steady.full, want: http.StatusOK}),
		b.traffic(2, 20*time.Millisecond, &caller{name: "with a replica", key: steady.full, want: http.StatusOK}),
	}
	// works checks that look-ups and changes succeed, and that both gateways receive changes.
	works := func(step string) {
		t.Helper()
		done := make(chan *answer)
		for range 4 {
			go func() { k := <-fresh; done <- b.call(t, "GET", "/", k.full) }()
			go func() { k := <-fresh; done <- a.call(t, "GET", "/", k.full) }()
		}
		for range 8 {
			if got := <-done; got.status != http.StatusOK {
				t.Errorf("%s: a key that was not used before: %d %s", step, got.status, got.body)
			}
		}
		testkit.Eventually(t, step+": both confirm a revocation", func() bool {
			receipt := b.post(t, a.key(t, "acme", nil), "revoke", record{"wait": "1m"})
			return receipt["durable"] == true && len(receipt.list("confirmed")) == 2
		})
	}

	pg.Exec("ALTER ROLE gate PASSWORD 'tulip-2'")
	works("the password has changed, and the gateways do not know it yet")
	r.rejectsReload(t, strings.Replace(address, "tulip-1", "tulip-0", 1), `password authentication failed for user "gate"`)
	r.reloads(t, strings.Replace(address, "tulip-1", "tulip-2", 1))
	works("with the new password")

	r.reloads(t, strings.Replace(pg.Login("gate2", "tulip-3", "gate"), pg.Addr(), strings.Replace(proxy.Addr(), "127.0.0.1", "localhost", 1), 1))
	works("as another user at another host")
	pg.Exec("ALTER ROLE gate NOLOGIN")
	testkit.Eventually(t, "the former user's connections end", func() bool {
		var n int
		pg.Query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'gate'", &n)
		return n == 0
	})
	for _, tr := range load {
		tr.stop(t)
	}
	r.everywhere(func(s *site) {
		if store := s.store(t); store["ok"] != true {
			t.Errorf("%s: the store is %v", s.dir, store)
		}
		if strings.Contains(s.log(), "tulip") {
			t.Errorf("%s: the log contains a password", s.dir)
		}
	})
	if nodes := a.read(t, "/v1/status").records("nodes"); len(nodes) != 2 {
		t.Errorf("the gateways are %v", nodes)
	}
}
