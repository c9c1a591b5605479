package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
)

// limitsConfig returns options for gateways that count limits together in Redis.
func limitsConfig(redis, mode string) string {
	return `
		limits redis ` + redis + ` {
			mode ` + mode + `
			timeout 30s
		}
		plan free {
			rate 40/d
			quota 1000/month
		}
		plan slots {
			concurrency 3
		}
		default_plan free`
}

// TestClusterLimits checks that three gateways together admit as many requests as one gateway would, and
// that all report the same state of the limits.
func TestClusterLimits(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exact", "leased"} {
		t.Run(mode, func(t *testing.T) {
			c := shared(t, 3, limitsConfig(testserver.RedisURL(t), mode))
			a := c.nodes[0]
			a.tenant(t, "acme", nil)
			k := a.key(t, "acme", nil)
			passed := c.known(t, k)
			var all sync.WaitGroup
			var count atomic.Int64
			count.Store(passed)
			c.everywhere(func(s *site) {
				for range 2 {
					all.Go(func() {
						for range 15 {
							got := s.call(t, "GET", "/", k.full)
							switch got.status {
							case http.StatusOK:
								count.Add(1)
							case http.StatusTooManyRequests:
								got.problem("rate_limited")
							default:
								t.Errorf("answered %d", got.status)
							}
						}
					})
				}
			})
			all.Wait()
			// In the mode leased, a gateway may hold a share of the limit that other gateways could use. Unused
			// shares return to Redis after a while.
			testkit.Eventually(t, "all of the limit is used", func() bool {
				c.everywhere(func(s *site) {
					if s.call(t, "GET", "/", k.full).status == http.StatusOK {
						count.Add(1)
					}
				})
				return count.Load() >= 40
			})
			if n := count.Load(); n != 40 {
				t.Errorf("%d requests passed, not 40", n)
			}
			testkit.Eventually(t, "every gateway reports that 40 requests are used", func() bool {
				ok := true
				c.everywhere(func(s *site) {
					for _, l := range s.read(t, "/v1/keys/"+k.id+"/limits").records("data") {
						ok = ok && fmt.Sprint(l["used"]) == "40"
					}
				})
				return ok
			})
			a.post(t, k, "limits/reset", record{})
			c.everywhere(func(s *site) {
				testkit.Eventually(t, "the gateway has received the reset", func() bool { return s.call(t, "GET", "/", k.full).status == http.StatusOK })
			})
		})
	}
}

// TestClusterSlotsOfKilledGateway kills a gateway with running requests, and checks that their
// concurrency slots become free after a while.
func TestClusterSlotsOfKilledGateway(t *testing.T) {
	t.Parallel()
	c := shared(t, 2, limitsConfig(testserver.RedisURL(t), "exact"))
	a, b := c.nodes[0], c.nodes[1]
	a.tenant(t, "acme", record{"plan": "slots"})
	k := a.key(t, "acme", nil)
	c.known(t, k)
	release := make(chan struct{})
	defer close(release)
	var running atomic.Int64
	b.upstream.answer("/long", func(_ http.ResponseWriter, r *http.Request) {
		running.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	var all sync.WaitGroup
	defer all.Wait()
	for range 3 {
		req, _ := b.request(t, "GET", "/long", "", b.credential(k.full)...)
		all.Go(func() {
			// The slots of the earlier requests become free shortly after the requests have ended.
			for status := http.StatusTooManyRequests; status == http.StatusTooManyRequests; {
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return
				}
				status = resp.StatusCode
				_ = resp.Body.Close()
			}
		})
	}
	testkit.Eventually(t, "three requests run", func() bool { return running.Load() == 3 })
	a.call(t, "GET", "/", k.full).rejected(http.StatusTooManyRequests).problem("concurrency_exceeded")
	b.kill()
	testkit.Eventually(t, "the slots are free", func() bool { return a.call(t, "GET", "/", k.full).status == http.StatusOK })
}
