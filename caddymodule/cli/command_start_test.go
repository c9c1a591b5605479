package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
)

func TestStatusCheck(t *testing.T) {
	degraded := inspect.Status{Degraded: true, Problems: []string{"the store does not answer"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(degraded)
	}))
	defer server.Close()
	t.Setenv(tokenEnv, "kgm_x")
	for args, want := range map[string]string{"": "", "--check": "the store does not answer", "--check --json": "the store does not answer"} {
		root, _ := commandTree()
		var errs bytes.Buffer
		root.SetOut(io.Discard)
		root.SetErr(&errs)
		root.SetArgs(append([]string{"keygate", "status", "--server", server.URL}, strings.Fields(args)...))
		if err := root.Execute(); (err != nil) != (want != "") || !strings.Contains(errs.String(), want) {
			t.Errorf("status %s: %v, %s", args, err, errs.String())
		}
	}
}

// A command repeats its request while no server listens, and while Caddy runs without a keygate
// app.
func TestCommandWaitsForStart(t *testing.T) {
	address := fmt.Sprint("127.0.0.1:", unusedPort(t))
	calls := make(chan string, 3)
	n := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		calls <- string(b)
		if n++; n < 3 {
			api.WriteProblem(w, http.StatusServiceUnavailable, adminapi.CodeNotRunning, "No keygate app is running.")
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"slug":"acme"}`)
	})}
	defer server.Close()
	run := func(wait string) error {
		root, _ := commandTree()
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetArgs([]string{"keygate", "tenant", "create", "acme", "--start-wait", wait, "--address", address})
		return root.Execute()
	}
	if err := run("0s"); err == nil {
		t.Error("without a wait, a gateway that is not there was no failure")
	}
	done := make(chan error)
	go func() { done <- run("1m") }()
	go func() {
		time.Sleep(20 * time.Millisecond) // The pause lets the first request of the command fail, as it usually does. The test also holds if the request comes later.
		l, err := net.Listen("tcp", address)
		if err != nil {
			done <- err
			return
		}
		_ = server.Serve(l)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
	for range n {
		if body := <-calls; !strings.Contains(body, "acme") {
			t.Errorf("the body of one try was %q", body)
		}
	}
}

// A command does not repeat a request that was rejected for another reason, and prints the reason.
func TestCommandDoesNotRepeatRejectedRequest(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		api.WriteProblem(w, http.StatusServiceUnavailable, management.CodeStoreUnavailable, "The store does not answer.")
	}))
	defer server.Close()
	t.Setenv(tokenEnv, "kgm_x")
	root, _ := commandTree()
	var errs bytes.Buffer
	root.SetErr(&errs)
	root.SetArgs([]string{"keygate", "status", "--server", server.URL})
	if err := root.Execute(); err == nil || n != 1 || !strings.Contains(errs.String(), "The store does not answer.") {
		t.Errorf("asked %d times: %v, %s", n, err, errs.String())
	}
}

// TestStatusNamesEachProblem prints each problem on a line of its own, and the driver's errors not at all.
func TestStatusNamesEachProblem(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"degraded": true, "problems": ["the store is down: start it", "Redis is full: raise maxmemory"],
			"store": {"kind": "postgres", "ok": false, "error": "dial tcp:\\n\\trefused"}}`))
	}))
	defer server.Close()
	t.Setenv(tokenEnv, "kgm_x")
	root, _ := commandTree()
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs([]string{"keygate", "status", "--check", "--server", server.URL})
	if err := root.Execute(); err == nil {
		t.Error("status --check succeeds while the gateway is degraded")
	}
	for _, line := range []string{"Problem: the store is down: start it\n", "Problem: Redis is full: raise maxmemory\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("the output lacks %q:\n%s", line, out.String())
		}
	}
	if strings.Contains(out.String()+errs.String(), "dial tcp") {
		t.Errorf("the output has the driver's error:\n%s%s", out.String(), errs.String())
	}
}

func unusedPort(t testing.TB) int {
	t.Helper()
	port, err := testserver.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
