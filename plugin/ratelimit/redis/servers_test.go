package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
)

// everyKind has a limit of every kind that Redis counts.
var everyKind = limits{address: []string{"r 100/h per address"}, tenant: []string{"q 50/month", "c 5 per tenant"}, key: []string{"r 3/h", "c 5"}}

// worksAt charges, is denied, refunds and resets through the Redis at url.
func worksAt(t *testing.T, url string) {
	t.Helper()
	n := newNode(t, url, options{})
	b := n.bill(everyKind)
	if passed := n.admitted(b, 10); passed != 3 {
		t.Errorf("%d passed, not 3", passed)
	}
	testkit.Eventually(t, "denied requests took nothing", func() bool {
		left := n.peek(b)
		return left["100/h;address"].Remaining == 97 && left["50/month"].Remaining == 47 && left["concurrency"].Remaining == 5
	})
	if err := n.shared.Reset(context.Background(), time.Now(), b.Tenant.Subject, b.Key); err != nil {
		t.Fatal(err)
	}
	if n.admitted(b, 1) != 1 {
		t.Error("denied after the reset")
	}
	b.Cost = 1
	n.shared.Adjust(context.Background(), time.Now(), b, -1)
	if left := n.peek(b)["50/month"].Remaining; left != 47 {
		t.Errorf("%d left after the refund, not 47", left)
	}
	if s := n.redis.Stats(); s.Errors != 0 || s.Nodes != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, tlsWith)
}

func tlsWith(t *testing.T, kind testserver.RedisKind) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: raw}}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := kind.New(t, "--port", "0", "--tls-port", "{port}", "--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "cert.pem"), "--tls-auth-clients", "no")
	worksAt(t, "rediss://"+server.Addr()+"/0?skip_verify=true")

	// A certificate of an unknown authority is rejected unless the address has skip_verify.
	n := startNode(t, "rediss://"+server.Addr()+"/0", options{})
	testkit.Eventually(t, "the certificate is rejected", func() bool { return strings.Contains(n.redis.Stats().Problem, "certificate") })
	if !n.redis.Unreachable() {
		t.Error("the server is used")
	}
}

// gate is the shortest access control list with which a user of Redis can serve a gateway. Its last two lines are needed for
// a numbered database, for Sentinel and for a Cluster. The manual shows the same list.
var gate = []string{"--user", "gate", "on", ">secret", "~keygate:*", "+eval", "+evalsha", "+get", "+set", "+zadd", "+zrem", "+zcard", "+zcount",
	"+zremrangebyscore", "+pexpire", "+time", "+ping", "+hello", "+client|setname",
	"+select", "+role", "+cluster|slots", "+cluster|shards"}

// as returns the address with the user added.
func as(user, url string) string { return strings.Replace(url, "redis://", "redis://"+user+"@", 1) }

// The user of gate can run every command that is sent to a single server, a Sentinel and a
// Cluster.
func TestAccessControlList(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		rejected := func(t *testing.T, server *testserver.Redis, n int) {
			t.Helper()
			c := connect(t, server.URL())
			log, err := c.Do(context.Background(), c.B().Arbitrary("ACL", "LOG").Build()).ToArray()
			if err != nil || len(log) != n {
				t.Errorf("Redis rejected %d of the user's commands, not %d (%v):\n%v", len(log), n, err, log)
			}
		}
		t.Run("alone", func(t *testing.T) {
			t.Parallel()
			server := kind.New(t, gate...)
			worksAt(t, as("gate:secret", server.URL()))
			worksAt(t, as("gate:secret", "redis://"+server.Addr()+"/3"))
			rejected(t, server, 0)
			wrong := startNode(t, as("gate:wrong-secret", server.URL()), options{})
			testkit.Eventually(t, "the password is rejected", func() bool { return strings.Contains(wrong.redis.Stats().Problem, "WRONGPASS") })
			if strings.Contains(wrong.redis.Stats().Problem, "wrong-secret") {
				t.Error("the problem names the password")
			}
			rejected(t, server, 1)
		})
		t.Run("sentinel", func(t *testing.T) {
			t.Parallel()
			s := kind.NewSentinel(t, []string{"requirepass guard"}, gate...)
			worksAt(t, as("gate:secret", s.URL()+"&sentinel_password=guard"))
			without := startNode(t, as("gate:secret", s.URL()), options{})
			testkit.Eventually(t, "the Sentinel rejects a client without a password", func() bool { return strings.Contains(without.redis.Stats().Problem, "NOAUTH") })
			rejected(t, s.Master, 0)
		})
		t.Run("cluster", func(t *testing.T) {
			t.Parallel()
			c := kind.NewCluster(t, gate...)
			// The address names one server of the Cluster. The client finds the other servers from that one.
			worksAt(t, as("gate:secret", "redis://"+c.Masters[1].Addr()))
			for _, server := range []*testserver.Redis{c.Masters[0], c.Masters[1], c.Replica} {
				rejected(t, server, 0)
			}
		})
	})
}

// In a Redis Cluster, a tenant's counters may be on another server than its keys' counters, and a
// request is still charged in all of them or in none. Counting continues after a replica replaces
// its master, and after the loss of a replica.
func TestCluster(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, clusterWith)
}

func clusterWith(t *testing.T, kind testserver.RedisKind) {
	c := kind.NewCluster(t)
	url := c.URL()
	worksAt(t, url)

	// Tenants whose clients share an address also share the limit of the address, in whatever slots their own counts are.
	n := newNode(t, url, options{})
	visit := func(tenant int) bool {
		b := n.bill(limits{address: []string{"r 7/d per address"}})
		id := strconv.Itoa(tenant)
		b.Address.Subject = n.subject("a:p:shop:pro:192.0.2.7")
		b.Address.Lines = b.Address.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "r 7/d per address")})
		b.Tenant.Subject, b.Key.Subject = n.subject("t:shop:"+id), n.subject("k:shop:"+id)
		b.Tenant.Lines = b.Tenant.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "q 1000/month")})
		return !n.charge(b).Denied
	}
	passed := 0
	for i := range 20 {
		if visit(i) {
			passed++
		}
	}
	if passed != 7 {
		t.Errorf("%d passed, not 7", passed)
	}

	tenants := map[string]*ratelimit.Bill{}
	spend := func(times, want int) {
		t.Helper()
		for half, b := range tenants {
			if passed := n.admitted(b, times); passed != want {
				t.Errorf("the %s half: %d passed, not %d", half, passed, want)
			}
		}
	}
	for i := 0; len(tenants) < 2; i++ {
		id := "of" + strconv.Itoa(i)
		half := "second"
		if c.InFirst("{shop:" + id + "}") {
			half = "first"
		}
		if tenants[half] == nil {
			b := &ratelimit.Bill{Cost: 1}
			b.Tenant.Subject, b.Key.Subject = n.subject("t:shop:"+id), n.subject("k:shop:"+id)
			b.Key.Lines = b.Key.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "r 10/d")})
			tenants[half] = b
		}
	}
	spend(4, 4)
	c.FailOver()
	spend(3, 3)
	if s := n.redis.Stats(); s.Errors != 0 {
		t.Errorf("a failover counts as an outage: %+v", s)
	}
	// The loss of a replica is no outage, not even for a node that starts after the loss.
	c.Replica.Kill()
	late := newNode(t, url, options{})
	for half, b := range tenants {
		other := *b
		other.Tenant.Subject, other.Key.Subject = late.subject(b.Tenant.Subject.ID()), late.subject(b.Key.Subject.ID())
		other.Key.Lines = other.Key.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "r 10/d")})
		if passed := late.admitted(&other, 2); passed != 2 {
			t.Errorf("the %s half: %d passed at another node, not 2", half, passed)
		}
	}
	spend(10, 1)
}

// TestSentinel checks that a node finds the master behind Sentinel, and later the replica that replaces the master.
func TestSentinel(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		s := kind.NewSentinel(t, nil)
		worksAt(t, s.URL())
		n := newNode(t, s.URL(), options{})
		b := n.bill(limits{tenant: []string{"q 1000/month"}, key: []string{"r 10/d"}})
		b.Tenant.Subject, b.Key.Subject = n.subject("t:shop:other"), n.subject("k:shop:other")
		if passed := n.admitted(b, 4); passed != 4 {
			t.Fatalf("%d passed", passed)
		}
		s.FailOver()
		testkit.Eventually(t, "the new master is used", func() bool {
			_, err := n.redis.Ask(context.Background(), nil, true)
			return err == nil && !n.redis.Unreachable()
		})
		if passed := n.admitted(b, 20); passed != 6 {
			t.Errorf("%d passed, not the remaining 6", passed)
		}
	})
}

// A replica is not used for counting, and Stats reports the reason, until it becomes a master.
func TestReplicaIsRejected(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		master := kind.New(t, "--repl-diskless-sync-delay", "0")
		host, port, _ := net.SplitHostPort(master.Addr())
		replica := kind.New(t, "--replicaof", host+" "+port)
		n := startNode(t, replica.URL(), options{nodes: 2})
		testkit.Eventually(t, "the problem names the reason", func() bool { return strings.Contains(n.redis.Stats().Problem, "READONLY") })
		if passed := n.admitted(n.bill(limits{key: []string{"r 10/h"}}), 20); passed != 5 {
			t.Errorf("%d passed, not half of 10", passed)
		}
		if !n.redis.Unreachable() {
			t.Error("the server is used")
		}
		c := connect(t, replica.URL())
		if err := c.Do(context.Background(), c.B().Replicaof().No().One().Build()).Error(); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the server is used once it is a master", func() bool { return !n.redis.Unreachable() })
	})
}

// New rejects malformed addresses, and no error contains a part that may be a password.
func TestAddressErrors(t *testing.T) {
	for _, address := range []string{"", "localhost:6379", "http://u:hunter2@h", "redis://u:hunter2@h:port", "redis://u:hunter2@h:6379/x", "redis://u:hunter2@h/1/2", "\x00",
		"redis:u:hunter2@h:6379", "redis://u:hunter2@h:6379?ssl=true", "redis+sentinel://u:hunter2@h/main", "redis-sentinel://h"} {
		_, err := redis.New(redis.Options{URL: address})
		if err == nil {
			t.Errorf("%q is accepted", address)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error contains the password: %v", address, err)
		}
	}
	for _, address := range []string{"redis://h", "rediss://u:p@h:6380/3", "unix:///run/redis.sock", "redis://h:1?addr=i:2&addr=j:3", "redis://s:26379?master_set=main", "valkey://h"} {
		if _, err := redis.New(redis.Options{URL: address}); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}
