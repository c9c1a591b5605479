// Command bench measures the gateway side by side with what else could stand in front
// of the same API: plain Caddy, Caddy with caddy-ratelimit, nginx and HAProxy, as far as
// they are installed. All of them proxy to one upstream, know the same thousand keys
// and are driven by wrk, in turns, in one run. What counts are the ratios: absolute
// numbers are the machine's.
//
//	go run ./bench [-rounds 3] [-duration 5s] [-connections 32]
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
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	rounds := flag.Int("rounds", 3, "how often each peer has its turn")
	duration := flag.Duration("duration", 5*time.Second, "how long a turn is")
	connections := flag.Int("connections", 32, "how many connections the load comes over")
	upstream := flag.String("upstream", "", "internal: serve as the upstream on this address")
	flag.Parse()
	if *upstream != "" {
		log.Fatal(http.ListenAndServe(*upstream, http.HandlerFunc(answer)))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *rounds, *duration, *connections); err != nil {
		log.Fatal(err)
	}
}

// answer is the upstream's only answer.
func answer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"ok":true}`))
}

func run(ctx context.Context, rounds int, duration time.Duration, connections int) error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("wrk is needed to make the load: apt-get install wrk")
	}
	dir, err := os.MkdirTemp("", "keygate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
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

	peers, err := start(ctx, dir, upstream)
	defer func() {
		for _, p := range peers {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	script := filepath.Join(dir, "keys.lua")
	if err := writeScript(script, peers); err != nil {
		return err
	}
	for _, p := range peers { // to warm up, and to see that each lets the load pass
		if _, err := p.measure(ctx, script, time.Second, connections); err != nil {
			return err
		}
	}
	for i := range rounds {
		for j := range peers {
			// Whoever comes first in one round comes later in the next.
			p := peers[(i+j)%len(peers)]
			m, err := p.measure(ctx, script, duration, connections)
			if err != nil {
				return err
			}
			p.rounds = append(p.rounds, m)
			fmt.Fprintf(os.Stderr, "round %d  %-28s %8.0f requests/s  p50 %-9s p99 %-9s %6.1f µs CPU/request\n", i+1, p.name, m.rate, m.p50, m.p99, m.cpu)
		}
	}
	report(peers)
	return nil
}

// report prints each peer's median figures and how they relate to the first's.
func report(peers []*peer) {
	fmt.Printf("\n%-28s %12s %10s %10s %12s %10s   %s\n", "", "requests/s", "p50", "p99", "CPU µs/req", "memory", "requests/s and CPU against plain Caddy")
	base := peers[0].median()
	for _, p := range peers {
		m := p.median()
		fmt.Printf("%-28s %12.0f %10s %10s %12.1f %7.0f MB   %.2f and %.2f\n", p.name, m.rate, m.p50, m.p99, m.cpu, m.memory, m.rate/base.rate, m.cpu/base.cpu)
	}
}

// median returns the median of each figure over the rounds.
func (p *peer) median() measurement {
	of := func(f func(measurement) float64) float64 {
		var v []float64
		for _, m := range p.rounds {
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
