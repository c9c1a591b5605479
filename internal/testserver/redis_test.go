package testserver_test

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
)

func TestMain(m *testing.M) { testserver.RunParallel(m, 8) }

// deadline limits the time for steps that always succeed.
const deadline = 30 * time.Second

// line sends a command line to a Redis and returns the first line of the answer.
func line(t *testing.T, conn net.Conn, command string) (string, error) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(deadline))
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer), err
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func want(t *testing.T, conn net.Conn, command, answer string) {
	t.Helper()
	if got, err := line(t, conn, command); err != nil || got != answer {
		t.Fatalf("%s answered %q, %v; wanted %q", command, got, err, answer)
	}
}

func TestRedisIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, killedAndStartedAgain)
}

func killedAndStartedAgain(t *testing.T, kind testserver.RedisKind) {
	r := kind.New(t)
	conn := dial(t, r.Addr())
	want(t, conn, "SET a 1", "+OK")
	r.Kill()
	if got, err := line(t, conn, "PING"); err == nil {
		t.Fatalf("a killed server answered %q", got)
	}
	if conn, err := net.Dial("tcp", r.Addr()); err == nil {
		conn.Close()
		t.Fatal("a killed server takes connections")
	}
	r.Start()
	want(t, dial(t, r.Addr()), "EXISTS a", ":0")
}

func TestRedisIsPaused(t *testing.T) {
	t.Parallel()
	r := testserver.NewRedis(t)
	conn := dial(t, r.Addr())
	r.Pause()
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 16)
	if n, err := conn.Read(b); err == nil {
		t.Fatalf("a paused server answered %q", b[:n])
	}
	r.Resume()
	_ = conn.SetReadDeadline(time.Now().Add(deadline))
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "+PONG\r\n" {
		t.Fatalf("after the pause: %q, %v", b[:n], err)
	}
}

func TestRedisTakesArguments(t *testing.T) {
	t.Parallel()
	r := testserver.NewRedis(t, "--requirepass", "secret")
	if got, err := line(t, dial(t, r.Addr()), "GET a"); err != nil || !strings.HasPrefix(got, "-NOAUTH") {
		t.Fatalf("without the password: %q, %v", got, err)
	}
}

func TestSharedRedisDatabases(t *testing.T) {
	t.Parallel()
	a, b := testserver.RedisURL(t), testserver.RedisURL(t)
	addr, numberA, _ := strings.Cut(strings.TrimPrefix(a, "redis://"), "/")
	other, numberB, _ := strings.Cut(strings.TrimPrefix(b, "redis://"), "/")
	if addr != other || numberA == numberB {
		t.Fatalf("%s and %s: not two databases of one server", a, b)
	}
	conn := dial(t, addr)
	want(t, conn, "SELECT "+numberA, "+OK")
	want(t, conn, "SET a 1", "+OK")
	want(t, conn, "SELECT "+numberB, "+OK")
	want(t, conn, "EXISTS a", ":0")
}

// After a failover, a Cluster and a Sentinel's servers still hold their data, and only the new
// master accepts writes.
func TestRedisFailsOver(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		t.Run("cluster", func(t *testing.T) {
			t.Parallel()
			c := kind.NewCluster(t)
			key := "a"
			for !c.InFirst(key) {
				key += "a"
			}
			first := c.Masters[0]
			want(t, dial(t, first.Addr()), "SET "+key+" 1", "+OK")
			c.FailOver()
			if first == c.Masters[0] {
				t.Fatal("the same server is still the first master")
			}
			want(t, dial(t, c.Masters[0].Addr()), "INCR "+key, ":2")
			for _, other := range []*testserver.Redis{first, c.Masters[1]} {
				if got, err := line(t, dial(t, other.Addr()), "INCR "+key); err != nil || !strings.HasPrefix(got, "-MOVED") || !strings.HasSuffix(got, c.Masters[0].Addr()) {
					t.Errorf("another server answers %q, %v", got, err)
				}
			}
			c.FailOver()
			want(t, dial(t, first.Addr()), "INCR "+key, ":3")
		})
		t.Run("sentinel", func(t *testing.T) {
			t.Parallel()
			s := kind.NewSentinel(t, nil)
			want(t, dial(t, s.Master.Addr()), "SET a 1", "+OK")
			if got, err := line(t, dial(t, s.Replica.Addr()), "INCR a"); err != nil || !strings.HasPrefix(got, "-READONLY") {
				t.Errorf("the replica answers %q, %v", got, err)
			}
			s.FailOver()
			want(t, dial(t, s.Master.Addr()), "INCR a", ":2")
		})
	})
}
