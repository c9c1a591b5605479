package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/revocations"
)

const (
	// limitsWait is how long Apply waits for Redis. After limitsWait, Apply continues, and each plan's
	// setting on_redis_down applies until Redis answers.
	limitsWait = time.Second
	// redirectWait is how long Apply waits for Redis at another address.
	redirectWait = 10 * time.Second
)

// SharedLimits are limits that are counted in Redis.
type SharedLimits struct {
	redis  *redis.Redis
	shared *ratelimit.Shared
	stop   context.CancelFunc
	ended  chan struct{}
}

// newSharedLimits starts to connect to Redis, and does not wait for an answer of Redis.
func newSharedLimits(l Limits, log *slog.Logger) (*SharedLimits, error) {
	r, err := redis.New(redis.Options{URL: l.Redis, Timeout: l.Timeout, Logger: log})
	if err != nil {
		return nil, err
	}
	s := &SharedLimits{redis: r, shared: ratelimit.NewShared(r, r.Node(), l.Leased), ended: make(chan struct{})}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	r.Start()
	go func() {
		s.shared.Run(ctx)
		close(s.ended)
	}()
	return s, nil
}

// Unreachable reports whether Redis does not answer, so that each plan's setting on_redis_down applies.
func (s *SharedLimits) Unreachable() bool { return s.redis.Unreachable() }

// Leased reports whether this node takes tokens from Redis before requests need them.
func (s *SharedLimits) Leased() bool { return s.shared.Leased() }

// Stats returns the state and the counts of the connection to Redis and of the limits. Stats does not
// block.
func (s *SharedLimits) Stats() (redis.Stats, ratelimit.SharedStats) {
	return s.redis.Stats(), s.shared.Stats()
}

// close returns the tokens and concurrency slots that this node holds to Redis, and disconnects.
func (s *SharedLimits) close(ctx context.Context) {
	s.stop()
	<-s.ended
	s.redis.Close(ctx)
}

// closeLater returns tokens and slots to Redis and disconnects, in the background.
func (s *SharedLimits) closeLater() {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		s.close(ctx)
	}()
}

// limits makes the gateway count in Redis or in this process, as the newest configuration states.
type limits struct {
	log     *slog.Logger
	gateway *gateway.Gateway
	// replica returns the replica, which sends revocations through Redis while its primary is unreachable. It returns nil if
	// the node has no replica.
	replica func() *replica.Replica
	// shared holds the limits that are counted in Redis. It is nil if this process counts the limits.
	shared atomic.Pointer[SharedLimits]
	// A goroutine holds the lock changing while it changes shared, and may wait for Redis meanwhile.
	changing sync.Mutex

	statsMu sync.Mutex
	// broadcaster is the broadcaster of revocations that the replica uses, or nil if there is none. past
	// is the sum of the counts of all former broadcasters.
	broadcaster *revocations.Broadcaster
	past        revocations.Stats
}

// broadcast makes the replica, if the node has one, send revocations through the Redis connection of
// s. If s is nil, the replica sends no revocations.
func (l *limits) broadcast(s *SharedLimits) {
	r := l.replica()
	if r == nil {
		return
	}
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	if l.broadcaster != nil {
		l.past = l.past.Plus(l.broadcaster.Stats())
	}
	if s == nil {
		l.broadcaster = nil
		r.SetBroadcaster(nil)
		return
	}
	l.broadcaster = revocations.New(s.redis, l.log)
	r.SetBroadcaster(l.broadcaster)
}

// revocationStats adds up the counts of all broadcasters, the present and the former ones. It does not
// block.
func (l *limits) revocationStats() revocations.Stats {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	if l.broadcaster == nil {
		return l.past
	}
	return l.past.Plus(l.broadcaster.Stats())
}

// apply changes whether limits are counted in Redis or in this process. If only the address of Redis
// changes, spent allowance and held slots stay. apply returns an error, and changes nothing, in two
// cases: a new address can't be used, or a reload begins to use a Redis that rejects the password. A
// Redis that is unreachable at first is otherwise no error.
func (l *limits) apply(ctx context.Context, want Limits, reload bool) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	shared := l.shared.Load()
	switch {
	case want == Limits{}:
		l.countHere()
		return nil
	case shared == nil:
		return l.connect(ctx, want, reload)
	}
	ctx, cancel := context.WithTimeout(ctx, redirectWait)
	defer cancel()
	if err := shared.redis.Redirect(ctx, want.Redis, want.Timeout); err != nil {
		return fmt.Errorf("the new address of limits redis can't be used, so nothing was changed: %w", err)
	}
	shared.shared.SetLeased(want.Leased)
	return nil
}

// connect moves counting from this process to Redis. The caller holds the lock changing.
func (l *limits) connect(ctx context.Context, want Limits, reload bool) error {
	s, err := newSharedLimits(want, l.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limitsWait)
	defer cancel()
	// Only a rejected password ends the change. Package redis logs and retries all other errors.
	if err := s.redis.Wait(ctx); reload && errors.Is(err, redis.ErrRejected) {
		s.closeLater()
		return fmt.Errorf("limits redis can't be used, so nothing was changed: %w", err)
	}
	l.shared.Store(s)
	l.gateway.SetLimiter(s.shared)
	l.broadcast(s)
	return nil
}

// countHere moves counting from Redis to this process. The caller holds the lock changing.
func (l *limits) countHere() {
	s := l.shared.Swap(nil)
	if s == nil {
		return
	}
	l.gateway.SetLimiter(ratelimit.NewLocal())
	l.broadcast(nil)
	s.closeLater()
}

// restore returns to the limits of a former configuration, without a check, and closes connections to
// other addresses of Redis.
func (l *limits) restore(want Limits) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	shared := l.shared.Load()
	switch {
	case want == Limits{}:
		l.countHere()
		return nil
	case shared == nil:
		return l.connect(context.Background(), want, false)
	}
	shared.shared.SetLeased(want.Leased)
	return shared.redis.Adopt(want.Redis, want.Timeout)
}

// close ends counting in Redis. It waits at most until ctx ends.
func (l *limits) close(ctx context.Context) {
	l.changing.Lock()
	defer l.changing.Unlock()
	if s := l.shared.Load(); s != nil {
		s.close(ctx)
	}
}
