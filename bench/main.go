// Command bench measures the gateway side by side with others that do the same, in
// several contests:
//
//   - proxy: in front of one upstream, with what else could stand there: plain Caddy, Caddy
//     with caddy-ratelimit, nginx and HAProxy, as far as they are installed.
//   - verify: judging requests that are not proxied, over HTTP, beside a plain Caddy
//     that only responds, each pinned to the same core.
//   - limits: the same rate counted in memory, in Redis for each request (exact), and in
//     Redis by batches (leased).
//   - hostile: requests without a key that are made to cost much, beside a plain Caddy that
//     rejects the same bytes.
//
// Everybody in the others knows the same thousand keys and is driven by wrk, in turns, in
// one run. What counts are the ratios: absolute numbers are the machine's.
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
	rounds := flag.Int("rounds", 3, "how often each peer has its turn")
	duration := flag.Duration("duration", 5*time.Second, "how long a turn is")
	connections := flag.Int("connections", 32, "how many connections the load comes over")
	names := flag.String("contests", "proxy,usage,verify,limits,hostile", "which contests are held, comma-separated")
	fuzzed := flag.Int("fuzzed", 1_000_000, "among how many random texts the contest \"hostile\" looks for the dearest")
	kinds := flag.String("kinds", "", "which kinds of requests the contest \"hostile\" sends: those whose name matches this regular expression")
	binary := flag.String("caddy", "", "the gateway's binary; built where it is not given")
	before := flag.String("replay", "", "the binary of a version before: replay requests through it and this version instead, and compare")
	configs := flag.String("configs", ".", "where the Caddyfiles of the version before are")
	requests := flag.Int("requests", 10_000, "how many requests are replayed")
	seed := flag.Uint64("seed", 1, "what the replayed requests are made from")
	upstream := flag.String("upstream", "", "internal: serve as the upstream on this address")
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

// course is how a contest is held.
type course struct {
	rounds      int
	duration    time.Duration // of a turn
	connections int
	fuzzed      int
	kinds       string // a regular expression
	caddy       string // the gateway's binary; "" to build it
}

// contest is one comparison. start starts those who take part; the first is the one
// that the others are compared with. What it has started it returns with an error too.
type contest struct {
	name, title string
	start       func(ctx context.Context, dir, caddy, upstream string) ([]*peer, error)
}

var contests = []contest{
	{"proxy", "In front of an upstream", startProxies},
	{"usage", "In front of an upstream, with usage counted and not", startUsage},
	{"verify", "Judging requests that are not proxied, on one core", startVerifiers},
	{"limits", "In front of an upstream, with limits counted here and in Redis", startLimits},
}

// hostile is the contest that measures without wrk.
const hostile = "hostile"

// answer is the upstream's only answer.
func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"ok":true}`))
}

func run(ctx context.Context, names []string, how course) error {
	for _, name := range names {
		if name != hostile && !slices.ContainsFunc(contests, func(c contest) bool { return c.name == name }) {
			return fmt.Errorf("there is no contest %q", name)
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

// hold gives each peer its turn in each round.
func hold(ctx context.Context, dir string, peers []*peer, how course) error {
	script := filepath.Join(dir, "keys.lua")
	if err := writeScript(script, peers); err != nil {
		return err
	}
	for _, p := range peers { // to warm up, and to see that each lets the load pass
		if _, err := p.measure(ctx, script, time.Second, how.connections); err != nil {
			return err
		}
	}
	for i := range how.rounds {
		for j := range peers {
			// Whoever comes first in one round comes later in the next.
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

// report prints each peer's median figures and how they relate to the first's: the median of what they
// were of it in each round, since what else the machine does changes from round to round.
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

// median returns the median of each figure over rounds.
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

// freeAddr returns a loopback address nobody listens on.
func freeAddr() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// reachable returns when somebody listens on addr.
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
	return fmt.Errorf("nobody listens on %s", addr)
}
