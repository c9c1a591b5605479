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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
)

// everyKind is a bill's worth of all that is counted.
var everyKind = limits{address: []string{"r 100/h per address"}, tenant: []string{"q 50/month", "c 5 per tenant"}, key: []string{"r 3/h", "c 5"}}

// worksAt charges, refuses, gives back and resets through the Redis at url.
func worksAt(t *testing.T, url string) {
	t.Helper()
	n := newNode(t, url, options{})
	b := n.bill(everyKind)
	if passed := n.admitted(b, 10); passed != 3 {
		t.Errorf("%d passed, not 3", passed)
	}
	eventually(t, "what was refused took nothing", func() bool {
		left := n.peek(b)
		return left["100/h;address"].Remaining == 97 && left["50/month"].Remaining == 47 && left["concurrency"].Remaining == 5
	})
	if err := n.shared.Reset(context.Background(), time.Now(), b.Tenant.Subject, b.Key); err != nil {
		t.Fatal(err)
	}
	if n.admitted(b, 1) != 1 {
		t.Error("refused after the reset")
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

// freePort returns a port that nobody listens on just now.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

func TestTLS(t *testing.T) {
	t.Parallel()
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
	port := freePort(t)
	testserver.NewRedis(t, "--tls-port", port, "--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "cert.pem"), "--tls-auth-clients", "no")
	worksAt(t, "rediss://127.0.0.1:"+port+"/0?skip_verify=true")

	// A certificate that nobody vouches for is not taken unasked.
	n := startNode(t, "rediss://127.0.0.1:"+port+"/0", options{})
	eventually(t, "it is refused", func() bool { return strings.Contains(n.redis.Stats().Problem, "certificate") })
	if !n.redis.Away() {
		t.Error("it is used")
	}
}

// The least that a user of Redis's access control lists needs.
func TestAccessControlList(t *testing.T) {
	t.Parallel()
	server := testserver.NewRedis(t, "--user", "default", "off",
		"--user", "gate", "on", ">secret", "~keygate:*", "+eval", "+evalsha", "+get", "+set", "+zadd", "+zrem", "+zcard", "+zcount",
		"+zremrangebyscore", "+pexpire", "+time", "+ping", "+hello", "+client|setname")
	worksAt(t, "redis://gate:secret@"+server.Addr()+"/0")

	wrong := startNode(t, "redis://gate:wrong-secret@"+server.Addr()+"/0", options{})
	eventually(t, "the password is refused", func() bool { return strings.Contains(wrong.redis.Stats().Problem, "WRONGPASS") })
	if strings.Contains(wrong.redis.Stats().Problem, "wrong-secret") {
		t.Error("the problem names the password")
	}
}

// A Cluster: what several tenants share is in a slot of its own, and still all is charged or nothing.
func TestCluster(t *testing.T) {
	t.Parallel()
	servers := make([]*testserver.Redis, 2)
	clients := make([]rueidis.Client, 2)
	ctx := context.Background()
	for i, slots := range []string{"0 8191", "8192 16383"} {
		servers[i] = testserver.NewRedis(t, "--cluster-enabled", "yes", "--cluster-port", freePort(t), "--cluster-node-timeout", "60000", "--databases", "1")
		clients[i] = connect(t, servers[i].URL())
		from, to, _ := strings.Cut(slots, " ")
		if err := clients[i].Do(ctx, clients[i].B().Arbitrary("CLUSTER", "ADDSLOTSRANGE", from, to).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	host, port, _ := net.SplitHostPort(servers[1].Addr())
	bus, err := clients[1].Do(ctx, clients[1].B().Arbitrary("CONFIG", "GET", "cluster-port").Build()).AsStrMap()
	if err != nil {
		t.Fatal(err)
	}
	if err := clients[0].Do(ctx, clients[0].B().Arbitrary("CLUSTER", "MEET", host, port, bus["cluster-port"]).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	for i := range clients {
		eventually(t, "the cluster is up", func() bool {
			info, err := clients[i].Do(ctx, clients[i].B().ClusterInfo().Build()).ToString()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:2") &&
				strings.Contains(info, "cluster_slots_ok:16384")
		})
	}
	url := "redis://" + servers[0].Addr() + "?addr=" + servers[1].Addr()
	worksAt(t, url)

	// Tenants that share an address share its limit, wherever they are kept.
	n := newNode(t, url, options{})
	passed := 0
	for i := range 20 {
		b := n.bill(limits{address: []string{"r 7/d per address"}})
		id := strconv.Itoa(i)
		b.Address.Subject = n.subject("a:p:shop:pro:192.0.2.7")
		b.Address.Lines = b.Address.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "r 7/d per address")})
		b.Tenant.Subject, b.Key.Subject = n.subject("t:shop:"+id), n.subject("k:shop:"+id)
		b.Tenant.Lines = b.Tenant.Subject.Bind(1, ratelimit.FromPlan, []*ratelimit.Policy{policy(t, "q 1000/month")})
		if !n.charge(b).Refused {
			passed++
		}
	}
	if passed != 7 {
		t.Errorf("%d passed, not 7", passed)
	}
}

// A sentinel knows where the master is.
func TestSentinel(t *testing.T) {
	t.Parallel()
	master := testserver.NewRedis(t)
	host, port, _ := net.SplitHostPort(master.Addr())
	dir, own := t.TempDir(), freePort(t)
	conf := filepath.Join(dir, "sentinel.conf")
	text := "port " + own + "\nbind 127.0.0.1\ndir " + dir + "\nsentinel monitor main " + host + " " + port + " 1\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is not installed: apt-get install redis-server")
	}
	// It ends with the test, and where that is killed, when the pipe to it closes.
	cmd := exec.Command("sh", "-c", `"$0" "$1" --sentinel >/dev/null 2>&1 & pid=$!; cat >/dev/null; kill -9 $pid; wait $pid`, binary, conf)
	end, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = end.Close()
		_ = cmd.Wait()
	})
	worksAt(t, "redis://127.0.0.1:"+own+"?master_set=main")
}

// Addresses that can't be right are refused, and no message repeats what may be a password.
func TestAddresses(t *testing.T) {
	for _, address := range []string{"", "localhost:6379", "http://u:hunter2@h", "redis://u:hunter2@h:port", "redis://u:hunter2@h:6379/x", "redis://u:hunter2@h/1/2", "\x00"} {
		_, err := redis.New(redis.Options{URL: address})
		if err == nil {
			t.Errorf("%q is taken", address)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error repeats it: %v", address, err)
		}
	}
	for _, address := range []string{"redis://h", "rediss://u:p@h:6380/3", "unix:///run/redis.sock", "redis://h:1?addr=i:2&addr=j:3", "redis://s:26379?master_set=main", "valkey://h"} {
		if _, err := redis.New(redis.Options{URL: address}); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}
