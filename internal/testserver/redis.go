package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// RedisKind is the name of a server program that speaks Redis's protocol.
type RedisKind string

// The supported programs. Valkey may be missing on a machine; see install.sh.
const (
	RedisServer  RedisKind = "redis-server"
	ValkeyServer RedisKind = "valkey-server"
)

// RedisKinds returns the programs to test with: redis-server in any case, valkey-server where it
// is installed.
func RedisKinds() []RedisKind {
	kinds := []RedisKind{RedisServer}
	if _, err := ValkeyServer.binary(); err == nil {
		kinds = append(kinds, ValkeyServer)
	}
	return kinds
}

// EachRedis runs f for each of RedisKinds, in parallel subtests that log the program's version.
func EachRedis(t *testing.T, f func(t *testing.T, kind RedisKind)) {
	for _, kind := range RedisKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			t.Log(kind.Version())
			f(t, kind)
		})
	}
}

func (k RedisKind) binary() (string, error) { return find(string(k), "/usr/local/bin/"+string(k)) }

// Version returns the program's own version text, such as "Redis server v=7.0.15 …". Where the
// program is not installed, it returns the error.
func (k RedisKind) Version() string {
	binary, err := k.binary()
	if err != nil {
		return err.Error()
	}
	out, err := exec.Command(binary, "--version").CombinedOutput()
	if err != nil {
		return string(k) + " --version: " + err.Error()
	}
	return strings.TrimSpace(string(out))
}

// sharedDatabases is how many tests of a package can get a database of a shared server.
const sharedDatabases = 256

// Redis is a Redis or Valkey server that one test uses alone.
type Redis struct{ Server }

// NewRedis starts a redis-server that t uses alone and that ends with t; see RedisKind.New.
func NewRedis(t testing.TB, arguments ...string) *Redis {
	t.Helper()
	return RedisServer.New(t, arguments...)
}

// New starts a server that t uses alone and that ends with t. It writes nothing to disk. arguments
// are added to its command line, such as "--requirepass", "secret"; "{port}" stands for the
// server's port, "{other port}" for a second free one. Where the arguments require a password or
// TLS, an accepted connection counts as started.
func (k RedisKind) New(t testing.TB, arguments ...string) *Redis {
	t.Helper()
	p, err := k.prepare(t.TempDir(), func(port int) []string { return append(k.defaultArguments(port), arguments...) })
	return startRedis(t, p, err)
}

// startRedis starts p for one test. It fails the test where err is not nil.
func startRedis(t testing.TB, p *process, err error) *Redis {
	t.Helper()
	if err == nil {
		err = p.start(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &Redis{Server{t, p}}
	t.Cleanup(r.end)
	return r
}

// URL returns the address of the server's first database: redis://127.0.0.1:port/0.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// defaultArguments returns the command line of a server that writes nothing to disk.
func (k RedisKind) defaultArguments(port int) []string {
	return []string{
		"--port", strconv.Itoa(port), "--daemonize", "no", "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--databases", strconv.Itoa(sharedDatabases),
	}
}

// prepare returns a server that is not started yet. arguments returns its command line for a port.
func (k RedisKind) prepare(dir string, arguments func(port int) []string) (*process, error) {
	binary, err := k.binary()
	if err != nil {
		return nil, err
	}
	p := &process{what: "the " + string(k), binary: binary, dir: dir}
	var other, otherOf int // The second port belongs to a first port, and stays the same over restarts of the server.
	p.arguments = func(port int) []string {
		all := arguments(port)
		for i := range all {
			if strings.Contains(all[i], "{other port}") && otherOf != port {
				otherOf = port
				other, _ = FreePort() // If there is no second port, the server does not start, and its log shows the reason.
			}
			all[i] = strings.NewReplacer("{port}", strconv.Itoa(port), "{other port}", strconv.Itoa(other)).Replace(all[i])
		}
		return all
	}
	p.ready = func() error { return pingRedis("127.0.0.1:" + strconv.Itoa(p.port)) }
	return p, nil
}

// pingRedis returns nil when the server answers anything but "loading", or closes the connection:
// it may require a password or TLS.
func pingRedis(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	switch {
	case strings.HasPrefix(answer, "-LOADING"):
		return errors.New(strings.TrimSpace(answer))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return nil
}

// Do sends a command and returns the answer, a line or a text. An error fails the test.
func (r *Redis) Do(command ...string) string {
	r.t.Helper()
	answer, err := r.Ask(command...)
	if err != nil {
		r.t.Fatalf("%s: %s: %v", r.p.what, strings.Join(command, " "), err)
	}
	return answer
}

// Ask opens a connection, sends a command and returns the answer, a line or a text, or the server's error. The protocol
// is https://redis.io/docs/latest/develop/reference/protocol-spec/.
func (r *Redis) Ask(command ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", r.Addr(), patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, line := line[0], strings.TrimSpace(line[1:])
	switch kind {
	case '+', ':':
		return line, nil
	case '-':
		return "", errors.New(line)
	case '$':
		n, err := strconv.Atoi(line)
		if err != nil || n < 0 {
			return "", fmt.Errorf("the answer has the length %q", line)
		}
		text := make([]byte, n)
		_, err = io.ReadFull(in, text)
		return string(text), err
	}
	return "", fmt.Errorf("the answer has the unknown type %q", kind)
}

// sharedRedis is a server that the tests of a package share.
type sharedRedis struct {
	once  sync.Once
	p     *process
	err   error
	mu    sync.Mutex
	given int
}

var sharedRedises = map[RedisKind]*sharedRedis{RedisServer: {}, ValkeyServer: {}}

// RedisURL returns the address of an empty database of the shared redis-server; see RedisKind.URL.
func RedisURL(t testing.TB) string {
	t.Helper()
	return RedisServer.URL(t)
}

// URL returns the address of an empty database of the server that the tests of a package share:
// redis://127.0.0.1:port/n. Tests have separate keys, but share channels, scripts and FLUSHALL.
// The server ends with the process.
func (k RedisKind) URL(t testing.TB) string {
	t.Helper()
	s := sharedRedises[k]
	s.once.Do(func() {
		dir, err := os.MkdirTemp("", "keygate-redis-")
		if err != nil {
			s.err = err
			return
		}
		if s.p, s.err = k.prepare(dir, k.defaultArguments); s.err == nil {
			s.err = s.p.start(true)
		}
		if s.err != nil {
			_ = os.RemoveAll(dir)
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.given == sharedDatabases {
		t.Fatalf("all databases of the shared %s are in use: raise sharedDatabases", k)
	}
	s.given++
	return fmt.Sprintf("redis://127.0.0.1:%d/%d", s.p.port, s.given-1)
}
