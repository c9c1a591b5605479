package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/caddymodule/version"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
)

// A start logs one line that names the program, the store and the plans; status names both
// programs, for the gateway and for each node; --check fails while the gateway is degraded.
func TestVersionOfGateway(t *testing.T) {
	s := newShell(t, "unix/DIR/admin.sock", `{
	admin ADMIN
	log default {
		output file DIR/log.json
		format json
	}
	keygate {
		store sqlite DIR/keygate.db
		keyspace shop {
			prefix shop_live_ live
			plan free
			plan pro
		}
	}
}
`)
	var line struct {
		Version, Store, Limits string
		Keyspaces, Plans       []string
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "log.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for l := range strings.Lines(string(log)) {
		if strings.Contains(l, `"msg":"keygate is ready"`) {
			found++
			if err := json.Unmarshal([]byte(l), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if found != 1 || line.Version != version.String() || line.Store != "sqlite "+filepath.Join(dir, "keygate.db") || line.Limits != "local" ||
		strings.Join(line.Keyspaces, " ") != "shop" || strings.Join(line.Plans, " ") != "shop/free shop/pro" {
		t.Errorf("%d lines, the last %+v", found, line)
	}

	var status management.Status
	if err := json.Unmarshal([]byte(s.keygate(0, "status", "--check", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	c, _ := caddy.Version()
	if status.Version != version.String() || status.CaddyVersion != c || len(status.Nodes) != 1 ||
		status.Nodes[0].Version != version.String() || status.Nodes[0].CaddyVersion != c {
		t.Errorf("status %+v", status)
	}
	if out := s.keygate(0, "status"); !strings.Contains(out, version.String()) || !strings.Contains(out, c) {
		t.Errorf("status shows %s", out)
	}
	if out := s.keygate(0, "version"); out != "Keygate "+version.String()+"\nCaddy   "+c+"\n" {
		t.Errorf("version shows %q", out)
	}
}

func TestStatusCheck(t *testing.T) {
	degraded := management.Status{Degraded: true, Problems: []string{"the store does not answer"}}
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

// A command waits while nothing listens, and while Caddy runs without its keygate app.
func TestCommandWaitsForStart(t *testing.T) {
	address := fmt.Sprint("127.0.0.1:", freePort(t))
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
		time.Sleep(20 * time.Millisecond) // the command has met the closed port, or meets the open one
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

// A refusal that is no start is not asked for again, and arrives whole.
func TestCommandDoesNotWaitForRefusal(t *testing.T) {
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
