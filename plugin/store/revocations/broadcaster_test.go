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

// cluster are the nodes of the store under test.
var cluster = replica.ClusterID{Store: "5f1d", Key: []byte("only the store holds this")}

// connected returns a connection to the Redis at url, as limits make it.
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

// listener subscribes as a replica does: again after an error.
type listener struct {
	mu       sync.Mutex
	received []management.Revocation
	begun    int // how often it received the whole stream
	failed   []error
}

// listen has a listener subscribe until the test ends.
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
				t.Error("it ended without a reason")
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

// times returns how often a revocation was received.
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

func tell(t testing.TB, b replica.Broadcaster, r management.Revocation) {
	t.Helper()
	if err := b.Publish(context.Background(), cluster, r); err != nil {
		t.Fatal(err)
	}
}

// length returns how many entries there are in Redis.
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
	there := listen(t, b, cluster)
	own := listen(t, a, cluster)
	others := listen(t, New(connected(t, url), quiet), replica.ClusterID{Store: "another", Key: cluster.Key})
	testkit.Eventually(t, "all listen", func() bool { return there.begins() > 0 && own.begins() > 0 && others.begins() > 0 })

	first, second := revocationOf(1), revocationOf(2)
	second.Action = management.TenantSuspended
	for range 3 {
		tell(t, a, first) // once
	}
	tell(t, a, second)
	testkit.Eventually(t, "a subscriber receives both", func() bool { return there.times(first) == 1 && there.times(second) == 1 })
	if n := length(t, conn); n != 2 {
		t.Errorf("%d entries", n)
	}
	// One that hears of it need not say it again.
	tell(t, b, first)
	if n := length(t, conn); n != 2 {
		t.Errorf("%d entries after another published it", n)
	}
	late := listen(t, New(connected(t, url), quiet), cluster)
	testkit.Eventually(t, "a later subscriber receives both", func() bool { return late.times(first) == 1 && late.times(second) == 1 })

	// What was decided again since stays.
	again := first
	again.At = first.At.Add(time.Second)
	tell(t, a, again)
	testkit.Eventually(t, "it is received", func() bool { return there.times(again) == 1 })
	b.Retract(cluster, first)
	b.Retract(cluster, second)
	b.Retract(replica.ClusterID{Store: "another"}, again)
	testkit.Eventually(t, "the withdrawn are gone", func() bool { return length(t, conn) == 1 })
	b.Retract(cluster, again)
	testkit.Eventually(t, "all are gone", func() bool { return length(t, conn) == 0 })
	if n := others.count(); n != 0 {
		t.Errorf("nodes of another store heard %d entries", n)
	}
	c := client(t, conn)
	if ms, err := c.Do(context.Background(), c.B().Pttl().Key(streamKey(cluster)).Build()).AsInt64(); err != nil || ms <= 0 || ms > MaxAge.Milliseconds() {
		t.Errorf("the entries are kept for %d ms (%v)", ms, err)
	}
	if s := a.Stats(); s.Published != 3 || s.Rejected != 0 {
		t.Errorf("stats: %+v", s)
	}
}

// TestForged writes to Redis what no node of the store said.
func TestForged(t *testing.T) {
	t.Parallel()
	conn := connected(t, testserver.RedisURL(t))
	b := New(conn, quiet)
	stranger := cluster
	stranger.Key = []byte("a guess")
	r := revocationOf(1)
	text, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	enabled := revocationOf(2)
	enabled.Action = "key.enabled"
	forbidden, _ := encode(enabled)
	nameless, _ := encode(management.Revocation{Action: management.KeyRevoked, Keyspace: "default", At: time.Now()})
	c := client(t, conn)
	forged := [][]string{
		{textField, text}, {textField, text, sealField, ""}, {textField, text, sealField, seal(stranger, text)},
		{textField, text + " ", sealField, seal(cluster, text)}, {sealField, seal(cluster, "")}, {"a", "b"},
		{textField, forbidden, sealField, seal(cluster, forbidden)}, {textField, nameless, sealField, seal(cluster, nameless)},
		{textField, "{", sealField, seal(cluster, "{")},
	}
	for _, fields := range forged {
		if err := c.Do(context.Background(), c.B().Arbitrary("XADD").Keys(streamKey(cluster)).Args(append([]string{"*"}, fields...)...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	l := listen(t, b, cluster)
	good := revocationOf(3)
	tell(t, New(conn, quiet), good)
	testkit.Eventually(t, "what is true is received", func() bool { return l.times(good) == 1 })
	if l.count() != 1 || b.Stats().Rejected != int64(len(forged)) {
		t.Errorf("heard %d, %+v", l.count(), b.Stats())
	}
	// Where there is something else in its place, that is an error.
	if err := c.Do(context.Background(), c.B().Set().Key(streamKey(replica.ClusterID{Store: "x"})).Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := b.Subscribe(context.Background(), replica.ClusterID{Store: "x"}, func([]management.Revocation) error { return nil }); err == nil {
		t.Error("no error")
	}
}

// TestOutages tells and hears through connections that are cut, refused and silent, and over a Redis
// that is killed and forgets everything.
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
	testkit.Eventually(t, "both listen", func() bool { return l.begins() > 0 && la.begins() > 0 })
	n := 0
	publish := func() management.Revocation {
		n++
		r := revocationOf(n)
		tell(t, a, r)
		return r
	}
	expectReceived := func(what string, r management.Revocation) {
		t.Helper()
		testkit.Eventually(t, what, func() bool { return l.times(r) > 0 })
	}
	expectReceived("at first", publish())
	proxy.Cut()
	expectReceived("after a cut", publish())
	proxy.Refuse()
	r := publish()
	proxy.Restore()
	expectReceived("what was told while it was cut off", r)
	proxy.Hold()
	r = publish()
	if err := b.Publish(context.Background(), cluster, revocationOf(-1)); err == nil {
		t.Error("it could be told through a connection that nothing passes")
	}
	proxy.Restore()
	expectReceived("what was told while nothing passed", r)

	begun := la.begins()
	server.Kill()
	if err := a.Publish(context.Background(), cluster, revocationOf(-2)); err == nil {
		t.Error("it could be told to a Redis that is not there")
	}
	server.Start()
	testkit.Eventually(t, "it is listened again", func() bool { return la.begins() > begun })
	if length(t, near) != 0 {
		t.Fatal("Redis forgot nothing")
	}
	tell(t, a, r) // as a replica does from time to time
	late := listen(t, New(connected(t, server.URL()), quiet), cluster)
	testkit.Eventually(t, "it is heard again", func() bool { return late.times(r) > 0 })
}

// The least that a user of Redis's access control lists needs for it, beside what limits do; and one who may not is told so.
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
	tell(t, b, r)
	testkit.Eventually(t, "it is received", func() bool { return l.times(r) == 1 })
	b.Retract(cluster, r)
	testkit.Eventually(t, "it is gone", func() bool {
		late := 0
		ctx, stop := context.WithCancel(context.Background())
		_ = New(b.redis, quiet).Subscribe(ctx, cluster, func(list []management.Revocation) error { late += len(list); stop(); return nil })
		return late == 0
	})
	without := New(connected(t, "redis://limits:secret@"+server.Addr()+"/0"), quiet)
	if err := without.Publish(context.Background(), cluster, r); err == nil {
		t.Error("it could tell")
	}
	if err := without.Subscribe(context.Background(), cluster, func([]management.Revocation) error { return nil }); err == nil {
		t.Error("it could hear")
	}
}

// TestFailover tells and hears through a Cluster and a Sentinel, before and after another server takes the
// place of the one that has the words.
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
			c.Replica.Kill() // is missed by nobody
			l := listen(t, New(connected(t, c.URL()), quiet), k)
			testkit.Eventually(t, "it is listened without it", func() bool { return l.begins() > 0 })
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
	testkit.Eventually(t, "both listen", func() bool { return la.begins() > 0 && lb.begins() > 0 })
	say := func(r management.Revocation) {
		t.Helper()
		// Who can't tell tries it again.
		testkit.Eventually(t, "it can be told", func() bool { return a.Publish(context.Background(), k, r) == nil })
		testkit.Eventually(t, "it is received", func() bool { return lb.times(r) > 0 })
	}
	before, after := revocationOf(1), revocationOf(2)
	say(before)
	failOver()
	say(after)
	late := listen(t, New(connected(t, url), quiet), k)
	testkit.Eventually(t, "a later subscriber receives both", func() bool { return late.times(before) == 1 && late.times(after) == 1 })
	c := client(t, conn)
	testkit.Eventually(t, "what is withdrawn is gone", func() bool {
		b.Retract(k, before)
		b.Retract(k, after)
		n, err := c.Do(context.Background(), c.B().Xlen().Key(streamKey(k)).Build()).AsInt64()
		return err == nil && n == 0
	})
}

// TestForgotten has Redis lose what it was told while everybody stays connected.
func TestForgotten(t *testing.T) {
	t.Parallel()
	conn := connected(t, testserver.RedisURL(t))
	a, b := New(conn, quiet), New(conn, quiet)
	a.rereadEvery, b.rereadEvery = 50*time.Millisecond, 50*time.Millisecond
	la, lb := listen(t, a, cluster), listen(t, b, cluster)
	first, second := revocationOf(1), revocationOf(2)
	tell(t, a, first)
	testkit.Eventually(t, "it is received", func() bool { return la.times(first) == 1 && lb.times(first) == 1 })
	c := client(t, conn)
	if err := c.Do(context.Background(), c.B().Del().Key(streamKey(cluster)).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	// It goes on with entries that come before those that were heard, as a server does whose clock is behind.
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
	testkit.Eventually(t, "what comes before is received", func() bool { return la.times(second) == 1 && lb.times(second) == 1 })
	testkit.Eventually(t, "what was lost is told again", func() bool {
		tell(t, a, first)
		return length(t, conn) == 3
	})
	testkit.Eventually(t, "and heard again", func() bool { return lb.times(first) == 2 })
	if n := lb.times(second); n != 1 {
		t.Errorf("what was not lost was heard %d times", n)
	}
	if n := b.Stats().Rejected; n > 1 {
		t.Errorf("what is no word was rejected %d times", n)
	}
	a.Retract(cluster, first)
	a.Retract(cluster, second)
	testkit.Eventually(t, "all words are gone", func() bool { return length(t, conn) == 1 })
}

// TestMany tells more than one read holds.
func TestMany(t *testing.T) {
	t.Parallel()
	url := testserver.RedisURL(t)
	a := New(connected(t, url), quiet)
	const many = 2*readBatch + 10
	for i := range many {
		tell(t, a, revocationOf(i))
	}
	b := New(connected(t, url), quiet)
	l := listen(t, b, cluster)
	testkit.Eventually(t, "all are heard", func() bool { return l.count() == many })
	l.mu.Lock()
	for _, r := range l.received {
		b.Retract(cluster, r)
	}
	l.mu.Unlock()
	testkit.Eventually(t, "all are withdrawn", func() bool { return length(t, connectedAs(b)) == 0 })
	testkit.Eventually(t, "none is remembered", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.n == 0 && len(b.entries) == 0 && len(b.retracted) == 0
	})
	// What f refuses is heard again.
	tell(t, a, revocationOf(many))
	no := errors.New("not now")
	if err := b.Subscribe(context.Background(), cluster, func([]management.Revocation) error { return no }); !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
}

func connectedAs(b *Broadcaster) *redis.Redis { return b.redis.(*redis.Redis) }

// FuzzOpen reads entries that anyone may have written.
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
			t.Fatal("taken from a stranger")
		}
		if r.Change().ID == "" || r.Change().Keyspace == "" || r.At.IsZero() {
			t.Fatalf("%+v", r)
		}
	})
}
