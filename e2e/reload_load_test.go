package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// plain is the product of the configurations that caddyfile returns.
var plain = product{name: "default", prefix: "kg_live_", random: 32, checksum: 6, plan: "free", path: "/"}

// caddyfile returns a configuration with one site. options go into the keygate block, and
// directives into the site.
func caddyfile(options, directives string) string {
	return `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
` + options + `
	}
}

{$KEYGATE_LISTEN} {
	keygate_health /readyz
` + directives + `
	reverse_proxy {$KEYGATE_UPSTREAM}
}
`
}

// startPlain starts a gateway with a configuration that caddyfile returned.
func startPlain(t testing.TB, config string, env ...string) *site {
	t.Helper()
	return &site{gateway: start(t, written(t, config), newUpstream(t), env...), product: plain}
}

// load sends Caddy a configuration, as `caddy reload` does. Caddy also reloads an unchanged
// configuration.
func (g *gateway) load(t testing.TB, config string) *answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://"+g.adminAddr+"/load", strings.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate")
	// The reload replaces the admin endpoint too, so its connection can't be kept.
	r.Close = true
	g.reloaded.Store(true)
	resp, err := g.client.Do(r)
	if err != nil {
		t.Fatalf("loading a configuration: %v\n%s", err, g.tail())
	}
	return g.read(t, resp, "")
}

// reload loads a configuration, which Caddy must accept.
func (g *gateway) reload(t testing.TB, config string) {
	t.Helper()
	g.load(t, config).want(http.StatusOK)
}

// caller sends requests with one key, and knows the expected responses.
type caller struct {
	name, method, path, key string
	// want is the expected status of a response. also is a second accepted status; 0 means none.
	want, also int
	// got counts the responses with the status want. others counts those with the status also.
	got, others atomic.Int64
}

// traffic is a number of workers that send requests until they are stopped.
type traffic struct {
	stopping chan struct{}
	done     sync.WaitGroup
	sent     atomic.Int64
	mu       sync.Mutex
	wrong    []string
}

// traffic starts workers that send the requests of all callers in turn, with a pause before each.
func (s *site) traffic(workers int, pause time.Duration, callers ...*caller) *traffic {
	tr := &traffic{stopping: make(chan struct{})}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: patience}
	for w := range workers {
		tr.done.Go(func() {
			for i := w; ; i++ {
				select {
				case <-tr.stopping:
					return
				case <-time.After(pause):
				}
				c := callers[i%len(callers)]
				if err := c.call(client, s); err != nil {
					tr.note(err.Error())
				}
				tr.sent.Add(1)
			}
		})
	}
	go func() { tr.done.Wait(); client.CloseIdleConnections() }()
	return tr
}

// call sends one request and returns an error for an unexpected response.
//
// A connection that was opened just before a reload may be closed before any response. net/http
// closes connections whose first request comes after Shutdown, and the kernel closes those in a
// closed listener's queue. No handler has seen such a request, and Caddy without Keygate behaves
// the same. Like clients that reuse a connection, call sends the request again.
func (c *caller) call(client *http.Client, s *site) (err error) {
	for range 5 {
		var unanswered bool
		if unanswered, err = c.try(client, s); !unanswered {
			return err
		}
	}
	return err
}

func (c *caller) try(client *http.Client, s *site) (unanswered bool, err error) {
	method, path := c.method, c.path
	if method == "" {
		method = "GET"
	}
	if path == "" {
		path = "/"
	}
	r, err := http.NewRequest(method, s.site+path, nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	used := false
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		// net/http itself may send the request again, over another connection.
		GetConn: func(string) { used = false },
		GotConn: func(i httptrace.GotConnInfo) { used = i.Reused },
	}))
	resp, err := client.Do(r)
	if err != nil {
		// A connection that has served a request before must not fail.
		return !used, fmt.Errorf("%s: %w", c.name, err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: reading the answer: %w", c.name, err)
	case resp.StatusCode == c.want:
		c.got.Add(1)
	case c.also != 0 && resp.StatusCode == c.also:
		c.others.Add(1)
	default:
		return false, fmt.Errorf("%s: %d %.200s, want %d", c.name, resp.StatusCode, body, c.want)
	}
	return false, nil
}

func (tr *traffic) note(what string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.wrong) < 10 {
		tr.wrong = append(tr.wrong, what)
	}
}

// stop stops the traffic, fails the test for failed requests, and returns the number of requests.
func (tr *traffic) stop(t testing.TB) int64 {
	t.Helper()
	close(tr.stopping)
	tr.done.Wait()
	for _, w := range tr.wrong {
		t.Errorf("under load: %s", w)
	}
	return tr.sent.Load()
}
