package redis_test

import (
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
)

// node is the limiter of one gateway, with its own memory and connection.
type node struct {
	t      testing.TB
	redis  *redis.Redis
	shared *ratelimit.Shared

	subjects map[string]*ratelimit.Subject
}

// options are the settings of a node.
type options struct {
	leased  bool
	timeout time.Duration
	nodes   int64
}

// newNode returns a node that is connected to the Redis at url.
func newNode(t testing.TB, url string, o options) *node {
	t.Helper()
	n := startNode(t, url, o)
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	if err := n.redis.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	return n
}

// startNode returns a node that may not be connected yet.
func startNode(t testing.TB, url string, o options) *node {
	t.Helper()
	if o.timeout == 0 {
		o.timeout = time.Minute // The timeout is long, so that a busy machine does not look like an outage of Redis.
	}
	ro := redis.Options{URL: url, Timeout: o.timeout, Logger: slog.New(slog.DiscardHandler)}
	if o.nodes > 0 {
		ro.Nodes = func() int64 { return o.nodes }
	}
	r, err := redis.New(ro)
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	n := &node{t: t, redis: r, shared: ratelimit.NewShared(r, r.Node(), o.leased), subjects: map[string]*ratelimit.Subject{}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { n.shared.Run(ctx); close(done) }()
	t.Cleanup(func() {
		stop()
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
		defer cancel()
		r.Close(ctx)
	})
	return n
}

// subject returns the node's subject with that id.
func (n *node) subject(id string) *ratelimit.Subject {
	s := n.subjects[id]
	if s == nil {
		s = ratelimit.NewSubject(id)
		s.UsageLoaded()
		n.subjects[id] = s
	}
	return s
}

// limits are the texts of a bill's policies, as policy parses them.
type limits struct {
	address, tenant, key []string
}

var epochs atomic.Int64

// policy parses one limit: r (rate), q (quota), c (concurrency) or l (credits_limit) and its text,
// or "m x" (credits).
func policy(t testing.TB, text string) *ratelimit.Policy {
	t.Helper()
	var p *ratelimit.Policy
	var err error
	switch kind, rest := text[0], text[2:]; kind {
	case 'r':
		p, err = ratelimit.ParseRate(rest)
	case 'q':
		p, err = ratelimit.ParseQuota(rest)
	case 'c':
		p, err = ratelimit.ParseConcurrency(rest)
	case 'm':
		p = ratelimit.NewCredits()
	case 'l':
		limit, e := strconv.ParseInt(rest, 10, 64)
		p, err = ratelimit.CreditsLimit(limit), e
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bill returns a bill for the key "one" of the tenant "acme", sent from the address 1.
func (n *node) bill(l limits) *ratelimit.Bill {
	n.t.Helper()
	b := &ratelimit.Bill{Cost: 1}
	epoch := epochs.Add(1)
	for _, p := range []struct {
		party *ratelimit.Party
		id    string
		texts []string
	}{{&b.Address, "a:p:shop:pro:192.0.2.1", l.address}, {&b.Tenant, "t:shop:acme", l.tenant}, {&b.Key, "k:shop:one", l.key}} {
		if p.party == &b.Address && len(p.texts) == 0 {
			continue
		}
		var ps []*ratelimit.Policy
		for _, text := range p.texts {
			ps = append(ps, policy(n.t, text))
		}
		p.party.Subject = n.subject(p.id)
		p.party.Lines = p.party.Subject.Bind(epoch, ratelimit.FromPlan, ps)
	}
	return b
}

// charge charges a bill, and fails the test after an error.
func (n *node) charge(b *ratelimit.Bill) (o ratelimit.Outcome) {
	n.t.Helper()
	if err := n.shared.Charge(context.Background(), time.Now(), b, &o); err != nil {
		n.t.Fatal(err)
	}
	return o
}

// admitted charges a bill that many times, releases it each time, and returns how often it passed.
func (n *node) admitted(b *ratelimit.Bill, times int) (passed int) {
	n.t.Helper()
	for range times {
		bill := *b
		if o := n.charge(&bill); !o.Denied {
			passed++
			n.shared.Release(&bill)
		}
	}
	return passed
}

// modes runs a test in exact mode and in leased mode, on each kind of server.
func modes(t *testing.T, f func(t *testing.T, url string, leased bool)) {
	testserver.EachRedis(t, func(t *testing.T, kind testserver.RedisKind) {
		for name, leased := range map[string]bool{"exact": false, "leased": true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t, kind.URL(t), leased)
			})
		}
	})
}

func TestMain(m *testing.M) { testserver.RunParallel(m, 8) }
