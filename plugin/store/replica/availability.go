package replica

import (
	"context"
	"sync"
)

// availability is a period in which the primary answers. Its zero value is one that began.
type availability struct {
	mu    sync.Mutex
	lost  chan struct{} // closed when it ends; nil while nobody waits for that
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

// done is closed when the period ends.
func (p *availability) done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost == nil {
		p.lost = make(chan struct{})
	}
	return p.lost
}

// while calls f with a context that ends with ctx and with the period.
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
