package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
)

// staleConfig is the configuration of a gateway with two keyspaces. The keyspaces differ in how long the
// gateway accepts their keys while the database is unreachable.
const staleConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store postgres {env.DATABASE_URL} {
			replica {env.REPLICA}
		}
		node {env.NODE}
		keyspace bank {
			max_staleness 10s
			prefix bank_live_
			plan free
		}
		keyspace bulk {
			prefix bulk_live_
			plan free
		}
	}
}

{$KEYGATE_LISTEN} {
	keygate_health /readyz
	keygate_health /readyz/bank bank
	keygate_health /readyz/bulk bulk
	handle_path /bulk/* {
		keygate bulk
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
	handle {
		keygate bank
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
}
`

// TestClusterStale cuts a gateway's connection to the database for longer than one keyspace's
// max_staleness. The gateway must reject the keys of that keyspace, and still accept the keys of the
// other keyspace.
func TestClusterStale(t *testing.T) {
	t.Parallel()
	database := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, database)
	proxy := testserver.NewProxy(t, server)
	config := written(t, staleConfig)
	c := new(cluster)
	c.add(t, config, "DATABASE_URL="+at(proxy.Addr()))
	c.add(t, config, "DATABASE_URL="+database)
	st := newStreams(t)
	st.serve(c.nodes[0].upstream)
	c.start()
	c.everywhere(func(s *site) {
		s.product = product{name: "bank", prefix: "bank_live_", random: 32, checksum: 6, path: "/", plan: "free"}
		testkit.Eventually(t, "the replica of "+s.dir+" is in use", func() bool { return s.replica(t)["used"] == true })
	})
	cut, free := c.nodes[0], c.nodes[1]
	of := func(s *site) *site {
		return &site{gateway: s.gateway, product: product{name: "bulk", prefix: "bulk_live_", random: 32, checksum: 6, path: "/", plan: "free"}, mount: "/bulk"}
	}
	bank, bulk := cut, of(cut)
	free.tenant(t, "acme", nil)
	of(free).tenant(t, "acme", nil)
	steady, disabled, revoked := free.key(t, "acme", nil), free.key(t, "acme", nil), free.key(t, "acme", nil)
	bulkSteady, bulkDisabled := of(free).key(t, "acme", nil), of(free).key(t, "acme", nil)
	c.known(t, revoked)
	bulk.call(t, "GET", "/", bulkSteady.full).passed()
	live := []*live{
		bank.events(t, "events", bank.client, steady.full),
		bank.waits(t, st, "for headers", bank.client, "/wait", steady.full),
	}

	proxy.Refuse()
	for _, l := range live {
		l.continues()
	}
	// The receipt states when the gateway without a database stops using its copy. That time depends on the
	// key's keyspace.
	stops := func(receipt record) time.Duration {
		t.Helper()
		if names := pendingNodes(t, receipt); !slices.Equal(names, []string{"n0"}) {
			t.Fatalf("pending are %v", names)
		}
		by, err := time.Parse(time.RFC3339, receipt.records("pending")[0].text("stops_by"))
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(by)
	}
	if d := stops(free.post(t, disabled, "disable", record{"wait": "10ms"})); d > 30*time.Second {
		t.Errorf("the cut off gateway stops in %v", d)
	}
	if d := stops(of(free).post(t, bulkDisabled, "disable", record{"wait": "10ms"})); d < 10*time.Minute {
		t.Errorf("of the other keyspace, the cut off gateway stops in %v", d)
	}
	for _, n := range free.read(t, "/v1/status").records("nodes") {
		if own := n.object("keyspaces_stop_by"); (own["bank"] != nil) != (n.text("node") == "n0") || own["bulk"] != nil {
			t.Errorf("the status of a node is %v", n)
		}
	}

	stale := func() {
		t.Helper()
		testkit.Eventually(t, "the keys of the stale keyspace are rejected", func() bool {
			return bank.call(t, "GET", "/", steady.full).status == http.StatusServiceUnavailable
		})
		bank.call(t, "GET", "/", disabled.full).rejected(http.StatusServiceUnavailable).problem("unavailable")
		bulk.call(t, "GET", "/", bulkSteady.full).passed()
		for path, want := range map[string]int{"/readyz": 200, "/readyz/bank": 503, "/readyz/bulk": 200} {
			if got := bank.send(t, "GET", path, "").status; got != want {
				t.Errorf("%s: %d, want %d", path, got, want)
			}
		}
		status := bank.read(t, "/v1/status")
		if stale := status.list("stale_keyspaces"); len(stale) != 1 || stale[0] != "bank" || status["degraded"] != true {
			t.Errorf("the status is %v", status)
		}
	}
	stale()
	// Streams with keys of the stale keyspace end too.
	for _, l := range live {
		l.ended(st, http.StatusServiceUnavailable, "unavailable")
	}
	testkit.Eventually(t, "receipts no longer name the cut off gateway", func() bool {
		receipt := free.manage(t, "POST", "/v1/keys/"+revoked.id+"/revoke", record{"wait": "10ms"}).want(http.StatusOK).json()
		return len(receipt.list("pending")) == 0
	})

	// A restart with a longer max_staleness does not extend the time that the gateway had announced to the
	// other gateways.
	if err := os.WriteFile(config, []byte(strings.Replace(staleConfig, "max_staleness 10s", "max_staleness 1h", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	cut.restartWithoutDatabase(t)
	stale()

	proxy.Restore()
	testkit.Eventually(t, "keys of the keyspace are accepted again", func() bool { return bank.call(t, "GET", "/", steady.full).status == http.StatusOK })
	bank.call(t, "GET", "/", disabled.full).rejected(http.StatusUnauthorized).problem("disabled_key")
	bank.call(t, "GET", "/", revoked.full).rejected(http.StatusUnauthorized).problem("revoked_key")
	bulk.call(t, "GET", "/", bulkDisabled.full).rejected(http.StatusUnauthorized).problem("disabled_key")
	testkit.Eventually(t, "the gateway is ready and not stale", func() bool {
		status := bank.read(t, "/v1/status")
		return status["stale_keyspaces"] == nil && bank.send(t, "GET", "/readyz/bank", "").status == http.StatusOK
	})
}
