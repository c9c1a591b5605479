package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// logRelay passes an engine's log lines to the logger of the configuration that runs.
// An engine outlives configurations, and a logger's outputs end with its configuration.
type logRelay struct {
	to *atomic.Pointer[slog.Handler]
	// with is what a derived logger adds, applied to whichever handler is current.
	with []func(slog.Handler) slog.Handler
}

// newLogRelay returns a relay to h.
func newLogRelay(h slog.Handler) *logRelay {
	r := &logRelay{to: new(atomic.Pointer[slog.Handler])}
	r.to.Store(&h)
	return r
}

// follow makes h the handler of all lines from now on, derived loggers' too.
func (r *logRelay) follow(h slog.Handler) { r.to.Store(&h) }

func (r *logRelay) handler() slog.Handler {
	h := *r.to.Load()
	for _, w := range r.with {
		h = w(h)
	}
	return h
}

// Enabled implements slog.Handler.
func (r *logRelay) Enabled(ctx context.Context, l slog.Level) bool {
	return (*r.to.Load()).Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (r *logRelay) Handle(ctx context.Context, rec slog.Record) error {
	return r.handler().Handle(ctx, rec)
}

// WithAttrs implements slog.Handler.
func (r *logRelay) WithAttrs(attrs []slog.Attr) slog.Handler {
	return r.plus(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (r *logRelay) WithGroup(name string) slog.Handler {
	return r.plus(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (r *logRelay) plus(w func(slog.Handler) slog.Handler) *logRelay {
	return &logRelay{to: r.to, with: append(r.with[:len(r.with):len(r.with)], w)}
}
