package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// result is the outcome of a command.
type result struct {
	t        testing.TB
	command  string
	out, err string
	code     int
}

// command runs the gateway's binary in the gateway's directory, with the gateway's environment.
func (g *gateway) command(t testing.TB, stdin string, args ...string) *result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	c := exec.CommandContext(ctx, binary(t, caddyBinary), args...)
	c.WaitDelay = time.Second
	var out, errs bytes.Buffer
	c.Dir, c.Env, c.Stdin, c.Stdout, c.Stderr = g.dir, g.env, strings.NewReader(stdin), &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := &result{t: t, command: "caddy " + strings.Join(args, " "), out: out.String(), err: errs.String(), code: c.ProcessState.ExitCode()}
	if strings.Contains(r.err, "WARNING: DATA RACE") {
		t.Errorf("%s: %s", r.command, r.err)
	}
	return r
}

// keygate runs `caddy keygate …` against the running gateway.
func (g *gateway) keygate(t testing.TB, args ...string) *result {
	t.Helper()
	return g.command(t, "", append(append([]string{"keygate"}, args...), "--address", g.adminAddr)...)
}

// exits checks the exit status. If the status is not 0, standard error must state the reason.
func (r *result) exits(code int) *result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("%s: exit status %d, want %d\n%s%s", r.command, r.code, code, r.out, r.err)
	}
	if code != 0 && strings.TrimSpace(r.err) == "" {
		r.t.Errorf("%s: exit status %d without a message", r.command, r.code)
	}
	return r
}

// json returns the JSON object that a command with --json printed.
func (r *result) json() record {
	r.t.Helper()
	r.exits(0)
	var m record
	if err := json.Unmarshal([]byte(r.out), &m); err != nil {
		r.t.Fatalf("%s printed %q: %v", r.command, r.out, err)
	}
	return m
}

// api calls the management API on Caddy's admin endpoint. path begins with /v1/. body is encoded as JSON.
// If body is a string, it is sent unchanged. If body is nil, no body is sent.
func (g *gateway) api(t testing.TB, method, path string, body any, header ...string) *answer {
	t.Helper()
	var sent []byte
	switch b := body.(type) {
	case nil:
	case string:
		sent = []byte(b)
	default:
		var err error
		if sent, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+g.adminAddr+"/keygate"+path, bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := g.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	a := g.read(t, resp, "")
	if a.status > 499 && a.status != http.StatusServiceUnavailable {
		t.Errorf("%s answered %d %s", a.asked, a.status, a.body)
	}
	a.reached = nil
	return a
}
