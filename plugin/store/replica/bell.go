package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

var errClosed = fmt.Errorf("%w: the store was closed", gateway.ErrStore)

// bell wakes who waits for it. What rang before is heard by the next who waits.
type bell struct {
	rung   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newBell() *bell {
	b := &bell{rung: make(chan struct{}, 1), closed: make(chan struct{})}
	b.ring() // so that the first wait returns
	return b
}

func (b *bell) ring() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

func (b *bell) close() { b.once.Do(func() { close(b.closed) }) }

// wait returns when it has rung since the last wait, with ctx's error when that ends, and
// with errClosed when the bell is closed.
func (b *bell) wait(ctx context.Context) error {
	select {
	case <-b.closed:
		return errClosed
	default:
	}
	select {
	case <-b.rung:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.closed:
		return errClosed
	}
}

// unavailable says that err keeps the store from answering, whatever it answers.
func unavailable(err error) bool { return errors.Is(err, gateway.ErrStore) }
