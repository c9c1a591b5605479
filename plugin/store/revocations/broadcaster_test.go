package revocations

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

func TestMain(m *testing.M) { testserver.RunParallel(m, 8) }

var quiet = slog.New(slog.DiscardHandler)

// cluster is the identity of the store under test.
var cluster = replica.ClusterID{Store: "5f1d", Key: []byte("only the store holds this")}

// connected returns a connection to the Redis at url, of the same kind that limits use.
func connected(t testing.TB, url string) *redis.Redis {
	t.Helper()
	r, err := redis.New(redis.Options{URL: url, Logger: quiet, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	t.Cleanup(func() { r.Close(context.Background()) })
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	if err := r.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

// listener subscribes as a replica does: after an error it subscribes again.
type listener struct {
	mu       sync.Mutex
	received []management.Revocation
	begun    int // begun is the number of subscriptions that received the whole stream.
	failed   []error
}

// listen starts a listener, which stops when the test ends.
func listen(t testing.TB, b replica.Broadcaster, k replica.ClusterID) *listener {
	t.Helper()
	l := &listener{}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() { stop(); <-ended })
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			first := true
			err := b.Subscribe(ctx, k, func(list []management.Revocation) error {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.received = append(l.received, list...)
				if first {
					first = false
					l.begun++
				}
				return nil
			})
			if err == nil {
				t.Error("Subscribe ended without an error")
			}
			l.mu.Lock()
			l.failed = append(l.failed, err)
			l.mu.Unlock()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return l
}

// times returns how often the listener received a revocation.
func (l *listener) times(r management.Revocation) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.received {
		if same(o, r) {
			n++
		}
	}
	return n
}

func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.received)
}

func (l *listener) begins() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun
}

func same(a, b management.Revocation) bool {
	return a.Action == b.Action && a.Keyspace == b.Keyspace && a.ID == b.ID && a.At.Equal(b.At) && a.Actor.Name == b.Actor.Name && slices.Equal(a.Actor.Scopes, b.Actor.Scopes)
}

func revocationOf(n int) management.Revocation {
	return management.Revocation{Action: management.KeyRevoked, Keyspace: "default", ID: "key_" + strconv.Itoa(n),
		At:    time.Now().UTC().Truncate(time.Microsecond),
		Actor: management.Actor{Name: "ada", IP: "192.0.2.1", Via: "api", Scopes: []string{"keys:write"}}}
}

func publish(t testing.TB, b replica.Broadcaster, r management.Revocation) {
	t.Helper()
	if err := b.Publish(context.Background(), cluster, r); err != nil {
		t.Fatal(err)
	}
}

// length returns the number of entries in the stream.
func length(t testing.TB, r *redis.Redis) int64 {
	t.Helper()
	c := client(t, r)
	n, err := c.Do(context.Background(), c.B().Xlen().Key(streamKey(cluster)).Build()).AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func client(t testing.TB, r *redis.Redis) rueidis.Client {
	t.Helper()
	c, err := r.Client()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBroadcast(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, publishedThrough)
}

func publishedThrough(t *testing.T, kind testserver.RedisKind) {
	url := kind.URL(t)
	conn := connected(t, url)
	a, b := New(conn, quiet), New(connected(t, url), quiet)
	subscriber := listen(t, b, cluster)
	own := listen(t, a, cluster)
	others := listen(t, New(connected(t, url), quiet), replica.ClusterID{Store: "another", Key: cluster.Key})
	testkit.Eventually(t, "all listeners subscribe", func() bool { return subscriber.begins() > 0 && own.begins() > 0 && others.begins() > 0 })

	first, second := revocationOf(1), revocationOf(2)
	second.Action = management.TenantSuspended
	for range 3 {
		publish(t, a, first) // Only the first call of publish writes an entry to the stream.
	}
	publish(t, a, second)
	testkit.Eventually(t, "a subscriber receives both", func() bool { return subscriber.times(first) == 1 && subscriber.times(second) == 1 })
	if n := length(t, conn); n != 2 {
		t.Errorf("%d entries", n)
	}
	// A node that received a revocation does not publish it again.
	publish(t, b, first)
	if n := length(t, conn); n != 2 {
		t.Errorf("%d entries after another published it", n)
	}
	late := listen(t, New(connected(t, url), quiet), cluster)
	testkit.Eventually(t, "a later subscriber receives both", func() bool { return late.times(first) == 1 && late.times(second) == 1 })

	// Retract removes only the entry of its revocation: a later revocation of the same key stays in the
	// stream.
	again := first
	again.At = first.At.Add(time.Second)
	publish(t, a, again)
	testkit.Eventually(t, "the revocation is received", func() bool { return subscriber.times(again) == 1 })
	b.Retract(cluster, first)
	b.Retract(cluster, second)
	b.Retract(replica.ClusterID{Store: "another"}, again)
	testkit.Eventually(t, "the retracted entries are removed", func() bool { return length(t, conn) == 1 })
	b.Retract(cluster, again)
	testkit.Eventually(t, "all entries are removed", func() bool { return length(t, conn) == 0 })
	if n := others.count(); n != 0 {
		t.Errorf("nodes of another store received %d entries", n)
	}
	c := client(t, conn)
	if ms, err := c.Do(context.Background(), c.B().Pttl().Key(streamKey(cluster)).Build()).AsInt64(); err != nil || ms <= 0 || ms > MaxAge.Milliseconds() {
		t.Errorf("the entries are kept for %d ms (%v)", ms, err)
	}
	if s := a.Stats(); s.Published != 3 || s.Rejected != 0 {
		t.Errorf("stats: %+v", s)
	}
}

// TestForged writes entries to the stream that no node of the store wrote, and checks that they are
// rejected.
func TestForged(t *testing.T) {
	t.Parallel()
	conn := connected(t, testserver.RedisURL(t))
	b := New(conn, quiet)
	forger := cluster
	forger.Key = []byte("a guess")
	r := revocationOf(1)
	text, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	enabled := revocationOf(2)
	enabled.Action = "key.enabled"
	forbidden, _ := encode(enabled)
	incomplete, _ := encode(management.Revocation{Action: management.KeyRevoked, Keyspace: "default", At: time.Now()})
	c := client(t, conn)
	forged := [][]string{
		{textField, text}, {textField, text, sealField, ""}, {textField, text, sealField, seal(forger, text)},
		{textField, text + " ", sealField, seal(cluster, text)}, {sealField, seal(cluster, "")}, {"a", "b"},
		{textField, forbidden, sealField, seal(cluster, forbidden)}, {textField, incomplete, sealField, seal(cluster, incomplete)},
		{textField, "{", sealField, seal(cluster, "{")},
	}
	for _, fields := range forged {
		if err := c.Do(context.Background(), c.B().Arbitrary("XADD").Keys(streamKey(cluster)).Args(append([]string{"*"}, fields...)...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	l := listen(t, b, cluster)
	good := revocationOf(3)
	publish(t, New(conn, quiet), good)
	testkit.Eventually(t, "the authentic revocation is received", func() bool { return l.times(good) == 1 })
	if l.count() != 1 || b.Stats().Rejected != int64(len(forged)) {
		t.Errorf("received %d, %+v", l.count(), b.Stats())
	}
	// Subscribe must return an error if the Redis key holds a value that is not a stream.
	if err := c.Do(context.Background(), c.B().Set().Key(streamKey(replica.ClusterID{Store: "x"})).Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := b.Subscribe(context.Background(), replica.ClusterID{Store: "x"}, func([]management.Revocation) error { return nil }); err == nil {
		t.Error("no error")
	}
}

// TestOutages publishes and receives revocations through connections that are cut, refused and delayed.
// It also kills Redis, which then loses its data.
func TestOutages(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, outagesOf)
}

func outagesOf(t *testing.T, kind testserver.RedisKind) {
	server := kind.New(t)
	proxy := testserver.NewProxy(t, server.Addr())
	near, far := connected(t, server.URL()), connected(t, "redis://"+proxy.Addr()+"/0")
	a, b := New(near, quiet), New(far, quiet)
	l := listen(t, b, cluster)
	la := listen(t, a, cluster)
	testkit.Eventually(t, "both listeners subscribe", func() bool { return l.begins() > 0 && la.begins() > 0 })
	n := 0
	publishNext := func() management.Revocation {
		n++
		r := revocationOf(n)
		publish(t, a, r)
		return r
	}
	expectReceived := func(event string, r management.Revocation) {
		t.Helper()
		testkit.Eventually(t, event, func() bool { return l.times(r) > 0 })
	}
	expectReceived("the first", publishNext())
	proxy.Cut()
	expectReceived("one published after a cut", publishNext())
	proxy.Refuse()
	r := publishNext()
	proxy.Restore()
	expectReceived("one published while connections are refused", r)
	proxy.Hold()
	r = publishNext()
	if err := b.Publish(context.Background(), cluster, revocationOf(-1)); err == nil {
		t.Error("published through a connection that is held up")
	}
	proxy.Restore()
	expectReceived("one published while the connection is held up", r)

	begun := la.begins()
	server.Kill()
	if err := a.Publish(context.Background(), cluster, revocationOf(-2)); err == nil {
		t.Error("published to a Redis that is not running")
	}
	server.Start()
	testkit.Eventually(t, "the listener subscribes again", func() bool { return la.begins() > begun })
	if length(t, near) != 0 {
		t.Fatal("Redis kept its data")
	}
	publish(t, a, r) // A replica publishes its pending revocations again at intervals, as the test does with publish.
	late := listen(t, New(connected(t, server.URL()), quiet), cluster)
	testkit.Eventually(t, "the revocation is received again", func() bool { return late.times(r) > 0 })
}

// TestAccessControlList checks which Redis commands a Redis user needs to publish and receive
// revocations, in addition to the commands for limits. A user without them must get errors.
func TestAccessControlList(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, accessControlOf)
}

func accessControlOf(t *testing.T, kind testserver.RedisKind) {
	limits := []string{"~keygate:*", "+eval", "+evalsha", "+get", "+set", "+zadd", "+zrem", "+zcard", "+zcount",
		"+zremrangebyscore", "+pexpire", "+time", "+ping", "+hello", "+client|setname"}
	server := kind.New(t, slices.Concat([]string{"--user", "default", "off", "--user", "gate", "on", ">secret"},
		limits, []string{"+xadd", "+xread", "+xdel", "+xtrim", "--user", "limits", "on", ">secret"}, limits)...)
	b := New(connected(t, "redis://gate:secret@"+server.Addr()+"/0"), quiet)
	l := listen(t, b, cluster)
	r := revocationOf(1)
	publish(t, b, r)
	testkit.Eventually(t, "the revocation is received", func() bool { return l.times(r) == 1 })
	b.Retract(cluster, r)
	testkit.Eventually(t, "the entry is removed", func() bool {
		late := 0
		ctx, stop := context.WithCancel(context.Background())
		_ = New(b.redis, quiet).Subscribe(ctx, cluster, func(list []management.Revocation) error { late += len(list); stop(); return nil })
		return late == 0
	})
	without := New(connected(t, "redis://limits:secret@"+server.Addr()+"/0"), quiet)
	if err := without.Publish(context.Background(), cluster, r); err == nil {
		t.Error("a user without the commands published")
	}
	if err := without.Subscribe(context.Background(), cluster, func([]management.Revocation) error { return nil }); err == nil {
		t.Error("a user without the commands subscribed")
	}
}

// TestFailover publishes and receives revocations through a Redis Cluster and through Redis Sentinel. It
// does so before and after a replica replaces the server that holds the stream.
func TestFailover(t *testing.T) {
	t.Parallel()
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		t.Run("cluster", func(t *testing.T) {
			t.Parallel()
			c := kind.NewCluster(t)
			k := cluster
			for !c.InFirst(streamKey(k)) {
				k.Store += "0"
			}
			failover(t, c.URL(), k, c.FailOver)
			c.Replica.Kill() // Subscriptions do not need the replica server that is killed.
			l := listen(t, New(connected(t, c.URL()), quiet), k)
			testkit.Eventually(t, "a listener subscribes without the replica", func() bool { return l.begins() > 0 })
		})
		t.Run("sentinel", func(t *testing.T) {
			t.Parallel()
			s := kind.NewSentinel(t, nil)
			failover(t, s.URL(), cluster, s.FailOver)
		})
	})
}

func failover(t *testing.T, url string, k replica.ClusterID, failOver func()) {
	t.Helper()
	conn := connected(t, url)
	a, b := New(conn, quiet), New(connected(t, url), quiet)
	la, lb := listen(t, a, k), listen(t, b, k)
	testkit.Eventually(t, "both listeners subscribe", func() bool { return la.begins() > 0 && lb.begins() > 0 })
	publishTo := func(r management.Revocation) {
		t.Helper()
		// A node that failed to publish a revocation tries again.
		testkit.Eventually(t, "the revocation is published", func() bool { return a.Publish(context.Background(), k, r) == nil })
		testkit.Eventually(t, "the revocation is received", func() bool { return lb.times(r) > 0 })
	}
	before, after := revocationOf(1), revocationOf(2)
	publishTo(before)
	failOver()
	publishTo(after)
	late := listen(t, New(connected(t, url), quiet), k)
	testkit.Eventually(t, "a later subscriber receives both", func() bool { return late.times(before) == 1 && late.times(after) == 1 })
	c := client(t, conn)
	testkit.Eventually(t, "the retracted entries are removed", func() bool {
		b.Retract(k, before)
		b.Retract(k, after)
		n, err := c.Do(context.Background(), c.B().Xlen().Key(streamKey(k)).Build()).AsInt64()
		return err == nil && n == 0
	})
}

// TestLostEntries deletes the stream in Redis while all nodes stay connected. New
// revocations and a lost revocation that is published again must reach the nodes.
func TestLostEntries(t *testing.T) {
	t.Parallel()
	conn := connected(t, testserver.RedisURL(t))
	a, b := New(conn, quiet), New(conn, quiet)
	a.rereadEvery, b.rereadEvery = 50*time.Millisecond, 50*time.Millisecond
	la, lb := listen(t, a, cluster), listen(t, b, cluster)
	first, second := revocationOf(1), revocationOf(2)
	publish(t, a, first)
	testkit.Eventually(t, "the revocation is received", func() bool { return la.times(first) == 1 && lb.times(first) == 1 })
	c := client(t, conn)
	if err := c.Do(context.Background(), c.B().Del().Key(streamKey(cluster)).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	// The new entries have lower ids than entries that the nodes already received. That happens after a
	// fail-over to a server whose clock is behind.
	text, err := encode(second)
	if err != nil {
		t.Fatal(err)
	}
	behind := strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10)
	for id, fields := range [][]string{{textField, "", sealField, ""}, {textField, text, sealField, seal(cluster, text)}} {
		add := c.B().Arbitrary("XADD").Keys(streamKey(cluster)).Args(behind + "-" + strconv.Itoa(id)).Args(fields...).Build()
		if err := c.Do(context.Background(), add).Error(); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "the entry with the lower id is received", func() bool { return la.times(second) == 1 && lb.times(second) == 1 })
	testkit.Eventually(t, "the lost revocation is published again", func() bool {
		publish(t, a, first)
		return length(t, conn) == 3
	})
	testkit.Eventually(t, "the lost revocation is received again", func() bool { return lb.times(first) == 2 })
	if n := lb.times(second); n != 1 {
		t.Errorf("the revocation that was not lost was received %d times", n)
	}
	if n := b.Stats().Rejected; n > 1 {
		t.Errorf("the invalid entry was rejected %d times", n)
	}
	a.Retract(cluster, first)
	a.Retract(cluster, second)
	testkit.Eventually(t, "all revocations are removed", func() bool { return length(t, conn) == 1 })
}

// TestMany publishes more revocations than one read returns, and checks that all are received.
func TestMany(t *testing.T) {
	t.Parallel()
	url := testserver.RedisURL(t)
	a := New(connected(t, url), quiet)
	const many = 2*readBatch + 10
	for i := range many {
		publish(t, a, revocationOf(i))
	}
	b := New(connected(t, url), quiet)
	l := listen(t, b, cluster)
	testkit.Eventually(t, "all revocations are received", func() bool { return l.count() == many })
	l.mu.Lock()
	for _, r := range l.received {
		b.Retract(cluster, r)
	}
	l.mu.Unlock()
	testkit.Eventually(t, "all entries are removed", func() bool { return length(t, connectedAs(b)) == 0 })
	testkit.Eventually(t, "the broadcaster forgets all entries", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.n == 0 && len(b.entries) == 0 && len(b.retracted) == 0
	})
	// A revocation for which the subscriber's function returns an error is received again.
	publish(t, a, revocationOf(many))
	errNotNow := errors.New("not now")
	if err := b.Subscribe(context.Background(), cluster, func([]management.Revocation) error { return errNotNow }); !errors.Is(err, errNotNow) {
		t.Errorf("%v", err)
	}
}

func connectedAs(b *Broadcaster) *redis.Redis { return b.redis.(*redis.Redis) }

// FuzzOpen parses arbitrary stream entries, because every user with access to Redis may write them.
func FuzzOpen(f *testing.F) {
	text, err := encode(revocationOf(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, true)
	f.Add(text, false)
	f.Add(`{"action":"key.enabled","keyspace":"default","id":"x","at":1}`, true)
	f.Add(`{"at":-9223372036854775808}`, true)
	f.Fuzz(func(t *testing.T, text string, sealed bool) {
		s := "x"
		if sealed {
			s = seal(cluster, text)
		}
		r, err := openMessage(cluster, map[string]string{textField: text, sealField: s})
		if err != nil {
			return
		}
		if !sealed {
			t.Fatal("an entry without authentication was accepted")
		}
		if r.Change().ID == "" || r.Change().Keyspace == "" || r.At.IsZero() {
			t.Fatalf("%+v", r)
		}
	})
}
