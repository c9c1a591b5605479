package testserver

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// RedisCluster is a Redis or Valkey Cluster that one test uses alone: two masters with half of the
// slots each, and a replica of the first. It fails over only when FailOver is called.
type RedisCluster struct {
	t       testing.TB
	Masters [2]*Redis
	Replica *Redis
}

// NewCluster starts a Cluster that ends with t, and returns when all servers agree on its state.
// arguments are added to each server's command line, as in New.
func (k RedisKind) NewCluster(t testing.TB, arguments ...string) *RedisCluster {
	t.Helper()
	var servers [3]*Redis
	for i := range servers {
		servers[i] = k.New(t, append([]string{"--databases", "1", "--cluster-enabled", "yes", "--cluster-port", "{other port}",
			"--cluster-node-timeout", "600000", "--repl-diskless-sync-delay", "0"}, arguments...)...)
	}
	c := &RedisCluster{t, [2]*Redis{servers[0], servers[1]}, servers[2]}
	c.Masters[0].Do("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
	c.Masters[1].Do("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
	// Different epochs avoid a conflict between the servers. The replica gets the highest, so that
	// its takeover wins.
	for i, s := range servers {
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for i, s := range servers {
		_, port, _ := strings.Cut(s.Addr(), ":")
		for _, other := range servers[:i] {
			other.Do("CLUSTER", "MEET", "127.0.0.1", port, s.busPort())
		}
	}
	for _, s := range servers {
		s.until("the server knows the others", func() bool {
			nodes := s.Do("CLUSTER", "NODES")
			return strings.Contains(s.Do("CLUSTER", "INFO"), "cluster_known_nodes:3") && !strings.Contains(nodes, "handshake")
		})
	}
	c.Replica.Do("CLUSTER", "REPLICATE", c.Masters[0].Do("CLUSTER", "MYID"))
	c.agreed()
	return c
}

// URL returns the address of the Cluster, with both masters.
func (c *RedisCluster) URL() string {
	return "redis://" + c.Masters[0].Addr() + "?addr=" + c.Masters[1].Addr()
}

// InFirst reports whether key is in a slot of the first master.
func (c *RedisCluster) InFirst(key string) bool {
	c.t.Helper()
	slot, err := strconv.Atoi(c.Masters[1].Do("CLUSTER", "KEYSLOT", key))
	if err != nil {
		c.t.Fatal(err)
	}
	return slot < 8192
}

// FailOver swaps the first master and its replica, and returns when all servers know. No write is
// lost.
func (c *RedisCluster) FailOver() {
	c.t.Helper()
	follows(c.Masters[0], c.Replica)
	c.Replica.Do("CLUSTER", "FAILOVER", "TAKEOVER")
	c.Masters[0], c.Replica = c.Replica, c.Masters[0]
	c.agreed()
}

// agreed waits until all servers know the masters, and the replica follows the first master.
func (c *RedisCluster) agreed() {
	c.t.Helper()
	replica := c.Replica.Do("CLUSTER", "MYID")
	for _, s := range []*Redis{c.Masters[0], c.Masters[1], c.Replica} {
		s.until("the Cluster is up", func() bool {
			slaves := 0
			for line := range strings.Lines(s.Do("CLUSTER", "NODES")) {
				fields := strings.Fields(line)
				if len(fields) > 2 && strings.Contains(fields[2], "slave") {
					slaves++
					if fields[0] != replica {
						return false
					}
				}
			}
			info := s.Do("CLUSTER", "INFO")
			return slaves == 1 && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384")
		})
	}
	follows(c.Masters[0], c.Replica)
}

// busPort returns the port on which the servers of a Cluster talk to each other.
func (r *Redis) busPort() string {
	r.t.Helper()
	_, after, _ := strings.Cut(r.Do("CLUSTER", "NODES"), "@")
	return after[:strings.IndexAny(after+" ", " ,")]
}

// follows waits until the replica holds everything that the master holds.
func follows(master, replica *Redis) {
	master.t.Helper()
	replica.until("the replica follows its master", func() bool {
		have, want := replica.info("replication"), master.info("replication")
		_, port, _ := strings.Cut(master.Addr(), ":")
		return have["role"] == "slave" && have["master_port"] == port && have["master_link_status"] == "up" && want["role"] == "master" &&
			have["slave_repl_offset"] == want["master_repl_offset"]
	})
}

// info returns one section of the server's INFO answer.
func (r *Redis) info(section string) map[string]string {
	r.t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(r.Do("INFO", section)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// until waits until f returns true, and fails the test after patience. event names the event that
// the test waits for.
func (r *Redis) until(event string, f func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: not within %s: %s", r.p.what, patience, event)
		}
	}
}
