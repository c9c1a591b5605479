package testserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// RedisSentinel is a Sentinel that one test uses alone. It watches a master, "main", and its
// replica. It fails over only when FailOver is called.
type RedisSentinel struct {
	t               testing.TB
	Sentinel        *Redis
	Master, Replica *Redis
}

// NewSentinel starts a master, its replica and a Sentinel, which end with t. The lines in config
// are added to the Sentinel's configuration file. arguments are added to the command lines of the
// two servers, as in New.
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

// URL returns an address for clients that ask the Sentinel for the master.
func (s *RedisSentinel) URL() string { return "redis://" + s.Sentinel.Addr() + "?master_set=main" }

// FailOver waits until the replica holds everything, kills the master and lets the Sentinel
// promote the replica. Afterwards Replica is the killed server, which Start can restart.
func (s *RedisSentinel) FailOver() {
	s.t.Helper()
	known := func(event, text string) {
		s.t.Helper()
		s.Sentinel.until(event, func() bool { return strings.Contains(s.Sentinel.info("sentinel")["master0"], text) })
	}
	known("the Sentinel knows the replica", "slaves=1")
	follows(s.Master, s.Replica)
	s.Master.Kill()
	s.Sentinel.until("the Sentinel begins the failover", func() bool {
		answer, err := s.Sentinel.Ask("SENTINEL", "FAILOVER", "main")
		// The Sentinel rejects the command until it has checked the replica.
		return err == nil && answer == "OK"
	})
	known("the replica takes the master's place", "address="+s.Replica.Addr())
	s.Master, s.Replica = s.Replica, s.Master
}
