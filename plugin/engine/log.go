package engine

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// logHandler is the slog.Handler of an engine. It passes records on to the handler of the newest configuration, because
// the engine outlives configurations, and the outputs of a logger close with its configuration.
type logHandler struct {
	to *atomic.Pointer[slog.Handler]
	// with holds the attributes and groups of a derived logger. The handler of each record gets them.
	with []func(slog.Handler) slog.Handler
}

func newLogHandler(h slog.Handler) *logHandler {
	l := &logHandler{to: new(atomic.Pointer[slog.Handler])}
	l.to.Store(&h)
	return l
}

// follow makes all loggers of e write to a configuration's logger from now on.
func (e *Engine) follow(log *slog.Logger) {
	h := log.Handler()
	e.logs.to.Store(&h)
}

// Enabled implements slog.Handler.
func (l *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*l.to.Load()).Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *logHandler) Handle(ctx context.Context, r slog.Record) error {
	h := *l.to.Load()
	for _, with := range l.with {
		h = with(h)
	}
	return h.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.plus(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (l *logHandler) WithGroup(name string) slog.Handler {
	return l.plus(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (l *logHandler) plus(with func(slog.Handler) slog.Handler) *logHandler {
	return &logHandler{to: l.to, with: append(l.with[:len(l.with):len(l.with)], with)}
}
