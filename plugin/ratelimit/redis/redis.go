// Package redis keeps the counts of ratelimit.Shared in Redis or Valkey, version 7 or later: in a single server, behind
// Sentinel, or in a Cluster.
//
// One script call charges all limits of a request, or none of them. All counts of a tenant and its keys are in one hash
// slot. The counts of a client address under a plan, which tenants share, have their own slot. In a Cluster, a first call
// charges the address. If the counts of the tenant then deny the request, the charge of the address is given back.
//
// The stored data holds ids, numbers and times, but no key and no digest. So nobody can use stolen data as a key.
package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// DefaultTimeout is how long a request waits for Redis at most.
const DefaultTimeout = 5 * time.Millisecond

const (
	// connectTimeout bounds background calls: connecting, releasing slots, registering nodes.
	connectTimeout = 2 * time.Second
	// peekTimeout bounds reading the state of limits.
	peekTimeout = time.Second
	// refreshEvery is the interval at which the addresses of the masters are refreshed.
	refreshEvery = 5 * time.Second
)

// KeyPrefix is the prefix of every key in Redis.
const KeyPrefix = "keygate:"

// Options are the address of Redis and how it is used.
type Options struct {
	// URL is redis://[user:password@]host:port[/db], rediss:// for TLS, or unix:///path. Each
	// ?addr=host:port adds a node of a Cluster. With ?master_set=name, the addresses are
	// Sentinels, whose user and password are sentinel_user and sentinel_password. Required.
	URL string
	// Timeout is how long a request waits at most. Default: DefaultTimeout.
	Timeout time.Duration
	// Nodes returns how many processes share the counts, at least 1. It must not block. Default:
	// the processes that registered with this Redis in the last 15 seconds.
	Nodes func() int64
	// Logger gets a message when Redis stops answering, and when it answers again. Default:
	// slog.Default.
	Logger *slog.Logger
}

// Redis is a ratelimit.Remote. Made by New; safe for concurrent use.
type Redis struct {
	// timeoutNanos is the timeout of requests, in nanoseconds.
	timeoutNanos atomic.Int64
	node         string
	log          *slog.Logger
	nodeCount    func() int64

	mu sync.Mutex
	// endpoint is the current address; previous are former addresses that Adopt may return to. The lock mu guards both.
	endpoint *endpoint
	previous []*endpoint
	// client is the connection to endpoint; nil while there is none.
	client atomic.Pointer[rueidis.Client]
	health health
	nodes  atomic.Int64
	clock  clock
	queue  queue

	stop    context.CancelFunc
	running sync.WaitGroup
	closed  chan struct{}
	closing sync.Once
}

var _ ratelimit.Remote = (*Redis)(nil)

// New returns a Redis with checked options. It does not connect: Start does.
func New(o Options) (*Redis, error) {
	option, err := parse(o.URL)
	if err != nil {
		return nil, err
	}
	r := &Redis{endpoint: &endpoint{url: o.URL, option: option}, log: o.Logger, nodeCount: o.Nodes, closed: make(chan struct{})}
	r.setTimeout(o.Timeout)
	if r.log == nil {
		r.log = slog.Default()
	}
	name := make([]byte, 8)
	_, _ = rand.Read(name) // Read never returns an error.
	r.node = hex.EncodeToString(name)
	r.nodes.Store(1)
	r.queue.more = make(chan struct{}, 1)
	r.health.tripped, r.health.reconnect = make(chan struct{}, 1), make(chan struct{}, 1)
	// Redis counts as unreachable until the first probe, so that no request waits for connecting.
	r.health.unreachable.Store(true)
	return r, nil
}

// parameters are the parameters that an address may have. The library ignores unknown parameters, such as ?ssl=true of
// another library, and would then connect without TLS. So other parameters are rejected.
var parameters = []string{"addr", "client_cache", "client_name", "db", "dial_timeout", "master_set", "max_retries", "protocol", "sentinel_password", "sentinel_user",
	"skip_verify", "write_timeout"}

// parse returns the options of an address. Its errors contain no part of the address that can hold
// a password.
func parse(address string) (rueidis.ClientOption, error) {
	u, err := url.Parse(address)
	if err != nil {
		return rueidis.ClientOption{}, errors.New("the address is not a URL such as redis://user:password@host:6379/0")
	}
	switch u.Scheme {
	case "redis", "rediss", "valkey", "valkeys", "unix":
	default:
		return rueidis.ClientOption{}, fmt.Errorf("the address begins with %q: it must be redis://, rediss:// (TLS) or unix://", u.Scheme+":")
	}
	for name := range u.Query() {
		if !slices.Contains(parameters, name) {
			return rueidis.ClientOption{}, fmt.Errorf("the address has the unknown parameter %q (known: %s); for TLS, write rediss://", name, strings.Join(parameters, ", "))
		}
	}
	if u.Opaque != "" {
		return rueidis.ClientOption{}, errors.New("the address has no host: write it as redis://user:password@host:6379/0")
	}
	option, err := rueidis.ParseURL(address)
	if err != nil {
		return rueidis.ClientOption{}, errors.New("the address is malformed: write it as redis://user:password@host:6379/0")
	}
	if u.Query().Get("dial_timeout") == "" {
		option.Dialer.Timeout = connectTimeout
	}
	if option.ConnWriteTimeout == 0 {
		option.ConnWriteTimeout = connectTimeout
	}
	option.Sentinel.Dialer, option.Sentinel.TLSConfig = option.Dialer, option.TLSConfig
	option.Sentinel.Username, option.Sentinel.Password = u.Query().Get("sentinel_user"), u.Query().Get("sentinel_password")
	// A Sentinel announces a new master only once, and the servers of a Cluster report moved slots only to clients that ask. So
	// the client asks for the addresses of the servers at regular intervals.
	option.Sentinel.TopologyRefreshInterval, option.ClusterOption.ShardsRefreshInterval = refreshEvery, refreshEvery
	// Servers since Redis 7.2 record the library's name, and log an error if the user may not set
	// it.
	option.ClientSetInfo = rueidis.DisableClientSetInfo
	// Caching is off, because no value that is read may be cached. Retries are off, because a retry could charge a request
	// twice.
	option.DisableCache, option.AlwaysPipelining, option.DisableRetry = true, true, true
	// With one connection, commands run in the order in which they are sent.
	option.PipelineMultiplex = -1
	option.ReadBufferEachConn, option.WriteBufferEachConn = 1<<16, 1<<16
	if option.ClientName == "" {
		option.ClientName = "keygate"
	}
	return option, nil
}

// Node returns the name of this process among those that share the Redis. No other process ever
// has the same name.
func (r *Redis) Node() string { return r.node }

// Start connects, registers this node and probes, in the background. It does not block.
func (r *Redis) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.running.Go(func() { r.watch(ctx) })
	r.running.Go(func() { r.drain(ctx) })
}

// Wait blocks until Redis answers. If ctx ends before, Wait returns the reason why Redis does not answer. If Redis rejects
// the user or the password, Wait returns ErrRejected at once.
func (r *Redis) Wait(ctx context.Context) error {
	for {
		if !r.Unreachable() {
			return nil
		}
		ended := false
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			ended = true
		}
		switch {
		case r.health.rejected.Load():
			return fmt.Errorf("%w: %s", ErrRejected, strings.TrimPrefix(r.health.problem(), rejectedPrefix))
		case ended:
			return errors.New(r.health.problem())
		}
	}
}

// Close removes this node from the list of nodes and disconnects. Later calls fail as if Redis was
// unreachable.
func (r *Redis) Close(ctx context.Context) {
	r.closing.Do(func() { close(r.closed) })
	if r.stop == nil {
		return
	}
	r.stop()
	r.running.Wait()
	r.mu.Lock()
	for _, f := range r.previous {
		if f.client != nil {
			(*f.client).Close()
		}
	}
	r.previous = nil
	client := r.client.Swap(nil)
	r.mu.Unlock()
	wasUnreachable := r.health.unreachable.Swap(true)
	if client == nil {
		return
	}
	if !wasUnreachable {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		r.send(ctx, *client, r.queue.take())
		(*client).Do(ctx, (*client).B().Zrem().Key(nodesKey).Member(r.node).Build())
		cancel()
	}
	(*client).Close()
}

// Nodes implements ratelimit.Remote.
func (r *Redis) Nodes() int64 {
	if r.nodeCount != nil {
		return max(r.nodeCount(), 1)
	}
	return r.nodes.Load()
}

// Unreachable implements ratelimit.Remote.
func (r *Redis) Unreachable() bool { return r.health.unreachable.Load() }

// Client returns the connection, for other data that gateways share in Redis. It returns an error
// while there is no connection. The client does not retry calls.
func (r *Redis) Client() (rueidis.Client, error) {
	c := r.client.Load()
	if c == nil {
		return nil, errors.New("Redis is not connected: " + r.health.problem())
	}
	return *c, nil
}

// slot returns the hash tag of an ask's count.
func slot(a *ratelimit.Ask) string {
	if a.Owner == "" {
		return a.Subject
	}
	return strings.TrimPrefix(a.Owner, "t:")
}
