package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

var errClosed = fmt.Errorf("%w: the store was closed", gateway.ErrStore)

// notifier wakes one waiter at each signal. A signal without a waiter is kept for the next wait.
type notifier struct {
	signal chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newNotifier() *notifier {
	b := &notifier{signal: make(chan struct{}, 1), closed: make(chan struct{})}
	b.notify() // The first signal is sent at once, so that the first wait returns.
	return b
}

func (b *notifier) notify() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

func (b *notifier) close() { b.once.Do(func() { close(b.closed) }) }

// wait returns nil at the first signal since the last wait. It returns ctx's error when ctx ends,
// and errClosed when the notifier is closed.
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

// unavailable reports whether err means that the store could not answer.
func unavailable(err error) bool { return errors.Is(err, gateway.ErrStore) }
