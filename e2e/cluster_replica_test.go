package e2e

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
)

// replicaConfig is of gateways that each have a copy of their database, and count and tell each other
// through a Redis.
const replicaConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store postgres {env.DATABASE_URL} {
			replica {env.REPLICA}
		}
		limits redis {env.REDIS_URL} {
			timeout 10s
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

// startReplicas runs n gateways with replicas, each with a network of its own to Redis.
func startReplicas(t testing.TB, n int, database string) *cluster {
	t.Helper()
	c := prepareReplicas(t, n, database, replicaConfig)
	c.startReplicas(t)
	return c
}

// prepareReplicas lays out n gateways with replicas on a configuration, without starting them.
func prepareReplicas(t testing.TB, n int, database, configuration string) *cluster {
	t.Helper()
	c := new(cluster)
	config := written(t, configuration)
	redis, err := url.Parse(testserver.RedisURL(t))
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		p := testserver.NewProxy(t, redis.Host)
		c.proxies = append(c.proxies, p)
		c.add(t, config, "DATABASE_URL="+database, "REDIS_URL=redis://"+p.Addr()+redis.Path)
	}
	return c
}

// startReplicas starts the gateways and waits until each uses its replica.
func (c *cluster) startReplicas(t testing.TB) {
	t.Helper()
	c.start()
	c.everywhere(func(s *site) {
		testkit.Eventually(t, "the replica of "+s.dir+" is made", func() bool { return s.replica(t)["used"] == true })
	})
}

// store returns what status says of the store, replica what it says of the copy.
func (s *site) store(t testing.TB) record {
	t.Helper()
	return s.read(t, "/v1/status").object("store")
}

func (s *site) replica(t testing.TB) record { t.Helper(); return s.store(t).object("replica") }

// ready reports whether the gateway accepts keys at all.
func (s *site) ready() bool {
	resp, err := s.client.Get(s.site + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// restartAway restarts a gateway whose database is away.
func (s *site) restartAway(t testing.TB) {
	t.Helper()
	s.stop()
	s.launch()
	testkit.Eventually(t, "it judges keys", s.ready)
	testkit.Eventually(t, "it is managed", func() bool { return s.manage(t, "GET", "/v1/status", nil).status == http.StatusOK })
}

// refusedSoon waits until every gateway refuses a key for a reason.
func (c *cluster) refusedSoon(t testing.TB, k key, reason string) {
	t.Helper()
	c.everywhere(func(s *site) {
		testkit.Eventually(t, s.dir+" says "+reason, func() bool {
			got := s.call(t, "GET", "/", k.full)
			return got.status != http.StatusOK && got.json().text("code") == reason
		})
	})
}

// passes sends a request of a key to every gateway, which must let it pass.
func (c *cluster) passes(t testing.TB, k key) {
	t.Helper()
	c.everywhere(func(s *site) { s.call(t, "GET", "/", k.full).passed() })
}

// away refuses a key by a verb while the database is away.
func (s *site) away(t testing.TB, k key, verb string) {
	t.Helper()
	receipt := s.manage(t, "POST", "/v1/keys/"+k.id+"/"+verb, nil).want(http.StatusAccepted).json()
	if receipt["durable"] != false {
		t.Errorf("%s: the receipt %v", verb, receipt)
	}
	s.call(t, "GET", "/", k.full).refused(http.StatusUnauthorized)
}

func TestReplicasWithoutPostgres(t *testing.T) {
	t.Parallel()
	for _, down := range []struct {
		name       string
		away, back func(*testserver.Postgres)
	}{
		{"killed", (*testserver.Postgres).Kill, (*testserver.Postgres).Start},
		{"stopped", (*testserver.Postgres).Pause, (*testserver.Postgres).Resume},
	} {
		t.Run(down.name, func(t *testing.T) {
			t.Parallel()
			pg := testserver.NewPostgres(t)
			c := startReplicas(t, 3, pg.URL())
			a, b, d := c.nodes[0], c.nodes[1], c.nodes[2]
			a.tenant(t, "acme", nil)
			a.tenant(t, "other", nil)
			steady, revoked, disabled, unused := a.key(t, "acme", nil), a.key(t, "acme", nil), a.key(t, "acme", nil), a.key(t, "acme", nil)
			deleted, suspended := a.key(t, "acme", nil), a.key(t, "other", nil)
			c.passes(t, revoked)
			load := make([]*traffic, len(c.nodes))
			for i, s := range c.nodes {
				load[i] = s.traffic(1, 10*time.Millisecond, &caller{name: "n" + strconv.Itoa(i), key: steady.full, want: http.StatusOK})
			}

			// Another connection to Redis takes the place of the one that the store was opened with.
			b.reload(t, strings.ReplaceAll(replicaConfig, "{env.REDIS_URL}", "{env.REDIS_URL}?client_name=another"))
			down.away(pg)
			a.away(t, revoked, "revoke")
			c.refusedSoon(t, revoked, "revoked_key")
			c.everywhere(func(s *site) {
				s.manage(t, "POST", "/v1/tenants/acme/keys", record{"name": "x"}).want(http.StatusServiceUnavailable).problem("store_unavailable")
			})
			a.manage(t, "POST", "/v1/keys/"+revoked.id+"/enable", nil).want(http.StatusServiceUnavailable).problem("store_unavailable")
			for _, s := range c.nodes {
				testkit.Eventually(t, "status says what is pending", func() bool {
					store := s.store(t)
					return store["ok"] == false && store.text("error") != "" && store.object("replica")["pending"] == 1.0
				})
			}

			// A gateway that is restarted while the database is away goes on where it was.
			load[2].stop(t)
			d.restartAway(t)
			load[2] = d.traffic(1, 10*time.Millisecond, &caller{name: "n2, restarted", key: steady.full, want: http.StatusOK})
			d.call(t, "GET", "/", revoked.full).refused(http.StatusUnauthorized).problem("revoked_key")
			c.passes(t, unused)
			// One that is cut off from Redis too hears of it when it is there again.
			c.proxies[1].Refuse()
			d.away(t, disabled, "disable")
			b.call(t, "GET", "/", disabled.full).passed()
			c.proxies[1].Restore()
			c.refusedSoon(t, disabled, "disabled_key")
			b.manage(t, "DELETE", "/v1/keys/"+deleted.id, nil).want(http.StatusAccepted)
			if said := b.keygate(t, "tenant", "suspend", "other").exits(1).err; !strings.Contains(said, "other is suspended on n1") || !strings.Contains(said, "not stored yet") {
				t.Errorf("suspending a tenant: %s", said)
			}
			c.refusedSoon(t, suspended, "tenant_inactive")

			down.back(pg)
			c.everywhere(func(s *site) {
				testkit.Eventually(t, "everything is written", func() bool {
					store := s.store(t)
					return store["ok"] == true && store.object("replica")["pending"] == 0.0
				})
			})
			for _, tr := range load {
				if tr.stop(t) == 0 {
					t.Error("nothing was sent meanwhile")
				}
			}
			c.refusedSoon(t, revoked, "revoked_key")
			c.refusedSoon(t, disabled, "disabled_key")
			c.refusedSoon(t, suspended, "tenant_inactive")
			c.refusedSoon(t, deleted, "invalid_key")
			inDatabase(t, pg, revoked.id, disabled.id, deleted.id)
			for id, action := range map[string]string{revoked.id: "key.revoked", disabled.id: "key.disabled", deleted.id: "key.deleted"} {
				var actions []string
				for _, e := range a.read(t, "/v1/audit?key="+id).records("data") {
					actions = append(actions, e.text("action"))
				}
				if !slices.Equal(actions, []string{action, "key.created"}) {
					t.Errorf("events of %s: %v", action, actions)
				}
			}

			// That the database is away is said when it begins, and not over and over.
			c.everywhere(func(s *site) {
				log := s.log()
				for _, said := range []string{"the store does not answer", "the database does not answer", "cannot be opened; trying again"} {
					if n := strings.Count(log, said); n > 5 {
						t.Errorf("%s says %d times that %s", s.dir, n, said)
					}
				}
			})

			// It is as ever: what was refused can be let in again, and stays so, and receipts say who has confirmed.
			testkit.Eventually(t, "every gateway confirms", func() bool {
				r := b.manage(t, "POST", "/v1/keys/"+disabled.id+"/enable", record{"wait": "1m"})
				return r.status == http.StatusOK && len(r.json().list("confirmed")) == 3
			})
			c.passes(t, disabled)
			receipt := a.post(t, unused, "revoke", record{"wait": "1m"})
			if len(pendingNodes(t, receipt)) != 0 || len(receipt.list("confirmed")) != 3 || receipt["durable"] != true {
				t.Errorf("the receipt afterwards: %v", receipt)
			}
			c.refusedSoon(t, unused, "revoked_key")
			d.restart()
			c.passes(t, disabled)
		})
	}
}

// inDatabase looks into the database itself for what was refused.
func inDatabase(t *testing.T, pg *testserver.Postgres, revoked, disabled, deleted string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for id, cond := range map[string]string{revoked: "revoked_at IS NOT NULL", disabled: "disabled <> 0", deleted: "deleted_at IS NOT NULL"} {
		var n int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM keys WHERE id = $1 AND "+cond, id).Scan(&n); err != nil || n != 1 {
			t.Errorf("%s is not written (%v)", cond, err)
		}
	}
}

// object returns a field that is an object; an empty one where it is none.
func (r record) object(name string) record {
	o, _ := r[name].(map[string]any)
	return o
}
