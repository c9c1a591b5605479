//go:build upgrade

package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
)

// A gateway of the former version and one of this version work together on one PostgreSQL and one
// Redis. The environment variable OLD names the binary of the former version.
func TestRollingUpgrade(t *testing.T) {
	old := os.Getenv("OLD")
	if old == "" {
		t.Fatal("OLD must name the binary of the former version")
	}
	pg := testserver.NewPostgres(t)
	config := strings.Replace(replicaConfig, "plan free", "plan free {\n\t\t\trate 40/d\n\t\t}", 1)
	c := prepareReplicas(t, 2, pg.URL(), config)
	before, now := c.nodes[0], c.nodes[1]
	before.program = old
	c.startReplicas(t)

	before.tenant(t, "acme", nil)
	create := func(s *site) key { t.Helper(); return s.key(t, "acme", nil) }
	limited, steady := create(before), create(now)
	c.passes(t, steady)

	// Each node confirms the other's revocations before the call returns.
	for _, s := range c.nodes {
		k := create(s)
		c.known(t, k)
		receipt := s.post(t, k, "revoke", record{"wait": "1m"})
		if len(receipt.list("confirmed")) != 2 || len(pendingNodes(t, receipt)) != 0 {
			t.Errorf("the receipt of a revocation on %s: %v", s.dir, receipt)
		}
		c.everywhere(func(s *site) { s.call(t, "GET", "/", k.full).rejected(http.StatusUnauthorized).problem("revoked_key") })
	}

	// Both gateways count the key's rate together.
	passed := 0
	for range 25 {
		c.everywhere(func(s *site) {
			if s.call(t, "GET", "/", limited.full).status == http.StatusOK {
				passed++
			}
		})
	}
	if passed != 40 {
		t.Errorf("%d requests passed on both, want 40", passed)
	}

	// Without the database, a revocation reaches the other node through Redis.
	offline := map[*site]key{before: create(before), now: create(now)}
	for _, k := range offline {
		c.passes(t, k)
	}
	pg.Kill()
	for s, k := range offline {
		s.revokeWithoutDatabase(t, k, "revoke")
		c.eventuallyRejects(t, k, "revoked_key")
	}
	pg.Start()
	c.everywhere(func(s *site) {
		testkit.Eventually(t, "the revocations are in the database", func() bool {
			store := s.store(t)
			return store["ok"] == true && store.object("replica")["pending"] == 0.0
		})
	})
	for s, k := range offline {
		c.eventuallyRejects(t, k, "revoked_key")
		if got := s.read(t, "/v1/audit?key="+k.id).records("data"); len(got) != 2 || got[0].text("action") != "key.revoked" {
			t.Errorf("audit events of a key revoked on %s: %v", s.dir, got)
		}
	}

	// The gateway of the former version is upgraded too, and takes over the files of that version.
	before.stop()
	before.program = ""
	before.start()
	for _, k := range offline {
		before.call(t, "GET", "/", k.full).rejected(http.StatusUnauthorized).problem("revoked_key")
	}
	c.passes(t, steady)
}
