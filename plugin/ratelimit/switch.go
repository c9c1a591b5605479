package ratelimit

import (
	"context"
	"sync/atomic"
	"time"
)

// Switch is a Limiter that calls another, which may be replaced while requests run: what one
// charged, the other may release, adjust and reset.
type Switch struct{ to atomic.Pointer[Limiter] }

var _ Limiter = (*Switch)(nil)

// NewSwitch returns a Switch to l.
func NewSwitch(l Limiter) *Switch {
	s := new(Switch)
	s.Set(l)
	return s
}

// Set replaces the limiter.
func (s *Switch) Set(l Limiter) { s.to.Store(&l) }

// Charge implements Limiter.
func (s *Switch) Charge(ctx context.Context, now time.Time, b *Bill, o *Outcome) error {
	return (*s.to.Load()).Charge(ctx, now, b, o)
}

// Peek implements Limiter.
func (s *Switch) Peek(ctx context.Context, now time.Time, b *Bill, o *Outcome) error {
	return (*s.to.Load()).Peek(ctx, now, b, o)
}

// Release implements Limiter.
func (s *Switch) Release(b *Bill) { (*Local)(nil).Release(b) }

// Adjust implements Limiter.
func (s *Switch) Adjust(ctx context.Context, chargedAt time.Time, b *Bill, delta int64) int64 {
	return (*s.to.Load()).Adjust(ctx, chargedAt, b, delta)
}

// Reset implements Limiter.
func (s *Switch) Reset(ctx context.Context, now time.Time, owner *Subject, p Party, names ...string) error {
	return (*s.to.Load()).Reset(ctx, now, owner, p, names...)
}
