//go:build soak

package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
)

// TestClusterSpeed measures how long a revocation takes to reach the last of three gateways under load.
// In the first half of the test, the call waits for all confirmations, and afterwards no gateway may let
// the key pass. In the second half the call does not wait. At every tenth revocation, the test has just
// cut one gateway's database connections.
func TestClusterSpeed(t *testing.T) {
	const each = 60
	c := shared(t, 3, "plan free")
	c.nodes[0].tenant(t, "acme", nil)
	steady := c.nodes[0].key(t, "acme", nil)
	c.known(t, steady)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var served, failed atomic.Int64
	c.everywhere(func(s *site) {
		load.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if (&caller{key: steady.full, want: http.StatusOK}).call(s.client, s) != nil {
					failed.Add(1)
				}
				served.Add(1)
			}
		})
	})
	for _, waiting := range []bool{true, false} {
		var calls, after, last []time.Duration
		for i := range each {
			begun := time.Now()
			k := c.nodes[i%3].key(t, "acme", nil)
			if i%10 == 9 {
				c.proxies[(i+2)%3].Cut()
			}
			c.known(t, k)
			wait := record{"wait": "0s"}
			if waiting {
				wait = record{"wait": "1m"}
			}
			called := time.Now()
			receipt := c.nodes[(i+1)%3].post(t, k, "revoke", wait)
			returned := time.Now()
			rejectedAt := make([]time.Time, len(c.nodes))
			var all sync.WaitGroup
			for n, s := range c.nodes {
				all.Go(func() {
					for {
						sent := time.Now()
						switch got := s.call(t, "GET", "/", k.full).status; got {
						case http.StatusUnauthorized:
							rejectedAt[n] = sent
							return
						case http.StatusOK:
							if waiting {
								t.Errorf("revocation %d: %s let the key pass after the call had returned", i, s.dir)
							}
							time.Sleep(time.Millisecond)
						default:
							t.Errorf("%d", got)
							return
						}
					}
				})
			}
			all.Wait()
			var slowest time.Duration
			for n := range rejectedAt {
				slowest = max(slowest, rejectedAt[n].Sub(returned))
			}
			calls, after, last = append(calls, returned.Sub(called)), append(after, slowest), append(last, slowest+returned.Sub(called))
			if waiting && len(pendingNodes(t, receipt)) > 0 {
				t.Errorf("revocation %d was not confirmed: %v", i, receipt)
			}
			time.Sleep(time.Second - time.Since(begun))
		}
		t.Logf("receipt waited for: %s; the call took p50 %v, p99 %v; the last gateway rejected the key p50 %v, p99 %v, at worst %v after its return, p99 %v after its beginning (%s)",
			strconv.FormatBool(waiting), quantile(calls, 0.5), quantile(calls, 0.99), quantile(after, 0.5), quantile(after, 0.99), quantile(after, 1), quantile(last, 0.99), machine())
	}
	close(stop)
	load.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests of an unchanged key failed", failed.Load(), served.Load())
	}
}

// TestClusterOutages makes Redis and PostgreSQL unreachable or slow for two gateways with replicas
// under load. It logs how long requests take before, during and after each outage. No request with
// a known key may fail.
func TestClusterOutages(t *testing.T) {
	const (
		rate = 150 // rate is the number of requests a second to each gateway.
		each = 5 * time.Second
	)
	pg, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	slow := testserver.NewProxy(t, redis.Addr())
	slowPG := testserver.NewProxy(t, pg.Addr())
	config := written(t, strings.Replace(clusterConfig("limits redis redis://"+slow.Addr()+"/0 {\n timeout 5ms\n}\n plan free {\n rate 100000/s\n quota 100000000/month\n concurrency 500\n}"),
		"{env.DATABASE_URL}", "{env.DATABASE_URL} {\nreplica {env.REPLICA}\n}", 1))
	c := new(cluster)
	for range 2 {
		c.add(t, config, "DATABASE_URL="+pg.URLAt(slowPG.Addr()))
	}
	c.start()
	c.nodes[0].tenant(t, "acme", nil)
	k := c.nodes[0].key(t, "acme", nil)
	c.known(t, k)
	load := func() (p50, p99, worst time.Duration) {
		var mu sync.Mutex
		var took []time.Duration
		var all sync.WaitGroup
		c.everywhere(func(s *site) {
			all.Go(func() {
				d, failed := s.paced(t, rate, each, func(int) *caller { return &caller{key: k.full, want: http.StatusOK} })
				mu.Lock()
				defer mu.Unlock()
				took = append(took, d...)
				if failed > 0 {
					t.Errorf("%d requests failed", failed)
				}
			})
		})
		all.Wait()
		return quantile(took, 0.5), quantile(took, 0.99), quantile(took, 1)
	}
	logLatencies := func(what string) {
		p50, p99, worst := load()
		t.Logf("%-40s p50 %-10v p99 %-10v at most %v (%s)", what, p50, p99, worst, machine())
	}
	load()
	for _, outage := range []struct {
		name        string
		stop, start func()
	}{
		{"Redis killed", redis.Kill, redis.Start},
		{"Redis stopped", redis.Pause, redis.Resume},
		{"Redis answering after 50 ms", func() { slow.Delay(50 * time.Millisecond) }, slow.Restore},
		{"PostgreSQL killed", pg.Kill, pg.Start},
		{"PostgreSQL stopped", pg.Pause, pg.Resume},
		{"PostgreSQL answering after 500 ms", func() { slowPG.Delay(500 * time.Millisecond) }, slowPG.Restore},
	} {
		logLatencies("before")
		outage.stop()
		logLatencies(outage.name)
		if strings.HasPrefix(outage.name, "PostgreSQL killed") {
			c.nodes[1].restartWithoutDatabase(t)
			logLatencies(outage.name + ", a gateway restarted")
		}
		outage.start()
		load()
		logLatencies("from 5 s after its return")
	}
}
