package revocations

import (
	"context"
	"sync"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// Switch is a replica.Broadcaster that uses another one, which may be replaced at any time: a store
// outlives the configurations that name the Redis. Its zero value uses none. Safe for
// concurrent use.
type Switch struct {
	mu sync.Mutex
	to *Broadcaster
	// before counts the messages of its former broadcasters.
	before Stats
	// changed is closed when to changes; nil without a waiter.
	changed chan struct{}
}

var _ replica.Broadcaster = (*Switch)(nil)

// Set has s use b; nil means none.
func (s *Switch) Set(b *Broadcaster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to != nil && s.to != b {
		s.before = s.before.plus(s.to.Stats())
	}
	s.to = b
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Stats adds up the messages of all broadcasters that s used. It does not block.
func (s *Switch) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == nil {
		return s.before
	}
	return s.before.plus(s.to.Stats())
}

func (s *Switch) get() (*Broadcaster, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.to, s.changed
}

// Publish implements replica.Broadcaster. ErrNoRedis where s uses none.
func (s *Switch) Publish(ctx context.Context, cluster replica.ClusterID, r management.Revocation) error {
	b, _ := s.get()
	if b == nil {
		return ErrNoRedis
	}
	return b.Publish(ctx, cluster, r)
}

// Retract implements replica.Broadcaster.
func (s *Switch) Retract(cluster replica.ClusterID, r management.Revocation) {
	if b, _ := s.get(); b != nil {
		b.Retract(cluster, r)
	}
}

// Subscribe implements replica.Broadcaster. While s uses none it waits.
func (s *Switch) Subscribe(ctx context.Context, cluster replica.ClusterID, f func([]management.Revocation) error) error {
	for ctx.Err() == nil {
		b, changed := s.get()
		if b == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		run, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-changed:
				stop()
			case <-run.Done():
			}
		}()
		err := b.Subscribe(run, cluster, f)
		stop()
		if now, _ := s.get(); now == b {
			return err
		}
	}
	return ctx.Err()
}
