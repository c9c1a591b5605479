package testserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// RedisSentinel is a Sentinel of one test's own, which watches over a master, "main", and its replica.
// It fails over when FailOver says so, and not by itself.
type RedisSentinel struct {
	t               testing.TB
	Sentinel        *Redis
	Master, Replica *Redis
}

// NewSentinel starts a Sentinel and what it watches over, which end with the test, and returns when
// it knows of both. config is added to the Sentinel's configuration file, a line each; the arguments
// to the command line of the two servers, as in New.
func (k RedisKind) NewSentinel(t testing.TB, config []string, arguments ...string) *RedisSentinel {
	t.Helper()
	arguments = append([]string{"--repl-diskless-sync-delay", "0"}, arguments...)
	s := &RedisSentinel{t: t, Master: k.New(t, arguments...)}
	host, port, _ := strings.Cut(s.Master.Addr(), ":")
	s.Replica = k.New(t, append([]string{"--replicaof", host + " " + port}, arguments...)...)
	follows(s.Master, s.Replica)

	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	lines := append([]string{"bind 127.0.0.1", "sentinel monitor main " + host + " " + port + " 1",
		"sentinel down-after-milliseconds main 600000"}, config...)
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := k.prepare(dir, func(int) []string { return []string{conf, "--port", "{port}", "--sentinel"} })
	s.Sentinel = startRedis(t, p, err)
	return s
}

// URL returns an address for those that ask the Sentinel where the master is.
func (s *RedisSentinel) URL() string { return "redis://" + s.Sentinel.Addr() + "?master_set=main" }

// FailOver kills the master, once its replica has all that it has, has the Sentinel put the replica in its place, and
// returns when it did. The killed one is then the Replica, and can be started.
func (s *RedisSentinel) FailOver() {
	s.t.Helper()
	known := func(what, address string) {
		s.t.Helper()
		s.Sentinel.until(what, func() bool { return strings.Contains(s.Sentinel.info("sentinel")["master0"], address) })
	}
	known("it knows the replica", "slaves=1")
	follows(s.Master, s.Replica)
	s.Master.Kill()
	s.Sentinel.until("it begins", func() bool {
		answer, err := s.Sentinel.ask("SENTINEL", "FAILOVER", "main")
		// It may not know yet how the replica is.
		return err == nil && answer == "OK"
	})
	known("the replica takes the master's place", "address="+s.Replica.Addr())
	s.Master, s.Replica = s.Replica, s.Master
}
