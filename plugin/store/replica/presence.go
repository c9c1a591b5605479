package replica

import (
	"context"
	"sync"
)

// presence is the time in which the truth answers. Its zero value is one that began.
type presence struct {
	mu    sync.Mutex
	gone  chan struct{} // closed when it ends; nil while nobody waits for that
	ended bool
}

func (p *presence) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		p.gone, p.ended = nil, false
	}
}

func (p *presence) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	if p.gone == nil {
		p.gone = make(chan struct{})
	}
	close(p.gone)
}

// over is closed when the presence ends.
func (p *presence) over() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone == nil {
		p.gone = make(chan struct{})
	}
	return p.gone
}

// while calls f with a context that ends with ctx and with the presence.
func (p *presence) while(ctx context.Context, f func(context.Context) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	over, done := p.over(), make(chan struct{})
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
