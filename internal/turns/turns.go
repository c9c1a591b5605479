// Package turns limits expensive work that any client may cause and whose cost is known only at
// its end: comparing guessed keys, looking up unknown tokens, handling reports of leaked keys.
package turns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ErrBusy means that the queue is full, or that no turn was free before the context ended.
var ErrBusy = errors.New("too many requests of this kind: try again later")

// Rules are the limits of a Queue.
type Rules struct {
	// Slots is how many turns may run at a time.
	Slots int
	// Rate is the cost that may be spent per second, and Burst is the cost that may be spent at once. The cost of a turn is
	// charged at its end, so the last turn may exceed the balance.
	Rate, Burst float64
	// Waiting is the largest number of waiting callers, PerClient the largest number for one
	// client.
	Waiting, PerClient int
}

// Queue grants turns. It serves groups in round robin, the clients of a group in round robin, and
// the calls of a client in order. So a client with many calls delays mainly itself. A client is an
// IPv4 /24 or an IPv6 /48. Safe for concurrent use.
type Queue struct {
	rules Rules

	mu      sync.Mutex
	running int
	waiting int
	balance float64
	at      time.Time
	timer   *time.Timer
	// first holds the waiting callers with normal priority. last holds those with low priority.
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
	busy bool // true if the caller gets no turn; written before turn is closed
}

// New returns an empty Queue.
func New(rules Rules) *Queue {
	return &Queue{rules: rules, balance: rules.Burst, at: time.Now()}
}

// Enter waits for a turn. It returns the function done, which the caller must call at the end of the turn with the cost of
// the turn. Enter returns ErrBusy if the queue is full, or if ctx ends before the turn. A caller with last set gets a turn
// only while no other caller waits.
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
			q.done(0) // The turn was granted at the moment when ctx ended, so it is given back.
		}
		return nil, ErrBusy
	}
}

// Refund gives back the cost of turns whose work was legitimate, such as a guess that was a valid
// key.
func (q *Queue) Refund(cost float64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.balance = min(q.rules.Burst, q.balance+cost)
	q.wake()
}

// done ends a turn and charges its cost.
func (q *Queue) done(cost float64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.refill()
	q.balance -= cost
	q.wake()
}

func (q *Queue) free() bool { return q.running < q.rules.Slots && q.balance > 0 }

// refill raises the balance by the rate for the time since the last call, up to Burst.
func (q *Queue) refill() {
	now := time.Now()
	if passed := now.Sub(q.at).Seconds(); passed > 0 {
		q.balance = min(q.rules.Burst, q.balance+passed*q.rules.Rate)
	}
	q.at = now
}

// wake grants all free turns. If callers still wait for the balance to rise, it schedules its next
// call.
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

// add appends w to the queue, and reports false where the queue or the client's part of it is
// full.
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

// drop removes one waiting caller of low priority, which gets ErrBusy. It reports false where
// there is none.
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

// next removes and returns the caller whose turn is next.
func (q *Queue) next() *waiter {
	q.waiting--
	if len(q.first) > 0 {
		return take(&q.first)
	}
	return take(&q.last)
}

// take removes and returns the first caller of the first client of the first group. Client and
// group then move to the end.
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

// remove removes w from the queue, and reports false where w was no longer waiting.
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

// prefixOf returns the network that counts as one client.
func prefixOf(addr netip.Addr) netip.Prefix {
	bits := 48
	if addr = addr.Unmap(); addr.Is4() {
		bits = 24
	}
	p, _ := addr.WithZone("").Prefix(bits) // an invalid address gives the zero Prefix
	return p
}
