package e2e

import (
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
)

// clusterConfig returns the configuration of a gateway that shares its database. The text options is
// inserted into the keygate block.
func clusterConfig(options string) string {
	return `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store postgres {env.DATABASE_URL}
		node {env.NODE}
` + options + `
	}
}

{$KEYGATE_LISTEN} {
	keygate_health /readyz
	keygate
	reverse_proxy {$KEYGATE_UPSTREAM}
}
`
}

// cluster is several gateways on one PostgreSQL database. Each gateway has its own proxy to the
// database.
type cluster struct {
	nodes   []*site
	proxies []*testserver.Proxy
}

// startCluster starts n gateways. The function url returns the URL of the database at a given address of
// the server.
func startCluster(t testing.TB, n int, server string, url func(addr string) string, options string) *cluster {
	t.Helper()
	c := new(cluster)
	config := written(t, clusterConfig(options))
	for range n {
		p := testserver.NewProxy(t, server)
		c.proxies = append(c.proxies, p)
		c.add(t, config, "DATABASE_URL="+url(p.Addr()))
	}
	c.start()
	return c
}

// add prepares another gateway with a path for a replica, but does not start it.
func (c *cluster) add(t testing.TB, config string, env ...string) {
	t.Helper()
	g := prepare(t, config, newUpstream(t), append(env, "NODE=n"+strconv.Itoa(len(c.nodes)))...)
	g.env = append(g.env, "REPLICA="+filepath.Join(g.dir, "replica.db"))
	c.nodes = append(c.nodes, &site{gateway: g, product: plain})
}

// start starts all gateways at once. The gateway that reaches the database first creates the tables.
func (c *cluster) start() {
	var all sync.WaitGroup
	for _, node := range c.nodes {
		all.Go(node.start)
	}
	all.Wait()
}

// shared starts n gateways on a new database of the PostgreSQL server that all tests share.
func shared(t testing.TB, n int, options string) *cluster {
	t.Helper()
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	return startCluster(t, n, server, at, options)
}

// everywhere calls f with each gateway.
func (c *cluster) everywhere(f func(s *site)) {
	for _, s := range c.nodes {
		f(s)
	}
}

// known waits until every gateway accepts the key, and returns how many requests were accepted.
func (c *cluster) known(t testing.TB, k key) (requests int64) {
	t.Helper()
	c.everywhere(func(s *site) {
		testkit.Eventually(t, "the key is known to "+s.dir, func() bool { return s.call(t, "GET", "/", k.full).status == http.StatusOK })
		requests++
	})
	return requests
}

// pendingNodes returns the nodes that have not confirmed a change according to its receipt.
func pendingNodes(t testing.TB, receipt record) (names []string) {
	t.Helper()
	for _, p := range receipt.records("pending") {
		names = append(names, p.text("node"))
		if stops, err := time.Parse(time.RFC3339, p.text("stops_by")); err != nil || time.Until(stops) <= 0 {
			t.Errorf("a pending node stops by %v: %v", p["stops_by"], err)
		}
	}
	return names
}

func TestClusterRevokes(t *testing.T) {
	t.Parallel()
	c := shared(t, 3, "plan free")
	a, b, d := c.nodes[0], c.nodes[1], c.nodes[2]
	a.tenant(t, "acme", nil)

	// The test uses another key on every gateway all the time. No gateway may ever reject that key.
	steady := a.key(t, "acme", nil)
	c.known(t, steady)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var served atomic.Int64
	c.everywhere(func(s *site) {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got := s.call(t, "GET", "/", steady.full).status; got != http.StatusOK {
					t.Errorf("a request with an unchanged key was answered %d", got)
					return
				}
				served.Add(1)
			}
		})
	})

	for i := range 6 {
		k := c.nodes[i%3].key(t, "acme", nil)
		c.known(t, k)
		if i >= 3 {
			// The revocation must reach the gateways although the test has just cut a connection.
			c.proxies[i%3].Cut()
		}
		receipt := c.nodes[(i+1)%3].post(t, k, "revoke", record{"wait": "1m"})
		if pending := pendingNodes(t, receipt); len(pending) > 0 || len(receipt.list("confirmed")) != 3 || receipt["durable"] != true {
			t.Fatalf("the receipt of revocation %d: %v", i, receipt)
		}
		c.everywhere(func(s *site) { s.call(t, "GET", "/", k.full).rejected(http.StatusUnauthorized).problem("revoked_key") })
	}

	// The receipt names a gateway that can't be reached. That gateway applies the revocation once it is
	// reachable.
	k := a.key(t, "acme", nil)
	c.known(t, k)
	c.proxies[2].Refuse()
	// Three seconds are enough for the reachable gateways to confirm, even on a busy machine.
	receipt := a.post(t, k, "revoke", record{"wait": "3s"})
	if pending := pendingNodes(t, receipt); !slices.Equal(pending, []string{"n2"}) {
		t.Errorf("with n2 cut off: %v", receipt)
	}
	a.call(t, "GET", "/", k.full).rejected(http.StatusUnauthorized)
	c.proxies[2].Restore()
	testkit.Eventually(t, "n2 rejects the key", func() bool { return d.call(t, "GET", "/", k.full).status == http.StatusUnauthorized })
	// n2 applies the revocation before it reports to the store, and a receipt does not wait for a node that has not reported.
	testkit.Eventually(t, "n2 has confirmed the revocation", func() bool { return len(pendingNodes(t, b.post(t, k, "revoke", nil))) == 0 })

	close(stop)
	load.Wait()
	if served.Load() == 0 {
		t.Error("no request was served meanwhile")
	}

	// Running gateways apply a revocation that the command `key revoke --offline` wrote to the database.
	k = a.key(t, "acme", nil)
	c.known(t, k)
	a.offline(t, "", "key", "revoke", k.id).exits(0)
	c.everywhere(func(s *site) {
		testkit.Eventually(t, "a key that was revoked offline is rejected", func() bool { return s.call(t, "GET", "/", k.full).status == http.StatusUnauthorized })
	})

	// Receipts do not wait for a gateway that was stopped cleanly. Receipts name a gateway that was killed
	// until an operator removes it with `status --forget`.
	b.stop()
	k = a.key(t, "acme", nil)
	if receipt := a.post(t, k, "disable", record{"wait": "1m"}); len(receipt.list("confirmed")) != 2 || len(pendingNodes(t, receipt)) != 0 {
		t.Errorf("after n1 was stopped: %v", receipt)
	}
	d.kill()
	a.keygate(t, "status", "--forget", "n1").exits(1)
	if receipt := a.post(t, k, "enable", record{"wait": "10ms"}); !slices.Equal(pendingNodes(t, receipt), []string{"n2"}) {
		t.Errorf("after n2 was killed: %v", receipt)
	}
	a.keygate(t, "key", "revoke", k.id, "--wait", "10ms").exits(1)
	// Every other command that revokes or suspends names the killed gateway too.
	unused := a.key(t, "acme", nil)
	for _, command := range [][]string{{"tenant", "suspend", "acme"}, {"tenant", "suspend", "acme"}, {"tenant", "activate", "acme"},
		{"key", "rotate", unused.id}, {"key", "delete", unused.id}} {
		if said := a.keygate(t, command...).exits(1).err; !strings.Contains(said, "n2 has not confirmed (it stops by ") {
			t.Errorf("%v: %s", command, said)
		}
	}
	testkit.Eventually(t, "n2 can be forgotten", func() bool { return a.keygate(t, "status", "--forget", "n2").code == 0 })
	a.keygate(t, "key", "revoke", k.id).exits(0)
	if last := a.manage(t, "GET", "/v1/audit", nil).json().records("data")[0]; last.text("action") != "node.forgotten" || last.text("target") != "n2" {
		t.Errorf("the last event is %v", last)
	}
}

// TestClusterCounts checks that the usage that several gateways count adds up to the requests that were
// sent. All gateways spend one balance of credits, and each credit must be spent only once.
func TestClusterCounts(t *testing.T) {
	t.Parallel()
	const credits = 40
	c := shared(t, 3, `plan free
		plan paid {
			credits
		}
		default_plan free`)
	a := c.nodes[0]
	a.tenant(t, "acme", nil)
	k := a.key(t, "acme", nil)
	var sent atomic.Int64
	sent.Add(c.known(t, k))
	var all sync.WaitGroup
	c.everywhere(func(s *site) {
		all.Go(func() {
			for range 30 {
				s.call(t, "GET", "/", k.full).passed()
				sent.Add(1)
			}
		})
	})
	all.Wait()
	testkit.Eventually(t, "every request is counted", func() bool { return countOf(t, c, k) == sent.Load() })
	if used := c.nodes[1].read(t, "/v1/keys/"+k.id); used["last_used_at"] == nil {
		t.Errorf("last use: %v", used)
	}

	a.tenant(t, "rich", record{"plan": "paid"})
	a.manage(t, "POST", "/v1/tenants/rich/credits", record{"add": credits}).want(http.StatusOK)
	spender := a.key(t, "rich", nil)
	var allowed atomic.Int64
	c.everywhere(func(s *site) {
		all.Go(func() {
			// A gateway may find the balance empty while another gateway holds leased credits. The other gateway must
			// then return its credits.
			for deadline := time.Now().Add(patience); allowed.Load() < credits && time.Now().Before(deadline); {
				switch got := s.call(t, "GET", "/", spender.full); got.status {
				case http.StatusOK:
					allowed.Add(1)
				case http.StatusPaymentRequired:
					time.Sleep(10 * time.Millisecond)
				case http.StatusServiceUnavailable: // On a busy machine, the database may not lease credits in time. Then nothing is charged.
				case http.StatusUnauthorized: // A gateway may still reject the key as unknown, because another gateway created the key a moment ago.
				default:
					t.Errorf("%d %s", got.status, got.body)
					return
				}
			}
		})
	})
	all.Wait()
	c.everywhere(func(s *site) { s.call(t, "GET", "/", spender.full).rejected(http.StatusPaymentRequired) })
	if allowed.Load() != credits {
		t.Errorf("%d requests were paid for with %d credits", allowed.Load(), credits)
	}
	testkit.Eventually(t, "the balance is 0", func() bool { return c.nodes[2].balance(t, "rich") == 0 })

	// If the balance is near zero, no gateway may hold unused leased credits. Each gateway must be able to
	// spend the rest of the balance.
	a.tenant(t, "poor", record{"plan": "paid"})
	last := a.key(t, "poor", nil)
	c.everywhere(func(s *site) {
		testkit.Eventually(t, "the key is known to "+s.dir, func() bool { return s.call(t, "GET", "/", last.full).status == http.StatusPaymentRequired })
	})
	a.manage(t, "POST", "/v1/tenants/poor/credits", record{"add": credits}).want(http.StatusOK)
	for i := range credits {
		s := c.nodes[i%len(c.nodes)]
		if i < len(c.nodes) {
			testkit.Eventually(t, s.dir+" has received the credits", func() bool { return s.call(t, "GET", "/", last.full).status == http.StatusOK })
			continue
		}
		s.call(t, "GET", "/", last.full).passed()
	}
	c.everywhere(func(s *site) { s.call(t, "GET", "/", last.full).rejected(http.StatusPaymentRequired) })
}

// countOf returns how many requests of a key the usage report counts.
func countOf(t testing.TB, c *cluster, k key) int64 {
	t.Helper()
	return sum(t, c.nodes[1].read(t, "/v1/keys/"+k.id+"/usage")).requests
}

func TestClusterWithoutPostgres(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	c := startCluster(t, 2, pg.Addr(), pg.URLAt, "plan free")
	a, b := c.nodes[0], c.nodes[1]
	a.tenant(t, "acme", nil)
	k := a.key(t, "acme", nil)
	c.known(t, k)
	for _, down := range []struct {
		name        string
		stop, start func()
	}{
		{"killed", pg.Kill, pg.Start},
		{"stopped", pg.Pause, pg.Resume},
	} {
		down.stop()
		for range 20 {
			c.everywhere(func(s *site) { s.call(t, "GET", "/", k.full).passed() })
		}
		a.manage(t, "POST", "/v1/keys/"+k.id+"/revoke", nil).want(http.StatusServiceUnavailable).problem("store_unavailable")
		unknown := plain.unknown()
		testkit.Eventually(t, down.name+": an unknown key is answered 503", func() bool {
			return b.call(t, "GET", "/", unknown).status == http.StatusServiceUnavailable
		})
		c.everywhere(func(s *site) { s.call(t, "GET", "/", k.full).passed() })
		down.start()
		testkit.Eventually(t, down.name+": an unknown key is answered 401 again", func() bool {
			return b.call(t, "GET", "/", unknown).status == http.StatusUnauthorized
		})
		var made *answer
		testkit.Eventually(t, down.name+": keys can be created again", func() bool {
			made = a.manage(t, "POST", "/v1/tenants/acme/keys", record{"name": "after"})
			return made.status == http.StatusCreated
		})
		c.known(t, a.made(t, made.json()))
	}
	// A gateway that starts while the database is unreachable answers 503. It checks keys once the database
	// is back.
	b.stop()
	pg.Kill()
	b.launch()
	testkit.Eventually(t, "the gateway answers 503", func() bool {
		resp, err := http.Get(b.site + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	b.call(t, "GET", "/", k.full).rejected(http.StatusServiceUnavailable)
	pg.Start()
	c.known(t, k)
}
