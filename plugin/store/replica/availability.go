package replica

import (
	"context"
	"sync"
)

// availability is a period during which the primary, the shared database, answers. The zero value is
// a period that has begun.
type availability struct {
	mu    sync.Mutex
	lost  chan struct{} // The channel is closed when the period ends. It is nil until a caller waits for the end.
	ended bool
}

func (p *availability) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		p.lost, p.ended = nil, false
	}
}

func (p *availability) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	if p.lost == nil {
		p.lost = make(chan struct{})
	}
	close(p.lost)
}

// done returns a channel that is closed when the period ends.
func (p *availability) done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		p.lost = make(chan struct{})
	}
	return p.lost
}

// while calls f with a context that is cancelled when ctx or the period ends.
func (p *availability) while(ctx context.Context, f func(context.Context) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	over, done := p.done(), make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-over:
			cancel()
		case <-done:
		}
	}()
	return f(run)
}
