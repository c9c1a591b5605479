// Package redis keeps the counts of ratelimit.Shared in Redis or Valkey, version 7 or later: alone, behind
// Sentinel, or as a Cluster.
//
// One script call charges all that a request is subject to, or nothing. All counts of a tenant and its keys
// are in one hash slot. Only what an address spends under a plan, which tenants share, is in a slot of its own: in
// a Cluster it is charged first, by a second call, and given back where the tenant's counts deny.
//
// What is kept there is worth nothing to a thief: ids, numbers and times, no key and no digest.
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

// DefaultTimeout is how long a request waits at most.
const DefaultTimeout = 5 * time.Millisecond

const (
	// connectTimeout bounds what is done in the background: connecting, releasing, counting nodes.
	connectTimeout = 2 * time.Second
	// peekTimeout bounds reading the state of limits.
	peekTimeout = time.Second
	// refreshEvery is how often it is asked which servers are masters.
	refreshEvery = 5 * time.Second
)

// KeyPrefix begins every key.
const KeyPrefix = "keygate:"

// Options are how Redis is reached and used.
type Options struct {
	// URL is redis://[user:password@]host:port[/db], rediss:// for TLS, or unix:///path. Further ?addr=host:port name
	// more nodes of a Cluster, or Sentinels with ?master_set=name, whose own user and password are sentinel_user and
	// sentinel_password. Required.
	URL string
	// Timeout is how long a request waits at most. Default: DefaultTimeout.
	Timeout time.Duration
	// Nodes says how many processes share the counts, at least 1; it must not block. Default: those that have been
	// in touch with the same Redis within the last seconds.
	Nodes func() int64
	// Logger logs when Redis stops answering, and when it answers again. Default: slog.Default.
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
	// endpoint is how Redis is reached; former ones are those that may be gone back to. Under mu.
	endpoint *endpoint
	previous []*endpoint
	// client is way's connection; nil while there is none.
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

// New checks the options. It connects to nothing: see Start.
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
	_, _ = rand.Read(name) // never fails
	r.node = hex.EncodeToString(name)
	r.nodes.Store(1)
	r.queue.more = make(chan struct{}, 1)
	r.health.tripped, r.health.reconnect = make(chan struct{}, 1), make(chan struct{}, 1)
	// Away until the first probe, so that no request waits for a connection to be made.
	r.health.unreachable.Store(true)
	return r, nil
}

// parameters are those that an address may have. Others would be ignored, such as ?ssl=true of other libraries,
// and the connection made in clear.
var parameters = []string{"addr", "client_cache", "client_name", "db", "dial_timeout", "master_set", "max_retries", "protocol", "sentinel_password", "sentinel_user",
	"skip_verify", "write_timeout"}

// parse reads the address. Its errors hold nothing of it: there may be a password.
func parse(address string) (rueidis.ClientOption, error) {
	u, err := url.Parse(address)
	if err != nil {
		return rueidis.ClientOption{}, errors.New("the address is no URL, such as redis://user:password@host:6379/0")
	}
	switch u.Scheme {
	case "redis", "rediss", "valkey", "valkeys", "unix":
	default:
		return rueidis.ClientOption{}, fmt.Errorf("the address begins with %q: it must be redis://, rediss:// (TLS) or unix://", u.Scheme+":")
	}
	for name := range u.Query() {
		if !slices.Contains(parameters, name) {
			return rueidis.ClientOption{}, fmt.Errorf("the address has the parameter %q, which is not known (there is %s); TLS is rediss://", name, strings.Join(parameters, ", "))
		}
	}
	if u.Opaque != "" {
		return rueidis.ClientOption{}, errors.New("the address names no host: it is written as redis://user:password@host:6379/0")
	}
	option, err := rueidis.ParseURL(address)
	if err != nil {
		return rueidis.ClientOption{}, errors.New("the address is not understood: it is written as redis://user:password@host:6379/0")
	}
	if u.Query().Get("dial_timeout") == "" {
		option.Dialer.Timeout = connectTimeout
	}
	if option.ConnWriteTimeout == 0 {
		option.ConnWriteTimeout = connectTimeout
	}
	option.Sentinel.Dialer, option.Sentinel.TLSConfig = option.Dialer, option.TLSConfig
	option.Sentinel.Username, option.Sentinel.Password = u.Query().Get("sentinel_user"), u.Query().Get("sentinel_password")
	// A Sentinel says once that another server has become the master, and a Cluster's servers say who has moved only
	// to those they answer.
	option.Sentinel.TopologyRefreshInterval, option.ClusterOption.ShardsRefreshInterval = refreshEvery, refreshEvery
	// Servers since Redis 7.2 would be told of the library, and log it where the user may not say so.
	option.ClientSetInfo = rueidis.DisableClientSetInfo
	// Nothing is read that could be cached, every answer is awaited, and a request that is asked a
	// second time would be charged twice.
	option.DisableCache, option.AlwaysPipelining, option.DisableRetry = true, true, true
	// One connection, so that commands are carried out in the order in which they are sent.
	option.PipelineMultiplex = -1
	option.ReadBufferEachConn, option.WriteBufferEachConn = 1<<16, 1<<16
	if option.ClientName == "" {
		option.ClientName = "keygate"
	}
	return option, nil
}

// Node names this process among those that share the Redis; no other ever has the same name.
func (r *Redis) Node() string { return r.node }

// Start begins to connect, and to keep in touch. It does not block.
func (r *Redis) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.running.Go(func() { r.watch(ctx) })
	r.running.Go(func() { r.drain(ctx) })
}

// Wait waits until Redis answers, or ctx ends; then it returns why it does not. Where Redis does not take the user or
// the password it waits no longer, and returns ErrRejected.
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
			return fmt.Errorf("%w: %s", ErrRejected, strings.TrimPrefix(r.health.problem(), "Redis refuses: "))
		case ended:
			return errors.New(r.health.problem())
		}
	}
}

// Close removes this node from the list and disconnects. Later calls fail as while Redis is
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
	away := r.health.unreachable.Swap(true)
	if client == nil {
		return
	}
	if !away {
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

// Client returns the connection, for what gateways share in Redis beside counts; why there is none
// where none was made yet, or it was closed. Nothing that it is asked is asked again by itself.
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
