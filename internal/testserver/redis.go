package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sharedDatabases is how many tests of a package may have a database of the shared Redis.
const sharedDatabases = 256

// Redis is a Redis server of one test's own.
type Redis struct{ Server }

// NewRedis starts a Redis that is this test's alone and ends with it. It keeps nothing
// on disk. arguments are added to its command line, such as "--requirepass", "secret";
// where they make a plain connection impossible, it counts as started when it accepts one.
func NewRedis(t testing.TB, arguments ...string) *Redis {
	t.Helper()
	p, err := newRedis(t.TempDir(), arguments)
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

// URL returns the server's first database: redis://127.0.0.1:port/0.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// newRedis prepares a server in a directory.
func newRedis(dir string, arguments []string) (*process, error) {
	binary, err := find("redis-server", "/usr/local/bin/redis-server")
	if err != nil {
		return nil, err
	}
	p := &process{what: "the Redis server", binary: binary, dir: dir}
	p.arguments = func(port int) []string {
		return append([]string{
			"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--daemonize", "no",
			"--save", "", "--appendonly", "no", "--databases", strconv.Itoa(sharedDatabases),
		}, arguments...)
	}
	p.ready = func() error { return pingRedis("127.0.0.1:" + strconv.Itoa(p.port)) }
	return p, nil
}

// pingRedis returns nil where a server takes commands, or wants a password or another
// protocol first.
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

var sharedRedis struct {
	once  sync.Once
	p     *process
	err   error
	mu    sync.Mutex
	given int
}

// RedisURL returns an empty database of the Redis that the package's tests share, as
// redis://127.0.0.1:port/n. Keys are apart from those of other tests; channels, scripts
// and FLUSHALL are the server's. It ends with the tests' process.
func RedisURL(t testing.TB) string {
	t.Helper()
	s := &sharedRedis
	s.once.Do(func() {
		dir, err := os.MkdirTemp("", "keygate-redis-")
		if err != nil {
			s.err = err
			return
		}
		if s.p, s.err = newRedis(dir, nil); s.err == nil {
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
		t.Fatal("all databases of the shared Redis are given away")
	}
	s.given++
	return fmt.Sprintf("redis://127.0.0.1:%d/%d", s.p.port, s.given-1)
}
