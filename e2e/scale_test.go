//go:build soak

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const scaleConfig = `
		plan free {
			rate 100000/m
			quota 1000000000/month
		}
`

func TestMillionKeys(t *testing.T) {
	s := bigSite(t, 1_000_000)
	s.startTimed(t)
	s.firstUse(t, 1_000_000, 20_000)
	s.useMany(t, 1_000_000, 100_000)
	s.flood(t, 100_000)
}

func TestTenMillionKeys(t *testing.T) {
	s := bigSite(t, 10_000_000)
	s.startTimed(t)
	s.firstUse(t, 10_000_000, 20_000)
	s.useMany(t, 10_000_000, 100_000)
}

// bigSite returns a stopped gateway with n keys in its store.
func bigSite(t *testing.T, n int) *site {
	s := &site{gateway: prepare(t, written(t, caddyfile(scaleConfig, "keygate")), newUpstream(t)), product: plain}
	s.upstream.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})
	s.gateway.start()
	s.stop()
	fillStore(t, s, n)
	return s
}

// machine returns the load of the machine, on which all measurements depend.
func machine() string {
	b, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(b), " ")
	return "load " + load
}

// startTimed starts the gateway and logs the time until the first request passes.
func (s *site) startTimed(t *testing.T) {
	begun := time.Now()
	done := make(chan struct{})
	go func() { s.gateway.start(); close(done) }()
	c := &caller{key: bigKey(7), want: http.StatusOK}
	for c.call(s.client, s) != nil {
		time.Sleep(5 * time.Millisecond)
	}
	first := time.Since(begun)
	<-done
	t.Logf("start: the first request was let pass after %v; RSS %d MiB (%s)", first.Round(time.Millisecond), s.rss(t)>>20, machine())
}

// rss returns the resident memory of the process in bytes.
func (s *site) rss(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(s.process.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	return first(t, string(b), `VmRSS:\s+(\d+) kB`) << 10
}

func (s *site) heap(t *testing.T) int64 {
	return first(t, s.pprof(t, "/debug/pprof/heap?gc=1&debug=1"), `# HeapAlloc = (\d+)`)
}

// firstUse uses n random keys twice, one request after another, and logs how long first and second
// uses take.
func (s *site) firstUse(t *testing.T, of, n int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	var cold, warm []time.Duration
	checks := func() (all, quick int64) {
		text := s.pprof(t, "/metrics")
		return first(t, text, `keygate_check_duration_seconds_count (\d+)`), first(t, text, `keygate_check_duration_seconds_bucket{le="0.001"} (\d+)`)
	}
	all, quick := checks()
	r := rand.New(rand.NewPCG(1, 1))
	for range n {
		c := &caller{key: bigKey(r.IntN(of)), want: http.StatusOK}
		for _, times := range []*[]time.Duration{&cold, &warm} {
			begun := time.Now()
			if err := c.call(client, s); err != nil {
				t.Fatal(err)
			}
			*times = append(*times, time.Since(begun))
		}
	}
	t.Logf("first use over HTTP: p50 %v, p99 %v; second use: p50 %v, p99 %v (%s)",
		quantile(cold, 0.5), quantile(cold, 0.99), quantile(warm, 0.5), quantile(warm, 0.99), machine())
	a, q := checks()
	t.Logf("inside the process, the check took over a millisecond for %.2f %% of the first uses", float64(a-all-(q-quick))/float64(n)*100)
}

func quantile(d []time.Duration, q float64) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(q*float64(len(d))))].Round(time.Microsecond)
}

// useMany uses the last n keys once, and logs the memory that this takes.
func (s *site) useMany(t *testing.T, of, n int) {
	empty := s.heap(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var workers sync.WaitGroup
	var failed atomic.Pointer[string]
	begun := time.Now()
	for range 8 {
		workers.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				c := &caller{key: bigKey(of - i), want: http.StatusOK}
				if err := c.call(client, s); err != nil {
					text := err.Error()
					failed.Store(&text)
				}
			}
		})
	}
	workers.Wait()
	if text := failed.Load(); text != nil {
		t.Error(*text)
	}
	took := time.Since(begun)
	rss := s.rss(t)
	heap := s.heap(t)
	t.Logf("%d keys used in %v: RSS %d MiB, heap in use %d MiB, %d bytes a key (%s)", n, took.Round(time.Second), rss>>20, heap>>20, (heap-empty)/int64(n), machine())
	time.Sleep(2 * time.Second)
	t.Logf("and after the counts were written: RSS %d MiB, heap %d MiB", s.rss(t)>>20, s.heap(t)>>20)
	if heap > 500<<20 {
		t.Errorf("%d keys in use take %d MiB", n, heap>>20)
	}
}

// flood sends valid requests at a steady rate, in turns with and without a flood of unknown keys.
// The flood comes from the same address, whose limit of failures rejects most of it. The turns are
// short and many, so that other load on the machine affects both kinds alike. flood compares the
// medians of the turns' p99.
func (s *site) flood(t *testing.T, of int) {
	const (
		rate  = 300 // the number of valid requests a second
		turns = 15
		turn  = 2 * time.Second
	)
	valid := func(n int) *caller {
		return &caller{name: "valid", key: bigKey(n * keysPerTenant % of), want: http.StatusOK}
	}
	unknown := func(int) *caller {
		return &caller{name: "unknown", key: plain.unknown(), want: http.StatusUnauthorized, also: http.StatusTooManyRequests}
	}
	var p50s, p99s [2][]time.Duration
	var requests, failed int
	for range turns {
		for i, flooded := range []bool{false, true} {
			var took []time.Duration
			var bad, floodBad int
			var both sync.WaitGroup
			both.Go(func() { took, bad = s.paced(t, rate, turn, valid) })
			if flooded {
				both.Go(func() { _, floodBad = s.paced(t, 2*rate, turn, unknown) })
			}
			both.Wait()
			requests, failed = requests+len(took), failed+bad+floodBad
			p50s[i], p99s[i] = append(p50s[i], quantile(took, 0.5)), append(p99s[i], quantile(took, 0.99))
		}
	}
	alone, withFlood := quantile(p99s[0], 0.5), quantile(p99s[1], 0.5)
	ratio := float64(withFlood) / float64(alone)
	t.Logf("%d valid requests at %d a second: alone p50 %v, p99 %v; with a flood of %d unknown keys a second p50 %v, p99 %v: ratio %.2f (%s)",
		requests, rate, quantile(p50s[0], 0.5), alone, 2*rate, quantile(p50s[1], 0.5), withFlood, ratio, machine())
	if failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
	if ratio > 2 {
		t.Errorf("a flood multiplies p99 by %.2f", ratio)
	}
}

// paced sends requests at a fixed rate without waiting for earlier responses. It returns the time
// from each request's due time to its response, and the number of failed requests.
func (s *site) paced(t *testing.T, rate int, d time.Duration, next func(int) *caller) (took []time.Duration, failed int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	type result struct {
		took time.Duration
		err  error
	}
	n := int(d.Seconds() * float64(rate))
	results := make(chan result, n)
	begun := time.Now()
	slots := make(chan struct{}, 64)
	for i := range n {
		c := next(i)
		due := begun.Add(time.Duration(i) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		slots <- struct{}{}
		go func() {
			err := c.call(client, s)
			results <- result{time.Since(due), err}
			<-slots
		}()
	}
	var first error
	for range n {
		r := <-results
		if r.err != nil {
			failed++
			first = r.err
			continue
		}
		took = append(took, r.took)
	}
	if first != nil {
		t.Log(fmt.Errorf("%d failed, one with %w", failed, first))
	}
	return took, failed
}
