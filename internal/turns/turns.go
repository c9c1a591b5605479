// Package turns rations work that any client may cause, and whose cost is known only afterwards: comparisons of guessed
// keys, look-ups of unknown tokens, reports of leaks.
package turns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ErrBusy is returned where no turn comes in time.
var ErrBusy = errors.New("too many wait for a turn")

// Rules are the bounds of a Queue.
type Rules struct {
	// Slots is how many turns run at a time.
	Slots int
	// Rate is how much may be spent in a second, Burst how much at once. A turn is given while less
	// than that was spent; the cost of a turn is known at its end.
	Rate, Burst float64
	// Waiting bounds how many waiters there are, PerClient how many of one client.
	Waiting, PerClient int
}

// Queue gives turns: round robin over groups, within a group round robin over clients, and within a
// client in order of arrival. So a client that sends many requests waits behind its own. A client
// is an IPv4 /24 or an IPv6 /48. Safe for concurrent use.
type Queue struct {
	rules Rules

	mu      sync.Mutex
	running int
	waiting int
	balance float64
	at      time.Time
	timer   *time.Timer
	// first are served before last.
	first, last []*group
}

type group struct {
	key     any
	clients []*client
}

type client struct {
	prefix  netip.Prefix
	waiters []*waiter
}

type waiter struct {
	turn chan struct{}
	busy bool // written before turn is closed: there is no turn
}

// New returns an empty Queue.
func New(rules Rules) *Queue {
	return &Queue{rules: rules, balance: rules.Burst, at: time.Now()}
}

// Enter waits for a turn, until ctx ends. With last it waits until no one else does. The caller must
// call done at the end of its turn, with what it cost.
func (q *Queue) Enter(ctx context.Context, key any, addr netip.Addr, last bool) (done func(cost float64), err error) {
	q.mu.Lock()
	q.refill()
	if q.waiting == 0 && q.free() {
		q.running++
		q.mu.Unlock()
		return q.done, nil
	}
	w := &waiter{turn: make(chan struct{})}
	if !q.add(w, key, prefixOf(addr), last) {
		q.mu.Unlock()
		return nil, ErrBusy
	}
	q.wake()
	q.mu.Unlock()
	select {
	case <-w.turn:
		if w.busy {
			return nil, ErrBusy
		}
		return q.done, nil
	case <-ctx.Done():
		q.mu.Lock()
		gone := q.remove(w)
		q.mu.Unlock()
		if !gone && !w.busy {
			q.done(0) // its turn came at the same moment
		}
		return nil, ErrBusy
	}
}

// Refund gives back what turns cost that turned out to be worth it.
func (q *Queue) Refund(cost float64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.balance = min(q.rules.Burst, q.balance+cost)
	q.wake()
}

// done ends a turn.
func (q *Queue) done(cost float64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.refill()
	q.balance -= cost
	q.wake()
}

func (q *Queue) free() bool { return q.running < q.rules.Slots && q.balance > 0 }

// refill adds what may be spent since the last time.
func (q *Queue) refill() {
	now := time.Now()
	if passed := now.Sub(q.at).Seconds(); passed > 0 {
		q.balance = min(q.rules.Burst, q.balance+passed*q.rules.Rate)
	}
	q.at = now
}

// wake gives the turns that are free, and sees to it that it is called again when there may be more.
func (q *Queue) wake() {
	q.refill()
	for q.waiting > 0 && q.free() {
		q.running++
		close(q.next().turn)
	}
	if q.waiting == 0 || q.running >= q.rules.Slots || q.timer != nil {
		return
	}
	wait := time.Duration((-q.balance/q.rules.Rate)*float64(time.Second)) + time.Millisecond
	q.timer = time.AfterFunc(wait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.timer = nil
		q.wake()
	})
}

// add puts w in the line; false where it is too long.
func (q *Queue) add(w *waiter, key any, prefix netip.Prefix, last bool) bool {
	line := &q.first
	if last {
		line = &q.last
	}
	if q.waiting >= q.rules.Waiting && (last || !q.drop()) {
		return false
	}
	i := slices.IndexFunc(*line, func(g *group) bool { return g.key == key })
	if i < 0 {
		i = len(*line)
		*line = append(*line, &group{key: key})
	}
	g := (*line)[i]
	k := slices.IndexFunc(g.clients, func(c *client) bool { return c.prefix == prefix })
	if k < 0 {
		k = len(g.clients)
		g.clients = append(g.clients, &client{prefix: prefix})
	}
	c := g.clients[k]
	if len(c.waiters) >= q.rules.PerClient {
		return false
	}
	c.waiters = append(c.waiters, w)
	q.waiting++
	return true
}

// drop removes one waiter of low priority, and reports whether there was one.
func (q *Queue) drop() bool {
	if len(q.last) == 0 {
		return false
	}
	w := take(&q.last)
	q.waiting--
	w.busy = true
	close(w.turn)
	return true
}

// next removes and returns the next waiter.
func (q *Queue) next() *waiter {
	q.waiting--
	if len(q.first) > 0 {
		return take(&q.first)
	}
	return take(&q.last)
}

// take removes and returns the first waiter of the first client of the first group. The client and
// the group move to the end.
func take(line *[]*group) *waiter {
	g := (*line)[0]
	c := g.clients[0]
	w := c.waiters[0]
	c.waiters = c.waiters[1:]
	g.clients = g.clients[1:]
	if len(c.waiters) > 0 {
		g.clients = append(g.clients, c)
	}
	*line = (*line)[1:]
	if len(g.clients) > 0 {
		*line = append(*line, g)
	}
	return w
}

// remove removes w, and reports whether it was still waiting.
func (q *Queue) remove(w *waiter) bool {
	for _, line := range []*[]*group{&q.first, &q.last} {
		for i, g := range *line {
			for j, c := range g.clients {
				k := slices.Index(c.waiters, w)
				if k < 0 {
					continue
				}
				q.waiting--
				c.waiters = slices.Delete(c.waiters, k, k+1)
				if len(c.waiters) == 0 {
					g.clients = slices.Delete(g.clients, j, j+1)
				}
				if len(g.clients) == 0 {
					*line = slices.Delete(*line, i, i+1)
				}
				return true
			}
		}
	}
	return false
}

// prefixOf returns what counts as one client.
func prefixOf(addr netip.Addr) netip.Prefix {
	bits := 48
	if addr = addr.Unmap(); addr.Is4() {
		bits = 24
	}
	p, _ := addr.WithZone("").Prefix(bits) // the zero Prefix where there is no address
	return p
}
