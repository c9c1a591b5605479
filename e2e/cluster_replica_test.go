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

// replicaConfig is the configuration of gateways with replicas of the database. They count limits
// and publish revocations through Redis.
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

// startReplicas starts n gateways with replicas. Each gateway has its own proxy to Redis, whose
// connections a test can cut.
func startReplicas(t testing.TB, n int, database string) *cluster {
	t.Helper()
	c := prepareReplicas(t, n, database, replicaConfig)
	c.startReplicas(t)
	return c
}

// prepareReplicas prepares n gateways with replicas for a configuration, without starting them.
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

// startReplicas starts the gateways and waits until each gateway uses its replica.
func (c *cluster) startReplicas(t testing.TB) {
	t.Helper()
	c.start()
	c.everywhere(func(s *site) {
		testkit.Eventually(t, "the replica of "+s.dir+" is in use", func() bool { return s.replica(t)["used"] == true })
	})
}

// store returns the status of the gateway's store, which includes the status of its replica.
func (s *site) store(t testing.TB) record {
	t.Helper()
	return s.read(t, "/v1/status").object("store")
}

func (s *site) replica(t testing.TB) record { t.Helper(); return s.store(t).object("replica") }

// ready reports whether the gateway's readiness check succeeds: the gateway can check keys.
func (s *site) ready() bool {
	resp, err := s.client.Get(s.site + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// restartWithoutDatabase restarts a gateway while its database is unreachable.
func (s *site) restartWithoutDatabase(t testing.TB) {
	t.Helper()
	s.stop()
	s.launch()
	testkit.Eventually(t, "the gateway can check keys", s.ready)
	testkit.Eventually(t, "the management API answers", func() bool { return s.manage(t, "GET", "/v1/status", nil).status == http.StatusOK })
}

// eventuallyRejects waits until every gateway rejects the key with the given reason.
func (c *cluster) eventuallyRejects(t testing.TB, k key, reason string) {
	t.Helper()
	c.everywhere(func(s *site) {
		testkit.Eventually(t, s.dir+" rejects the key with "+reason, func() bool {
			got := s.call(t, "GET", "/", k.full)
			return got.status != http.StatusOK && got.json().text("code") == reason
		})
	})
}

// passes checks that every gateway lets a request with the key pass.
func (c *cluster) passes(t testing.TB, k key) {
	t.Helper()
	c.everywhere(func(s *site) { s.call(t, "GET", "/", k.full).passed() })
}

// revokeWithoutDatabase revokes or disables a key while the database is unreachable. The receipt must
// state that the change is not durable yet.
func (s *site) revokeWithoutDatabase(t testing.TB, k key, verb string) {
	t.Helper()
	receipt := s.manage(t, "POST", "/v1/keys/"+k.id+"/"+verb, nil).want(http.StatusAccepted).json()
	if receipt["durable"] != false {
		t.Errorf("%s: the receipt %v", verb, receipt)
	}
	s.call(t, "GET", "/", k.full).rejected(http.StatusUnauthorized)
}

func TestReplicasWithoutPostgres(t *testing.T) {
	t.Parallel()
	for _, down := range []struct {
		name        string
		stop, start func(*testserver.Postgres)
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
				load[i] = s.traffic(1, 20*time.Millisecond, &caller{name: "n" + strconv.Itoa(i), key: steady.full, want: http.StatusOK})
			}

			// The reload replaces the connection to Redis that the store has used since the start.
			b.reload(t, strings.ReplaceAll(replicaConfig, "{env.REDIS_URL}", "{env.REDIS_URL}?client_name=another"))
			down.stop(pg)
			a.revokeWithoutDatabase(t, revoked, "revoke")
			c.eventuallyRejects(t, revoked, "revoked_key")
			c.everywhere(func(s *site) {
				s.manage(t, "POST", "/v1/tenants/acme/keys", record{"name": "x"}).want(http.StatusServiceUnavailable).problem("store_unavailable")
			})
			a.manage(t, "POST", "/v1/keys/"+revoked.id+"/enable", nil).want(http.StatusServiceUnavailable).problem("store_unavailable")
			for _, s := range c.nodes {
				testkit.Eventually(t, "the status shows one pending revocation", func() bool {
					store := s.store(t)
					return store["ok"] == false && store.text("error") != "" && store.object("replica")["pending"] == 1.0
				})
			}

			// A gateway that restarts while the database is unreachable continues with its
			// replica.
			load[2].stop(t)
			d.restartWithoutDatabase(t)
			load[2] = d.traffic(1, 20*time.Millisecond, &caller{name: "n2, restarted", key: steady.full, want: http.StatusOK})
			d.call(t, "GET", "/", revoked.full).rejected(http.StatusUnauthorized).problem("revoked_key")
			c.passes(t, unused)
			// The connection of a gateway to Redis is cut. The gateway receives the revocation after the connection
			// is back.
			c.proxies[1].Refuse()
			d.revokeWithoutDatabase(t, disabled, "disable")
			b.call(t, "GET", "/", disabled.full).passed()
			c.proxies[1].Restore()
			c.eventuallyRejects(t, disabled, "disabled_key")
			b.manage(t, "DELETE", "/v1/keys/"+deleted.id, nil).want(http.StatusAccepted)
			if said := b.keygate(t, "tenant", "suspend", "other").exits(1).err; !strings.Contains(said, "other is suspended on n1") || !strings.Contains(said, "not in the database yet") {
				t.Errorf("suspending a tenant: %s", said)
			}
			c.eventuallyRejects(t, suspended, "tenant_inactive")

			down.start(pg)
			c.everywhere(func(s *site) {
				testkit.Eventually(t, "every revocation is in the database", func() bool {
					store := s.store(t)
					return store["ok"] == true && store.object("replica")["pending"] == 0.0
				})
			})
			for _, tr := range load {
				if tr.stop(t) == 0 {
					t.Error("no request was sent during the outage")
				}
			}
			c.eventuallyRejects(t, revoked, "revoked_key")
			c.eventuallyRejects(t, disabled, "disabled_key")
			c.eventuallyRejects(t, suspended, "tenant_inactive")
			c.eventuallyRejects(t, deleted, "invalid_key")
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

			// The log reports the unreachable database only a few times, not for every attempt to reach it.
			c.everywhere(func(s *site) {
				log := s.log()
				for _, said := range []string{"the store does not answer", "the database does not answer", "cannot be opened; trying again"} {
					if n := strings.Count(log, said); n > 5 {
						t.Errorf("the log of %s has %d lines with %q", s.dir, n, said)
					}
				}
			})

			// After the outage of the database, keys can be enabled again, and receipts name the gateways that have
			// confirmed the change.
			testkit.Eventually(t, "every gateway confirms", func() bool {
				r := b.manage(t, "POST", "/v1/keys/"+disabled.id+"/enable", record{"wait": "1m"})
				return r.status == http.StatusOK && len(r.json().list("confirmed")) == 3
			})
			c.passes(t, disabled)
			receipt := a.post(t, unused, "revoke", record{"wait": "1m"})
			if len(pendingNodes(t, receipt)) != 0 || len(receipt.list("confirmed")) != 3 || receipt["durable"] != true {
				t.Errorf("the receipt afterwards: %v", receipt)
			}
			c.eventuallyRejects(t, unused, "revoked_key")
			d.restart()
			c.passes(t, disabled)
		})
	}
}

// inDatabase checks that the database itself contains the revocations. It does not ask a gateway.
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

// object returns a field that is a JSON object, or an empty record if the field is missing.
func (r record) object(name string) record {
	o, _ := r[name].(map[string]any)
	return o
}
