package gateway

import (
	"context"
	"sync"
	"time"
)

// Confirmation says which nodes act by a change.
type Confirmation struct {
	// Confirmed are those that do, this one among them.
	Confirmed []string
	// Pending are those that have not said so.
	Pending []PendingNode
}

// AnyOther is the Name of a PendingNode that stands for all nodes but this one, where it was never read
// who they are.
const AnyOther = "any other gateway"

// PendingNode is a node that has not confirmed a change.
type PendingNode struct {
	Name string
	// Deadline is when it stops judging by what it holds; the zero time where that is not known.
	Deadline time.Time
	// contactAt is when it was last heard of.
	contactAt time.Time
}

// Confirm returns which nodes act by all changes up to seq, which this one does, to what is of a keyspace
// (of any where that is ""), or where seq is 0 by all that there are: at once when all do, else when wait has passed or ctx ends. Nodes that have been silent for some
// seconds are not waited for, and those are left out that have stopped judging meanwhile.
// Where the store does not answer, the nodes last known are pending: they stop by when they would had they
// heard of the store just now; or AnyOther is, where none were ever known.
func (g *Gateway) Confirm(ctx context.Context, keyspace string, seq int64, wait time.Duration) Confirmation {
	m := g.member
	if m == nil {
		return Confirmation{Confirmed: []string{g.node}}
	}
	ctx, cancel := context.WithTimeout(ctx, max(wait, reportTimeout))
	defer cancel()
	if seq == 0 {
		last, err := g.store.LastSeq(ctx)
		if err != nil {
			last = g.seq.Load()
		}
		for seq = last; g.seq.Load() < seq; {
			// Others' changes, which this node has yet to hear of.
			if sleep(ctx, 2*time.Millisecond) != nil {
				break
			}
		}
	}
	deadline := time.Now().Add(wait)
	for next := 2 * time.Millisecond; ; next = min(2*next, 50*time.Millisecond) {
		list, err := m.polls.list(ctx, m.registry)
		if list == nil {
			return Confirmation{Confirmed: []string{g.node}, Pending: []PendingNode{{Name: AnyOther}}}
		}
		c, alive := g.classifyNodes(list.nodes, list.now, keyspace, seq)
		if err != nil {
			// They may have been heard of since that was read, but not of this change.
			now := list.now.Add(time.Since(list.asked))
			for i := range c.Pending {
				p := &c.Pending[i]
				p.Deadline = p.Deadline.Add(now.Sub(p.contactAt))
			}
		}
		if err == nil && alive == 0 || !time.Now().Add(next).Before(deadline) {
			return c
		}
		if sleep(ctx, next) != nil {
			return c
		}
	}
}

// sleep returns nil when d has passed, or why ctx ended before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// classifyNodes sorts the nodes by whether they act by seq, and counts the pending ones that are alive.
func (g *Gateway) classifyNodes(nodes []Node, now time.Time, keyspace string, seq int64) (c Confirmation, alive int) {
	c.Confirmed = append(c.Confirmed, g.node)
	recovering := g.member.recovering()
	for i := range nodes {
		n := &nodes[i]
		stops := n.DeadlineFor(keyspace)
		switch {
		case n.Name == g.node, stops.Before(now):
		case n.Seq >= seq:
			c.Confirmed = append(c.Confirmed, n.Name)
		default:
			c.Pending = append(c.Pending, PendingNode{n.Name, stops, n.ContactAt})
			if recovering || now.Sub(n.ContactAt) < unresponsiveAfter {
				alive++
			}
		}
	}
	return c, alive
}

// Nodes returns the gateways that share the store, and its time; none where it is this
// process's own.
func (g *Gateway) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	if g.member == nil {
		return nil, time.Time{}, nil
	}
	return g.member.registry.Nodes(ctx)
}

// nodePoller asks who is there, once for all who want to know: whoever asks is given what
// was read after they asked.
type nodePoller struct {
	mu sync.Mutex
	// running is the one under way, next the one that begins when it has ended.
	running, next *nodePoll
	// lowPriority is what was read last, nil before anything was.
	last *nodeList
}

// nodeList is who was there at a time. Immutable.
type nodeList struct {
	nodes []Node
	// failing is the time by the store's clock, asked when it was asked for by this node's.
	now, asked time.Time
}

type nodePoll struct {
	done chan struct{}
	list *nodeList
	err  error
}

// list returns the nodes. With an error come those that were read last, nil where none were.
func (p *nodePoller) list(ctx context.Context, r Registry) (*nodeList, error) {
	p.mu.Lock()
	var mine *nodePoll
	switch {
	case p.running == nil:
		mine = &nodePoll{done: make(chan struct{})}
		p.running = mine
		go p.run(mine, r)
	case p.next == nil:
		p.next = &nodePoll{done: make(chan struct{})}
		mine = p.next
	default:
		mine = p.next
	}
	p.mu.Unlock()
	select {
	case <-mine.done:
		return mine.list, mine.err
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.last, ctx.Err()
	}
}

// run reads the nodes for poll, and for those who asked meanwhile.
func (p *nodePoller) run(poll *nodePoll, r Registry) {
	for poll != nil {
		ctx, cancel := context.WithTimeout(context.Background(), reportTimeout)
		asked := time.Now()
		nodes, now, err := r.Nodes(ctx)
		cancel()
		p.mu.Lock()
		if err == nil {
			p.last = &nodeList{nodes, now, asked}
		}
		poll.list, poll.err = p.last, err
		close(poll.done)
		p.running, p.next = p.next, nil
		poll = p.running
		p.mu.Unlock()
	}
}
