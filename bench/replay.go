package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The replay sends the same requests to two versions of the gateway and compares their outcomes:
// the responses, and the requests that the upstream received. Both versions run in front of the
// same upstream, on a copy of the same database.

// gatewayVersion is one of the two gateways that the replay compares.
type gatewayVersion struct {
	peer
	upstream *recorder
	ended    chan struct{} // closed once the process has ended
}

// stop ends the process and returns once it has ended.
func (v *gatewayVersion) stop() {
	if v.ended == nil {
		return
	}
	_ = v.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.ended:
	case <-time.After(15 * time.Second):
		_ = v.cmd.Process.Kill()
		<-v.ended
	}
}

// runReplay replays n requests through the binaries before and after. It builds the latter where
// after is "".
func runReplay(ctx context.Context, before, after, configs string, n int, seed uint64) error {
	dir, err := os.MkdirTemp("", "keygate-replay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if after == "" {
		if after, err = build(ctx, dir, "caddy", "./cmd/caddy"); err != nil {
			return err
		}
	}
	return replay(ctx, dir, before, after, configs, n, seed)
}

// replay compares the binaries before and after with n requests, over the configurations in the
// directory from. It returns an error where CHANGELOG.md does not state one of the differences.
func replay(ctx context.Context, dir, before, after, from string, n int, seed uint64) error {
	configs, err := replayConfigs(from)
	if err != nil {
		return err
	}
	log, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return err
	}
	found := &differences{byClass: map[string][]string{}, changelog: map[string]string{}}
	total := 0
	for i, c := range configs {
		count := n / len(configs)
		if i < n%len(configs) {
			count++
		}
		home := filepath.Join(dir, strings.ReplaceAll(c.name, "/", "-"))
		if err := c.compare(ctx, home, before, after, count, seed+uint64(i), found); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		total += count
		fmt.Fprintf(os.Stderr, "%-28s %d requests\n", c.name, count)
	}
	return found.report(total, string(log))
}

// compare replays n requests over one configuration and adds the differences to found.
func (c replayConfig) compare(ctx context.Context, home, before, after string, n int, seed uint64, found *differences) error {
	versions := []*gatewayVersion{{peer: peer{name: "before"}}, {peer: peer{name: "after"}}}
	defer func() {
		for _, v := range versions {
			v.stop()
			if v.upstream != nil {
				v.upstream.server.Close()
			}
		}
	}()
	// The older version creates the database, so that the newer one has to upgrade it.
	first := &gatewayVersion{peer: peer{name: "first"}}
	admin, err := first.start(ctx, c, home, before)
	if err != nil {
		return err
	}
	secrets, err := c.makeKeys("http://" + admin + "/keygate/v1")
	first.stop()
	first.upstream.server.Close()
	if err != nil {
		return err
	}
	for i, binary := range []string{before, after} {
		if err := os.CopyFS(filepath.Join(home, versions[i].name), os.DirFS(filepath.Join(home, "first"))); err != nil {
			return err
		}
		if _, err := versions[i].start(ctx, c, home, binary); err != nil {
			return err
		}
	}
	for i := range n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		q := c.request(seed, i, secrets)
		var seen [2]exchange
		var errs [2]error
		var both sync.WaitGroup
		for j, v := range versions {
			both.Go(func() { seen[j], errs[j] = v.send(q) })
		}
		both.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			return fmt.Errorf("request %d, %q: %w", i, q.raw, err)
		}
		found.add(c, i, q, seen[0], seen[1])
	}
	return nil
}

// start starts the gateway with the configuration and returns when it is ready. It tries three
// times: another process may take the port in between.
func (v *gatewayVersion) start(ctx context.Context, c replayConfig, home, binary string) (admin string, err error) {
	v.upstream = newRecorder()
	for range 3 {
		if admin, err = v.startOnce(ctx, c, home, binary); err == nil || ctx.Err() != nil {
			break
		}
		v.stop()
	}
	return admin, err
}

func (v *gatewayVersion) startOnce(ctx context.Context, c replayConfig, home, binary string) (admin string, err error) {
	dir := filepath.Join(home, v.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	v.addr, admin = freeAddr(), freeAddr()
	_, port, _ := net.SplitHostPort(v.addr)
	path := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
		return "", err
	}
	v.cmd = exec.Command(binary, "run", "--adapter", "caddyfile", "--config", path)
	v.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"KEYGATE_LISTEN=http://:"+port, "KEYGATE_PORT="+port, "KEYGATE_UPSTREAM="+v.upstream.addr, "KEYGATE_ADMIN="+admin,
		"KEYGATE_DB="+filepath.Join(dir, "keygate.db"))
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", err
	}
	defer out.Close()
	v.cmd.Stderr = out
	if err := v.cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	v.ended = ended
	go func() { _ = v.cmd.Wait(); close(ended) }()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if resp, err := http.Get("http://" + admin + "/keygate/v1/status"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return admin, nil
			}
		}
		over := time.Now().After(deadline) || ctx.Err() != nil
		select {
		case <-ended:
			over = true
		case <-time.After(20 * time.Millisecond):
		}
		if over {
			text, _ := os.ReadFile(out.Name())
			return "", fmt.Errorf("%s is not ready: %s", binary, text)
		}
	}
}

// makeKeys creates the configuration's tenants and keys, and returns the keys by "keyspace/name".
func (c replayConfig) makeKeys(api string) (map[string]string, error) {
	secrets := map[string]string{}
	call := func(method, path, keyspace string, body map[string]any) (map[string]any, error) {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequest(method, api+path+"?keyspace="+keyspace, bytes.NewReader(text))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= 300 {
			err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
		}
		if err != nil || len(answer) == 0 {
			return nil, err
		}
		var record map[string]any
		return record, json.Unmarshal(answer, &record)
	}
	var soon time.Time
	for _, p := range c.products {
		for slug, fields := range p.tenants() {
			fields["slug"] = slug
			if _, err := call(http.MethodPost, "/tenants", p.keyspace, fields); err != nil {
				return nil, err
			}
		}
		soon = time.Now().Add(2 * time.Second)
		for _, k := range p.keys(soon) {
			record, err := call(http.MethodPost, "/tenants/"+k.tenant+"/keys", p.keyspace, k.fields)
			if err != nil {
				return nil, err
			}
			id, secret := record["id"].(string), record["key"].(string)
			switch k.then {
			case "":
			case "delete":
				_, err = call(http.MethodDelete, "/keys/"+id, p.keyspace, nil)
			case "rotate":
				record, err = call(http.MethodPost, "/keys/"+id+"/rotate", p.keyspace, map[string]any{"grace": "24h"})
				if err == nil {
					secrets[p.keyspace+"/successor"] = record["key"].(string)
				}
			default:
				_, err = call(http.MethodPost, "/keys/"+id+"/"+k.then, p.keyspace, map[string]any{})
			}
			if err != nil {
				return nil, err
			}
			secrets[p.keyspace+"/"+k.name] = secret
		}
		// Both versions must reject the keys of a suspended tenant.
		if _, err := call(http.MethodPatch, "/tenants/suspended", p.keyspace, map[string]any{"active": false}); err != nil {
			return nil, err
		}
	}
	time.Sleep(time.Until(soon))
	return secrets, nil
}

// exchange is the outcome of one request: the response, and the requests that the upstream
// received.
type exchange struct {
	status   int
	header   http.Header
	body     string
	received []received
}

// send sends the request over a connection of its own and reads the response.
func (v *gatewayVersion) send(q replayRequest) (exchange, error) {
	var x exchange
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: q.from}, Control: func(_, _ string, c syscall.RawConn) error {
		// Without SO_REUSEADDR, closed connections would occupy ports that later gateways need.
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	conn, err := d.Dial("tcp", v.addr)
	if err != nil {
		return x, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	v.upstream.take()
	// A write error is no failure: the gateway may reject the request before it has read all of
	// it.
	_, _ = io.WriteString(conn, q.raw)
	x.status, x.header, x.body, err = readResponse(conn, q.method)
	x.received = v.upstream.take()
	return x, err
}

// volatile are response headers whose values differ between two runs of one version, or with the
// body. Only their presence is compared.
var volatile = []string{"Date", "Content-Length", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Ratelimit", "Retry-After"}

// differences collects the differences of a replay by class.
type differences struct {
	byClass   map[string][]string
	changelog map[string]string // by class
	requests  int               // requests is the number of requests whose outcomes differ.
}

// add compares the outcomes of request i with the two versions, and keeps the differences.
func (f *differences) add(c replayConfig, i int, q replayRequest, before, after exchange) {
	found := compareExchanges(before, after)
	if len(found) == 0 {
		return
	}
	f.requests++
	seen := map[string]bool{}
	for _, d := range found {
		d.request, d.before, d.after = q, before, after
		class, changelog := classify(d)
		if !seen[class] {
			seen[class] = true
			f.changelog[class] = changelog
			f.byClass[class] = append(f.byClass[class], fmt.Sprintf("%s, request %d, %d -> %d: %s: %.400s -> %.400s\n%.700q",
				c.name, i, before.status, after.status, d.what, d.old, d.now, q.raw))
		}
	}
}

// compareExchanges returns the differences between two outcomes of one request.
func compareExchanges(before, after exchange) []difference {
	var found []difference
	note := func(what, old, now string) {
		if old != now {
			found = append(found, difference{what: what, old: old, now: now})
		}
	}
	note("status", fmt.Sprint(before.status), fmt.Sprint(after.status))
	note("response body", before.body, after.body)
	compareHeaders(note, "response header ", before.header, after.header)
	note("requests upstream", fmt.Sprint(len(before.received)), fmt.Sprint(len(after.received)))
	for i := range min(len(before.received), len(after.received)) {
		old, now := before.received[i], after.received[i]
		note("upstream method", old.method, now.method)
		note("upstream target", old.target, now.target)
		note("upstream host", old.host, now.host)
		note("upstream body", old.body, now.body)
		compareHeaders(note, "upstream header ", old.header, now.header)
		compareHeaders(note, "upstream trailer ", old.trailer, now.trailer)
	}
	return found
}

// balance matches the credit balance in a policy list. The balance depends on earlier requests, so
// it is not compared.
var balance = regexp.MustCompile(`"credits\\?";q=\d+`)

// compareHeaders notes each header that differs. Of volatile headers it compares only the
// presence.
func compareHeaders(note func(what, old, now string), what string, before, after http.Header) {
	names := slices.Sorted(maps.Keys(before))
	for _, n := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[n]; !ok {
			names = append(names, n)
		}
	}
	show := func(h http.Header, n string) string {
		switch v, ok := h[n]; {
		case !ok:
			return "absent"
		case slices.Contains(volatile, n):
			return "present"
		default:
			return balance.ReplaceAllString(fmt.Sprintf("%q", v), "credits")
		}
	}
	for _, n := range names {
		note(what+n, show(before, n), show(after, n))
	}
}

// report prints the differences by class. It returns an error where CHANGELOG.md does not state
// one of the classes.
func (f *differences) report(total int, changelog string) error {
	fmt.Printf("%d requests, %d with a difference\n", total, f.requests)
	unreleased, _, _ := strings.Cut(changelog, "\n## 0.")
	unreleased = strings.Join(strings.Fields(unreleased), " ")
	var missing []string
	for _, class := range slices.Sorted(maps.Keys(f.byClass)) {
		examples, line := f.byClass[class], f.changelog[class]
		if line == "" || !strings.Contains(unreleased, line) {
			missing = append(missing, class)
		}
		fmt.Printf("\n%s: %d requests\n  CHANGELOG.md: %s\n", class, len(examples), line)
		shown := 1
		if class == unexplained {
			shown = 100
		}
		for _, e := range examples[:min(shown, len(examples))] {
			fmt.Println("  " + strings.ReplaceAll(e, "\n", "\n  "))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("differences that CHANGELOG.md does not state: %s", strings.Join(missing, ", "))
	}
	return nil
}
