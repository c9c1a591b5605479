package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

var errClosed = fmt.Errorf("%w: the store was closed", gateway.ErrStore)

// notifier wakes a waiter. A signal without a waiter is kept for the next one.
type notifier struct {
	signal chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newNotifier() *notifier {
	b := &notifier{signal: make(chan struct{}, 1), closed: make(chan struct{})}
	b.notify() // so that the first wait returns
	return b
}

func (b *notifier) notify() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

func (b *notifier) close() { b.once.Do(func() { close(b.closed) }) }

// wait returns at the first signal since the last wait, with ctx's error when that ends, and
// with errClosed when the notifier is closed.
func (b *notifier) wait(ctx context.Context) error {
	select {
	case <-b.closed:
		return errClosed
	default:
	}
	select {
	case <-b.signal:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return errClosed
	}
}

// unavailable reports whether err keeps the store from answering at all.
func unavailable(err error) bool { return errors.Is(err, gateway.ErrStore) }
