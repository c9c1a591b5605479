// Command bench compares the gateway with other software that does the same work. There are
// several contests:
//
//   - proxy: the gateway in front of an upstream, compared with plain Caddy, Caddy with caddy-ratelimit, nginx and
//     HAProxy, where these are installed.
//   - usage: the gateway with and without counting usage.
//   - verify: checking requests over HTTP without forwarding them, compared with a plain Caddy that only responds. Each
//     server is pinned to the same core.
//   - limits: the same rate counted in memory, in Redis for each request (exact), and in Redis by batches (leased).
//   - hostile: requests without a key that are built to cost much, compared with a plain Caddy that rejects the same bytes.
//
// In all contests but the last, each server knows a thousand keys, and wrk loads the servers in
// turn, in one run. Only the ratios can be compared between machines, not the absolute numbers.
//
//	go run ./bench [-contests proxy,usage,verify,limits,hostile] [-rounds 3] [-duration 5s] [-connections 32]
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	rounds := flag.Int("rounds", 3, "how many rounds are measured; each round measures each peer once")
	duration := flag.Duration("duration", 5*time.Second, "how long each measurement takes")
	connections := flag.Int("connections", 32, "how many connections the load uses")
	names := flag.String("contests", "proxy,usage,verify,limits,hostile", "the contests to run, separated by commas")
	fuzzed := flag.Int("fuzzed", 1_000_000, "how many random texts the contest \"hostile\" tries to find the costliest one")
	kinds := flag.String("kinds", "", "a regular expression: the contest \"hostile\" sends the kinds of requests whose name matches")
	binary := flag.String("caddy", "", "the path of the gateway's binary; default: build one")
	before := flag.String("replay", "", "the path of an older version's binary: instead of the contests, replay requests through both versions and compare the outcomes")
	configs := flag.String("configs", ".", "the directory with the older version's Caddyfiles")
	requests := flag.Int("requests", 10_000, "how many requests to replay")
	seed := flag.Uint64("seed", 1, "the seed of the replayed requests: the same seed gives the same requests")
	upstream := flag.String("upstream", "", "internal: serve as the upstream at this address")
	flag.Parse()
	if *upstream != "" {
		log.Fatal(http.ListenAndServe(*upstream, http.HandlerFunc(answer)))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *before != "" {
		if err := runReplay(ctx, *before, *binary, *configs, *requests, *seed); err != nil {
			log.Fatal(err)
		}
		return
	}
	if err := run(ctx, strings.Split(*names, ","), course{*rounds, *duration, *connections, *fuzzed, *kinds, *binary}); err != nil {
		log.Fatal(err)
	}
}

// course holds the settings of a run.
type course struct {
	rounds      int
	duration    time.Duration // duration is the length of one turn.
	connections int
	fuzzed      int
	kinds       string // kinds is a regular expression. It selects the kinds of requests that the contest "hostile" sends.
	caddy       string // caddy is the path of the gateway's binary; "" means that the contest builds one.
}

// contest is one comparison. start starts the peers; the others are compared with the first. On an
// error, start also returns the peers that it has started.
type contest struct {
	name, title string
	start       func(ctx context.Context, dir, caddy, upstream string) ([]*peer, error)
}

var contests = []contest{
	{"proxy", "In front of an upstream", startProxies},
	{"usage", "In front of an upstream, with and without counting usage", startUsage},
	{"verify", "Checking requests without forwarding them, on one core", startVerifiers},
	{"limits", "In front of an upstream, with limits counted in memory and in Redis", startLimits},
}

// hostile is the name of the contest that runs without wrk.
const hostile = "hostile"

// answer is the upstream: it gives every request the same response.
func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"ok":true}`))
}

func run(ctx context.Context, names []string, how course) error {
	for _, name := range names {
		if name != hostile && !slices.ContainsFunc(contests, func(c contest) bool { return c.name == name }) {
			return fmt.Errorf("there is no contest %q: see -contests", name)
		}
	}
	dir, err := os.MkdirTemp("", "keygate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	caddy := how.caddy
	if caddy == "" {
		if caddy, err = build(ctx, dir, "caddy", "./cmd/caddy"); err != nil {
			return err
		}
	}
	if slices.Contains(names, hostile) {
		if err := runHostile(ctx, dir, caddy, how); err != nil {
			return err
		}
		if len(names) == 1 {
			return nil
		}
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("wrk is needed to make the load: apt-get install wrk")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	upstream := freeAddr()
	up := exec.Command(self, "-upstream", upstream)
	up.Stderr = os.Stderr
	if err := up.Start(); err != nil {
		return err
	}
	defer up.Process.Kill()
	if err := reachable(ctx, upstream); err != nil {
		return err
	}
	for _, c := range contests {
		if !slices.Contains(names, c.name) {
			continue
		}
		home := filepath.Join(dir, c.name)
		if err := os.Mkdir(home, 0o700); err != nil {
			return err
		}
		peers, err := c.start(ctx, home, caddy, upstream)
		if err == nil {
			err = hold(ctx, home, peers, how)
		}
		for _, p := range peers {
			p.stop()
		}
		if err != nil {
			return err
		}
		fmt.Printf("\n%s\n", c.title)
		report(peers)
	}
	return nil
}

// hold measures each peer once in each round.
func hold(ctx context.Context, dir string, peers []*peer, how course) error {
	script := filepath.Join(dir, "keys.lua")
	if err := writeScript(script, peers); err != nil {
		return err
	}
	for _, p := range peers { // The first loop warms up each peer, and fails if a peer rejects the load.
		if _, err := p.measure(ctx, script, time.Second, how.connections); err != nil {
			return err
		}
	}
	for i := range how.rounds {
		for j := range peers {
			// The order of the peers changes from round to round.
			p := peers[(i+j)%len(peers)]
			m, err := p.measure(ctx, script, how.duration, how.connections)
			if err != nil {
				return err
			}
			p.rounds = append(p.rounds, m)
			fmt.Fprintf(os.Stderr, "round %d  %-28s %8.0f requests/s  p50 %-9s p99 %-9s %6.1f µs CPU/request\n", i+1, p.name, m.rate, m.p50, m.p99, m.cpu)
		}
	}
	return nil
}

// report prints the medians of each peer's figures, and their ratio to the first peer's. The ratio
// is the median of the ratios within each round, since other load on the machine changes from
// round to round.
func report(peers []*peer) {
	fmt.Printf("%-28s %12s %10s %10s %12s %10s   %s\n", "", "requests/s", "p50", "p99", "CPU µs/req", "memory", "requests/s and CPU against the first")
	for _, p := range peers {
		m := median(p.rounds)
		ratios := make([]measurement, len(p.rounds))
		for i, base := range peers[0].rounds {
			ratios[i] = measurement{rate: p.rounds[i].rate / base.rate, cpu: p.rounds[i].cpu / base.cpu}
		}
		r := median(ratios)
		fmt.Printf("%-28s %12.0f %10s %10s %12.1f %7.0f MB   %.2f and %.2f\n", p.name, m.rate, m.p50, m.p99, m.cpu, m.memory, r.rate, r.cpu)
	}
}

// median returns the median of each figure over the rounds.
func median(rounds []measurement) measurement {
	of := func(f func(measurement) float64) float64 {
		var v []float64
		for _, m := range rounds {
			v = append(v, f(m))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return measurement{
		rate:   of(func(m measurement) float64 { return m.rate }),
		p50:    time.Duration(of(func(m measurement) float64 { return float64(m.p50) })),
		p99:    time.Duration(of(func(m measurement) float64 { return float64(m.p99) })),
		cpu:    of(func(m measurement) float64 { return m.cpu }),
		memory: of(func(m measurement) float64 { return m.memory }),
	}
}

// freeAddr returns a loopback address on which no server listens.
func freeAddr() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// reachable waits, up to 15 s, until a server accepts connections on addr.
func reachable(ctx context.Context, addr string) error {
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("no server accepts connections on %s", addr)
}
