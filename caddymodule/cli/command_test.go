package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/keygate-dev/keygate/caddymodule"
	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/management"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// asCaddy is an environment variable. If it is set, this test binary runs as Caddy, so that the
// tests see commands and exit statuses as a shell does.
const asCaddy = "KEYGATE_TEST_IS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tokenEnv is the environment variable with the management token for --server.
const tokenEnv = "KEYGATE_TOKEN"

// shell runs Caddy's commands in its own directory.
type shell struct {
	t     *testing.T
	dir   string
	admin string
}

// newShell starts Caddy with a configuration. It replaces ADMIN by the address of the admin
// endpoint, SITE by a free address, and DIR by the directory.
func newShell(t *testing.T, admin, config string) *shell {
	t.Helper()
	// The directory of t.TempDir is too long for the path of a Unix socket.
	dir, err := os.MkdirTemp("", "kg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &shell{t: t, dir: dir, admin: strings.ReplaceAll(admin, "DIR", dir)}
	config = strings.NewReplacer("ADMIN", s.admin, "DIR", dir, "SITE", fmt.Sprint("127.0.0.1:", freePort(t))).Replace(config)
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := s.command("run", "--config", filepath.Join(dir, "Caddyfile"))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	testkit.Eventually(t, "Caddy with the keygate app answers", func() bool {
		return s.run("", "keygate", "--address", s.admin, "status").status == 0 || s.answers()
	})
	return s
}

// answers reports whether the keygate app answers on the admin endpoint.
func (s *shell) answers() bool {
	if !strings.HasPrefix(s.admin, ":") {
		return false
	}
	resp, err := http.Get("http://127.0.0.1" + s.admin + "/keygate/v1/plans")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode != http.StatusServiceUnavailable
}

func (s *shell) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCaddy+"=1", "XDG_CONFIG_HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "HOME="+s.dir, tokenEnv+"=",
		"GORACE=atexit_sleep_ms=10") // Without GORACE, the race detector delays the end of each process by a second.
	cmd.Dir = s.dir
	return cmd
}

// ended is the result of a command.
type ended struct {
	status   int
	out, err string
}

func (s *shell) run(stdin string, args ...string) ended {
	s.t.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return ended{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// keygate runs a command of the CLI, fails the test unless the command ends with the exit status status, and returns the
// output.
func (s *shell) keygate(status int, args ...string) string { return s.piped(status, "", args...) }

func (s *shell) piped(status int, stdin string, args ...string) string {
	s.t.Helper()
	e := s.run(stdin, append([]string{"keygate", "--address", s.admin}, args...)...)
	if e.status != status {
		s.t.Fatalf("%v ended with %d, want %d: %s%s", args, e.status, status, e.out, e.err)
	}
	if (status != 0) != (e.err != "") {
		s.t.Errorf("%v ended with %d and says %q on standard error", args, status, e.err)
	}
	return e.out + e.err
}

const shellConfig = `{
	admin ADMIN
	keygate {
		store sqlite DIR/keygate.db
		scopes admin > deployment > free
		plan free {
			rate 60/m
			max_keys 3
			scopes free
		}
		plan pro {
			scopes deployment
		}
		default_plan free
	}
}
http://SITE {
	keygate {
		scope POST /v1/deploy* deployment
	}
	respond "hello {keygate.tenant}"
}
`

func TestCommands(t *testing.T) {
	s := newShell(t, "unix/DIR/a.sock", shellConfig)
	has := func(got string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("printed %q, which lacks %q", got, want)
			}
		}
	}
	has(s.keygate(0, "tenant", "create", "acme", "--name", "Acme", "--plan", "pro", "--credits", "500"), "acme", "pro", "500")
	has(s.keygate(1, "tenant", "create", "acme"), "already")
	has(s.keygate(1, "tenant", "create", "b", "--plan", "gold"), "plan", "gold")
	has(s.keygate(0, "tenant", "update", "acme", "--rate", "500/m burst 50", "--concurrency", "5"), "500/m burst 50")
	if out := s.keygate(0, "tenant", "update", "acme", "--rate", ""); strings.Contains(out, "500/m") {
		t.Errorf("an empty value did not clear: %s", out)
	}
	has(s.keygate(0, "tenant", "credits", "acme", "--spend", "5", "--reference", "job_1"), "495")
	has(s.keygate(1, "tenant", "credits", "acme", "--spend", "5000"), "balance")
	has(s.keygate(0, "tenant", "credits", "acme"), "495", "job_1")

	// The command prints the full key once, with a curl command that works.
	var k struct {
		management.KeyRecord
		Key, Curl *string
	}
	made := s.keygate(0, "key", "create", "--tenant", "acme", "--name", "ci", "--scope", "deployment", "--env", "live", "--expires", "90d",
		"--allow-ip", "127.0.0.0/8", "--json", "--actor", "Åse")
	if err := json.Unmarshal([]byte(made), &k); err != nil {
		t.Fatalf("%v in %s", err, made)
	}
	if k.CreatedBy != "Åse" || k.Key == nil || k.Curl == nil {
		t.Fatalf("made %s", made)
	}
	words := strings.Split(*k.Curl, " ")
	url := words[len(words)-1]
	body := func() string {
		t.Helper()
		r, _ := http.NewRequest("GET", url, nil)
		r.Header.Set("Authorization", "Bearer "+*k.Key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("the curl %s: %v", *k.Curl, err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(b))
	}
	if got := body(); got != "200 hello acme" {
		t.Errorf("the curl answers %s", got)
	}
	for _, list := range [][]string{{"key", "list"}, {"key", "list", "--json"}, {"key", "get", k.ID}, {"audit", "--json"}} {
		if out := s.keygate(0, list...); strings.Contains(out, *k.Key) {
			t.Errorf("%v prints the full key", list)
		}
	}
	has(s.piped(0, *k.Key+"\n", "verify", "--ip", "127.0.0.1", "--method", "POST", "--path", "/v1/deploy"), "allowed", "acme")
	has(s.piped(1, *k.Key+"\n", "verify", "--ip", "192.0.2.1"), "ip_not_allowed")
	has(s.piped(0, *k.Key, "explain", "--ip", "192.0.2.1"), "ip_not_allowed", "CHECK", "address")

	rotated := s.keygate(0, "key", "rotate", k.ID, "--grace", "24h")
	has(rotated, "Copy the key now", "curl -H 'Authorization: Bearer kg_live_", "valid until")
	if got := body(); got != "200 hello acme" {
		t.Errorf("the old secret answers %s within its grace", got)
	}
	s.keygate(0, "key", "disable", k.ID)
	has(s.keygate(0, "key", "enable", k.ID, "--wait", "2s"), "active")
	has(s.keygate(0, "key", "update", k.ID, "--description", "two\nlines", "--expires", "never"), `two\nlines`)
	has(s.keygate(0, "key", "revoke", k.ID, "--wait", "2s"), "revoked")
	if got := body(); !strings.HasPrefix(got, "401 ") {
		t.Errorf("a revoked key answers %s", got)
	}
	has(s.keygate(1, "key", "enable", k.ID), "revoked")
	has(s.keygate(0, "tenant", "suspend", "acme"), "suspended")
	has(s.keygate(0, "tenant", "activate", "acme"), "active")
	s.keygate(0, "key", "delete", k.ID)
	has(s.keygate(1, "key", "get", k.ID), "no such key")
	s.keygate(0, "tenant", "delete", "acme")
	has(s.keygate(0, "audit"), "Åse", "key.revoked", "tenant.deleted", "cli")
	s.keygate(0, "tenant", "delete", "acme", "--erase")
	if out := s.keygate(0, "audit"); strings.Contains(out, "Åse") || !strings.Contains(out, "tenant.erased") {
		t.Errorf("after erasing, the audit shows %s", out)
	}
	has(s.keygate(0, "audit", "--verify"), "events")
	has(s.keygate(0, "status"), "ok", "sqlite")
	has(s.keygate(0, "scanner-rules"), "[[rules]]", "kg_live_[0-9A-Za-z]{32}")
	has(s.keygate(0, "scanner-rules", "--format", "trufflehog"), "detectors:", "kg_test_")
	has(s.keygate(2, "scanner-rules", "--format", "grep"), "gitleaks")
	has(s.keygate(1, "key", "list", "--keyspace", "nowhere"), "nowhere")
}

func TestAdminOnOpenInterface(t *testing.T) {
	const config = `{
	admin ADMIN
	keygate {
		store sqlite DIR/keygate.db
		keyspace a {
			prefix aa_live_ live
		}
		keyspace b {
			prefix bb_live_ live
			admin_api open
		}
	}
}
`
	admin := fmt.Sprint(":", freePort(t))
	newShell(t, admin, config)
	for query, want := range map[string]int{
		"plans?keyspace=a": 403, "plans?keyspace=b": 200, "plans": 403, "plans?keyspace=nowhere": 403, "nothing?keyspace=a": 403, "nothing?keyspace=b": 404,
	} {
		resp, err := http.Get("http://127.0.0.1" + admin + "/keygate/v1/" + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || want >= 400 && resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s answers %d %v, want %d", query, resp.StatusCode, resp.Header, want)
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	port, err := testserver.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Commands end with the documented exit statuses when Caddy runs them as processes.
func TestExitStatusInShell(t *testing.T) {
	s := &shell{t: t, dir: t.TempDir(), admin: "127.0.0.1:1"}
	for args, status := range map[string]int{
		"key frob": 2, "key get": 2, "key list --nope": 2, "--help": 0, "key create --help": 0, "status --start-wait 0s --address 127.0.0.1:1": 1, "verify --key-file /nowhere": 1,
	} {
		if e := s.run("", append([]string{"keygate"}, strings.Fields(args)...)...); e.status != status {
			t.Errorf("%s ended with %d, want %d: %s", args, e.status, status, e.err)
		}
	}
}
