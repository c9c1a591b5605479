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
	// limitsWait is how long Apply waits for Redis. Then it goes on, and each plan's on_redis_down
	// applies until Redis answers.
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

// newSharedLimits begins to connect to Redis, and does not wait for it.
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

// Unreachable reports whether Redis does not answer, so that each plan's on_redis_down applies.
func (s *SharedLimits) Unreachable() bool { return s.redis.Unreachable() }

// Leased reports whether this node takes tokens from Redis before requests need them.
func (s *SharedLimits) Leased() bool { return s.shared.Leased() }

// Stats returns the state and the counts of the connection to Redis and of the limits. It does not
// block.
func (s *SharedLimits) Stats() (redis.Stats, ratelimit.SharedStats) {
	return s.redis.Stats(), s.shared.Stats()
}

// close returns the tokens and slots that this node holds to Redis, and disconnects.
func (s *SharedLimits) close(ctx context.Context) {
	s.stop()
	<-s.ended
	s.redis.Close(ctx)
}

// closeLater is close in the background.
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
	// replica returns the replica, which sends revocations through Redis while its primary is unreachable; nil for none.
	replica func() *replica.Replica
	// shared is nil where this process counts.
	shared atomic.Pointer[SharedLimits]
	// changing is held while shared is changed, which may wait for Redis.
	changing sync.Mutex

	statsMu sync.Mutex
	// broadcaster is the one that the replica uses, nil for none. past is the sum of the counts of
	// all before it.
	broadcaster *revocations.Broadcaster
	past        revocations.Stats
}

// broadcast makes the replica, if there is one, send revocations through s. With nil it sends
// none.
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

// revocationStats adds up what all broadcasters counted. It does not block.
func (l *limits) revocationStats() revocations.Stats {
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	if l.broadcaster == nil {
		return l.past
	}
	return l.past.Plus(l.broadcaster.Stats())
}

// apply changes where limits are counted. Where only the address of Redis changes, spent allowance
// and held slots stay. It returns an error, and changes nothing, where a new address can't be
// used, or where a reload begins to use a Redis that rejects the password. Otherwise a Redis that
// is unreachable at first is no error.
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

// connect moves counting from this process to Redis. changing is held.
func (l *limits) connect(ctx context.Context, want Limits, reload bool) error {
	s, err := newSharedLimits(want, l.log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limitsWait)
	defer cancel()
	// Package redis logs and retries all other errors.
	if err := s.redis.Wait(ctx); reload && errors.Is(err, redis.ErrRejected) {
		s.closeLater()
		return fmt.Errorf("limits redis can't be used, so nothing was changed: %w", err)
	}
	l.shared.Store(s)
	l.gateway.SetLimiter(s.shared)
	l.broadcast(s)
	return nil
}

// countHere moves counting from Redis to this process. changing is held.
func (l *limits) countHere() {
	s := l.shared.Swap(nil)
	if s == nil {
		return
	}
	l.gateway.SetLimiter(ratelimit.NewLocal())
	l.broadcast(nil)
	s.closeLater()
}

// restore goes back to a former configuration's limits, without a check, and closes connections to
// other addresses.
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

// close ends counting in Redis, within ctx.
func (l *limits) close(ctx context.Context) {
	l.changing.Lock()
	defer l.changing.Unlock()
	if s := l.shared.Load(); s != nil {
		s.close(ctx)
	}
}
