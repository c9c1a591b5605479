package redis

import (
	"context"
	"sync"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// queueMost bounds the queue. If the release of a slot is dropped because the queue is full, the slot expires later.
const queueMost = 1 << 16

// queue holds commands that drain sends in the background, in order.
type queue struct {
	mu    sync.Mutex
	items []item
	more  chan struct{}
}

type item struct {
	ask   ratelimit.Ask
	renew bool
}

// Release implements ratelimit.Remote.
func (r *Redis) Release(a ratelimit.Ask) { r.queue.add(item{ask: a}) }

// Renew implements ratelimit.Remote.
func (r *Redis) Renew(a ratelimit.Ask) { r.queue.add(item{a, true}) }

func (q *queue) add(i item) {
	q.mu.Lock()
	if len(q.items) < queueMost {
		q.items = append(q.items, i)
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *queue) take() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

// drain sends the queued commands while Redis is reachable, until ctx ends.
func (r *Redis) drain(ctx context.Context) {
	for {
		select {
		case <-r.queue.more:
		case <-ctx.Done():
			return
		}
		client := r.client.Load()
		if client == nil || r.Unreachable() {
			continue // watch signals the queue when Redis is reachable again.
		}
		c, cancel := context.WithTimeout(ctx, connectTimeout)
		r.send(c, *client, r.queue.take())
		cancel()
	}
}

// send sends the commands in order. Consecutive releases are one pipeline.
func (r *Redis) send(ctx context.Context, client rueidis.Client, items []item) {
	var ends rueidis.Commands
	flush := func() {
		if len(ends) > 0 {
			client.DoMulti(ctx, ends...)
			ends = nil
		}
	}
	for i := range items {
		it := &items[i]
		key := keyOf(&it.ask)
		if !it.renew {
			ends = append(ends, client.B().Zrem().Key(key).Member(it.ask.Slots...).Build())
			continue
		}
		flush()
		var args arguments
		args.int(it.ask.Keep)
		args.add(it.ask.Slots...)
		renewScript.Exec(ctx, client, []string{key}, args)
	}
	flush()
}
