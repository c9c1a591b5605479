package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
)

// patience is how long the tests wait for an event that always comes. patience is no promise about the
// gateway: it only distinguishes a test that hangs from a test on a busy machine.
const patience = 30 * time.Second

// gateway is one gateway: its files, its addresses, and its process while it runs.
type gateway struct {
	t testing.TB
	// dir holds all files that the gateway may write: home, data, database and log.
	dir    string
	config string
	// program is the path of the gateway's binary. Default: the binary that the tests build from this source.
	program string
	// site is the URL of the gateway's site, and adminAddr the address of Caddy's admin endpoint.
	site, adminAddr, database string
	env                       []string
	client                    *http.Client
	upstream                  *upstream

	process *exec.Cmd
	exited  chan struct{}
	// status is the error with which the process ended, or nil. It is set before exited is closed.
	status error
	// reloaded is true if the gateway has replaced its configuration since the process started.
	reloaded atomic.Bool

	mu sync.Mutex
	// secrets are full keys and other secrets. They must never be in the gateway's log.
	secrets []string
}

// start starts a gateway with a configuration file and the upstream up. It returns when the gateway serves
// requests. When the test ends, the gateway is stopped and its log is searched for secrets.
func start(t testing.TB, config string, up *upstream, env ...string) *gateway {
	t.Helper()
	g := prepare(t, config, up, env...)
	g.start()
	return g
}

// shipped returns the path of a file that comes with the gateway, such as a configuration.
func shipped(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// written writes a configuration with the given text to a file, and returns the file's path.
func written(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// prepare returns a gateway whose process is not started yet.
func prepare(t testing.TB, config string, up *upstream, env ...string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), config: config, upstream: up}
	g.database = filepath.Join(g.dir, "keygate.db")
	g.site = "http://127.0.0.1:" + freePort(t)
	g.adminAddr = "127.0.0.1:" + freePort(t)
	behind := "127.0.0.1:" + freePort(t)
	if up != nil {
		behind = up.addr
	}
	g.env = append(sandbox(g.dir),
		"KEYGATE_LISTEN="+g.site, "KEYGATE_UPSTREAM="+behind, "KEYGATE_ADMIN="+g.adminAddr, "KEYGATE_DB="+g.database)
	g.env = append(g.env, env...)
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	g.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		g.end()
	})
	return g
}

// sandbox returns an environment that keeps all files of a process in dir.
func sandbox(dir string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir,
		"XDG_DATA_HOME=" + filepath.Join(dir, "data"), "XDG_CONFIG_HOME=" + filepath.Join(dir, "config"),
		"GORACE=halt_on_error=0 atexit_sleep_ms=10", // By default, each process under the race detector sleeps for a second before it ends.
	}
}

// freePort returns a port on which no process listens.
func freePort(t testing.TB) string {
	t.Helper()
	port, err := testserver.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

func (g *gateway) logPath() string { return filepath.Join(g.dir, "gateway.log") }

// start starts the gateway's process with the existing data, and waits until it serves requests.
func (g *gateway) start() {
	g.t.Helper()
	g.launch()
	g.await()
}

// launch starts the gateway's process, and does not wait until it serves requests.
func (g *gateway) launch() {
	g.t.Helper()
	log, err := os.OpenFile(g.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close() // The test may close the log file, because the process has its own descriptor of the file.
	if g.program == "" {
		g.program = gatewayBinary(g.t)
	}
	c := exec.Command(g.program, "run", "--config", g.config, "--adapter", "caddyfile")
	c.Dir, c.Env, c.Stdout, c.Stderr = g.dir, g.env, log, log
	if err := c.Start(); err != nil {
		g.t.Fatal(err)
	}
	exited := make(chan struct{})
	g.process, g.exited = c, exited
	go func() {
		g.status = c.Wait()
		close(exited)
	}()
}

// await waits until the gateway serves requests. Caddy reports the apps of a configuration as running only
// when all of them have started.
func (g *gateway) await() {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if g.serves() {
			return
		}
		select {
		case <-g.exited:
			g.t.Fatalf("the gateway did not start: %v", g.status)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			g.t.Fatal("the gateway does not serve")
		}
	}
}

func (g *gateway) serves() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+g.adminAddr+"/keygate/v1/status", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := g.client.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var status struct {
		Degraded bool `json:"degraded"`
	}
	return resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(&status) == nil && !status.Degraded
}

// running reports whether the gateway's process is alive.
func (g *gateway) running() bool {
	if g.process == nil {
		return false
	}
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// pause suspends the process, and resume continues it.
func (g *gateway) pause()  { g.t.Helper(); g.signal(syscall.SIGSTOP) }
func (g *gateway) resume() { g.t.Helper(); g.signal(syscall.SIGCONT) }

// signal sends a signal to the gateway's process.
func (g *gateway) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.process.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// stop ends the gateway's process cleanly and checks that its exit status is 0.
func (g *gateway) stop() {
	g.t.Helper()
	g.client.CloseIdleConnections()
	g.signal(syscall.SIGTERM)
	select {
	case <-g.exited:
	case <-time.After(patience):
		// SIGQUIT makes the process write the stacks of its goroutines. The stacks show where the process hangs.
		_ = g.process.Process.Signal(syscall.SIGQUIT)
		<-g.exited
		g.t.Fatal("the gateway did not stop")
	}
	if g.status != nil {
		g.t.Errorf("the gateway stopped with %v", g.status)
	}
}

// kill ends the process without a clean stop, as a crash does. The files keep everything that the process
// has written.
func (g *gateway) kill() {
	g.t.Helper()
	g.signal(syscall.SIGKILL)
	<-g.exited
}

// restart stops the gateway and starts it on the same data.
func (g *gateway) restart() {
	g.t.Helper()
	g.stop()
	g.start()
}

// end stops the process when the test ends, and searches the log for data races, panics and
// secrets.
func (g *gateway) end() {
	if g.process == nil {
		return
	}
	if g.running() {
		_ = g.process.Process.Signal(syscall.SIGCONT)
		g.stop()
	}
	log := g.log()
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		if i := strings.Index(log, bad); i >= 0 {
			g.t.Errorf("in the log:\n%s", log[i:min(len(log), i+6000)])
		}
	}
	for _, secret := range g.secrets {
		for line := range strings.Lines(log) {
			if strings.Contains(line, secret) {
				g.t.Errorf("a full key is in the log: %s", line)
				break
			}
		}
	}
	if g.t.Failed() {
		g.t.Log(g.tail())
	}
}

// keep registers a secret, which the log must never contain.
func (g *gateway) keep(secret string) {
	if secret != "" {
		g.mu.Lock()
		g.secrets = append(g.secrets, secret)
		g.mu.Unlock()
	}
}

// log returns everything that the gateway has written to its log.
func (g *gateway) log() string {
	b, err := os.ReadFile(g.logPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		g.t.Error(err)
	}
	return string(b)
}

// tail returns the end of the log for the message of a test failure. It omits lines about the test's own
// calls of the admin endpoint.
func (g *gateway) tail() string {
	const lines = 40
	var all []string
	for line := range strings.Lines(g.log()) {
		if line = strings.TrimRight(line, "\n"); !strings.Contains(line, `"logger":"admin.api","msg":"received request"`) {
			all = append(all, line[:min(len(line), 2000)])
		}
	}
	return fmt.Sprintf("the end of the gateway's log (%s):\n%s", g.config, strings.Join(all[max(0, len(all)-lines):], "\n"))
}

// stored returns the bytes of the database files, including the write-ahead log.
func (g *gateway) stored() []byte {
	g.t.Helper()
	files, err := filepath.Glob(g.database + "*")
	if err != nil || len(files) == 0 {
		g.t.Fatalf("no database at %s: %v", g.database, err)
	}
	var all bytes.Buffer
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		all.Write(b)
	}
	return all.Bytes()
}
