package e2e

import (
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// output collects the output of a process. Safe for concurrent use.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// `make run` starts a gateway with Caddyfile.example and a demo API. The first start prints a key
// and a curl command, which works until the plan's limit is reached.
func TestRun(t *testing.T) {
	t.Parallel()
	g := prepare(t, shipped(t, "Caddyfile.example"), nil)
	// run runs the demo until f returns. f is called when the demo has printed wait.
	run := func(wait string, f func(printed string)) {
		t.Helper()
		var out output
		c := exec.Command(binary(t, demoBinary), "-caddy", binary(t, caddyBinary), "-config", g.config)
		c.Dir, c.Env, c.Stdout, c.Stderr = g.dir, g.env, &out, &out
		c.WaitDelay = patience
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan error, 1)
		go func() { exited <- c.Wait() }()
		defer func() {
			_ = c.Process.Signal(syscall.SIGTERM)
			select {
			case err := <-exited:
				if err != nil {
					t.Errorf("the demo ended with %v", err)
				}
			case <-time.After(patience):
				_ = c.Process.Kill()
				t.Error("the demo did not stop")
			}
			if t.Failed() {
				t.Log(out.String())
			}
		}()
		testkit.Eventually(t, "what the demo prints", func() bool {
			select {
			case err := <-exited:
				exited <- err
				t.Fatalf("the demo ended with %v", err)
			default:
			}
			return strings.Contains(out.String(), wait)
		})
		f(out.String())
	}
	var request []string
	run("Press Ctrl-C to stop.", func(printed string) {
		m := regexp.MustCompile(`(?m)^  curl -i (http://\S+?)(/\S+) -H "([^:"]+): ([^"]+)"$`).FindStringSubmatch(printed)
		if m == nil || m[1] != g.site {
			t.Fatalf("there is no curl to try in\n%s", printed)
		}
		request = m[2:]
		a := g.send(t, "GET", m[2], "", m[3], m[4]).want(http.StatusOK)
		if r := a.json(); r["tenant"] != "demo" || r["authorization"] != "" {
			t.Errorf("the demo API answers %v", r)
		}
		limit := 60
		if !strings.Contains(printed, "60 requests a minute") || a.number("X-RateLimit-Limit") != int64(limit) {
			t.Errorf("the limit is %q", a.header["X-Ratelimit-Limit"])
		}
		begin := time.Now()
		for passed := 1; ; passed++ {
			a := g.send(t, "GET", m[2], "", m[3], m[4])
			if a.status == http.StatusTooManyRequests {
				if passed < limit {
					t.Errorf("only %d passed", passed)
				}
				break
			}
			a.want(http.StatusOK)
			if most := limit + 2 + int(time.Since(begin).Seconds()); passed > most {
				t.Fatalf("%d passed of %d a minute", passed, limit)
			}
		}
		g.send(t, "GET", "/health", "").want(http.StatusOK)
		g.send(t, "GET", "/readyz", "").want(http.StatusOK)
		g.send(t, "GET", m[2], "").want(http.StatusUnauthorized)
	})
	// A second start creates no other key, and the first key still works.
	run("shown at the first start", func(printed string) {
		if strings.Contains(printed, "curl -i") {
			t.Error("a second start prints another key")
		}
		if a := g.send(t, "GET", request[0], "", request[1], request[2]); a.status != http.StatusOK && a.status != http.StatusTooManyRequests {
			t.Errorf("the first start's key: %d %s", a.status, a.body)
		}
	})
}

// Every shipped configuration is valid, and `caddy validate` leaves no files behind.
func TestValidate(t *testing.T) {
	t.Parallel()
	configs, err := filepath.Glob(shipped(t, "configs/*.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	if len(configs) < 6 {
		t.Fatalf("only %d configurations", len(configs))
	}
	for _, config := range append(configs, shipped(t, "Caddyfile.example")) {
		t.Run(filepath.Base(config), func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			c := exec.CommandContext(ctx, binary(t, caddyBinary), "validate", "--config", config, "--adapter", "caddyfile")
			c.Dir, c.Env = dir, sandbox(dir)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.IsDir() {
					t.Errorf("validate left %s behind (%v)", path, err)
				}
				return nil
			})
		})
	}
	bad := strings.NewReplacer("rate 60/m", "rate 60/mn")
	text, err := os.ReadFile(shipped(t, "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	g := prepare(t, written(t, bad.Replace(string(text))), nil)
	for _, command := range []string{"validate", "adapt", "run"} {
		if r := g.command(t, "", command, "--config", g.config, "--adapter", "caddyfile").exits(1); !regexp.MustCompile(`Caddyfile:\d+`).MatchString(r.err) {
			t.Errorf("%s names no line: %s", command, r.err)
		}
	}
}

// Commands exit with 0 after success, 1 if the gateway rejects the request or fails, and 2 after
// wrong usage. Each kind of mistake is tested once, since each run is a process; the tests of the
// commands cover the rest.
func TestExitStatuses(t *testing.T) {
	t.Parallel()
	g := start(t, shipped(t, "Caddyfile.example"), newUpstream(t))
	g.keygate(t, "tenant", "create", "acme", "--name", "Acme", "--plan", "prepaid", "--credits", "5").exits(0)
	k := g.keygate(t, "key", "create", "--tenant", "acme", "--name", "ci", "--json").json()
	full, id := k.text("key"), k.text("id")
	g.keep(full)
	for _, tt := range []struct {
		code int
		args string
	}{
		{0, "tenant list"},
		{0, "tenant get acme"},
		{0, "tenant credits acme"},
		{0, "tenant credits acme --spend 2 --reference job_1"},
		{0, "key list --tenant acme --status active --limit 1"},
		{0, "key get " + id},
		{0, "key update " + id + " --description x"},
		{0, "key disable " + id},
		{0, "key enable " + id + " --wait 1s"},
		{0, "audit --verify"},
		{0, "status"},
		{0, "--help"},

		{1, "tenant get nobody"},
		{1, "tenant create another --plan gold"},
		{1, "tenant credits acme --spend 5000"},
		{1, "key get key_none"},
		{1, "key create --tenant nobody --name x"},
		{1, "key create --tenant acme --name x --scope root"},
		{1, "key list --keyspace nowhere"},
		{1, "status --start-wait 0s --address 127.0.0.1:1"},

		{2, ""},
		{2, "key"},
		{2, "frobnicate"},
		{2, "key frobnicate"},
		{2, "tenant frobnicate acme"},
		{2, "key create --tennant acme --name x"},
		{2, "key create --tenant acme --name x --expires soon"},
		{2, "key get"},
		{2, "tenant credits acme --add 1 --spend 1"},
		{2, "status --token-file x"},
	} {
		args := append([]string{"keygate"}, strings.Fields(tt.args)...)
		if !strings.Contains(tt.args, "--address") && tt.args != "" {
			args = append(args, "--address", g.adminAddr)
		}
		r := g.command(t, "", args...).exits(tt.code)
		if tt.code != 0 && strings.TrimSpace(r.err) == "" {
			t.Errorf("%s: no reason on standard error", r.command)
		}
	}
	// verify and explain read the key from standard input or from a file.
	on := []string{"--address", g.adminAddr, "--method", "GET", "--path", "/v1/x"}
	if r := g.command(t, full+"\n", append([]string{"keygate", "verify"}, on...)...).exits(0); !strings.Contains(r.out, "allowed") || strings.Contains(r.out, full) {
		t.Errorf("verify prints %s", r.out)
	}
	g.command(t, full[:20], append([]string{"keygate", "verify"}, on...)...).exits(1)
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	g.command(t, "", append([]string{"keygate", "explain", "--key-file", file}, on...)...).exits(0)
	g.command(t, "", append([]string{"keygate", "verify", full}, on...)...).exits(2)
	g.keygate(t, "key", "revoke", id).exits(0)
	g.keygate(t, "key", "enable", id).exits(1)
	g.keygate(t, "key", "delete", id).exits(0)
	g.keygate(t, "key", "delete", id).exits(1)
	g.keygate(t, "tenant", "delete", "acme").exits(0)
	g.stop()
	if r := g.keygate(t, "status", "--start-wait", "0s").exits(1); !strings.Contains(r.err, g.adminAddr) {
		t.Errorf("without a gateway the command prints %s", r.err)
	}
}
