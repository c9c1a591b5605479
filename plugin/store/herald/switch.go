package herald

import (
	"context"
	"sync"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// Switch is a replica.Herald that goes by another one, which may be replaced at any time: a store
// outlives the configurations that say where Redis is. Its zero value goes by none. Safe for
// concurrent use.
type Switch struct {
	mu sync.Mutex
	to *Herald
	// before is what those before it counted.
	before Stats
	// changed is closed when to changes; nil while nobody waits.
	changed chan struct{}
}

var _ replica.Herald = (*Switch)(nil)

// Set has s go by h; nil means by none.
func (s *Switch) Set(h *Herald) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to != nil && s.to != h {
		s.before = s.before.plus(s.to.Stats())
	}
	s.to = h
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Stats adds up what s went by. It does not block.
func (s *Switch) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == nil {
		return s.before
	}
	return s.before.plus(s.to.Stats())
}

func (s *Switch) get() (*Herald, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.to, s.changed
}

// Tell implements replica.Herald. ErrNowhere where s goes by none.
func (s *Switch) Tell(ctx context.Context, kin replica.Kin, r management.Revocation) error {
	h, _ := s.get()
	if h == nil {
		return ErrNowhere
	}
	return h.Tell(ctx, kin, r)
}

// Withdraw implements replica.Herald.
func (s *Switch) Withdraw(kin replica.Kin, r management.Revocation) {
	if h, _ := s.get(); h != nil {
		h.Withdraw(kin, r)
	}
}

// Hear implements replica.Herald. While s goes by none it waits.
func (s *Switch) Hear(ctx context.Context, kin replica.Kin, f func([]management.Revocation) error) error {
	for ctx.Err() == nil {
		h, changed := s.get()
		if h == nil {
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
		err := h.Hear(run, kin, f)
		stop()
		if now, _ := s.get(); now == h {
			return err
		}
	}
	return ctx.Err()
}
