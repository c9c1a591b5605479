package cluster

import (
	"context"
	"sync"
	"time"
)

// Confirmation lists which nodes have applied a change, and which have not.
type Confirmation struct {
	// Confirmed are the names of the nodes that have applied the change, including this node.
	Confirmed []string
	// Pending are the nodes that have not reported that they applied the change.
	Pending []PendingNode
}

// AnyOther is the Name of a PendingNode that stands for all other nodes. It is used if this node has
// never read the list of nodes.
const AnyOther = "any other gateway"

// PendingNode is a node that has not confirmed a change.
type PendingNode struct {
	Name string
	// Deadline is the time until which the node accepts keys from memory. The zero time means unknown.
	Deadline time.Time
	// contactAt is the time of the node's last report to the store.
	contactAt time.Time
}

// Confirm returns which nodes have applied all changes up to number seq. If seq is 0, it means all
// changes of the store. A node also counts as confirmed once it accepts no keys of the keyspace from
// memory. If keyspace is "", the node must accept no keys of any keyspace. Confirm blocks until all
// nodes have confirmed, wait has passed, or ctx has ended. Confirm does not wait for nodes without
// recent reports.
//
// While the store is unreachable, Confirm returns the nodes of the last read list as pending. Their
// deadlines are computed as if they had reached the store just now. If the list was never read,
// AnyOther is pending.
func (m *Member) Confirm(ctx context.Context, keyspace string, seq int64, wait time.Duration) Confirmation {
	s := m.membership
	if s == nil {
		return Confirmation{Confirmed: []string{m.Name()}}
	}
	ctx, cancel := context.WithTimeout(ctx, max(wait, reportTimeout))
	defer cancel()
	if seq == 0 {
		last, err := m.store.LastSeq(ctx)
		if err != nil {
			last = m.seq.Load()
		}
		for seq = last; m.seq.Load() < seq; {
			// This node has not applied all changes of other nodes yet.
			if sleep(ctx, 2*time.Millisecond) != nil {
				break
			}
		}
	}
	deadline := time.Now().Add(wait)
	for next := 2 * time.Millisecond; ; next = min(2*next, 50*time.Millisecond) {
		list, err := s.polls.list(ctx, s.registry)
		if list == nil {
			return Confirmation{Confirmed: []string{m.Name()}, Pending: []PendingNode{{Name: AnyOther}}}
		}
		c, alive := m.classifyNodes(list.nodes, list.now, keyspace, seq)
		if err != nil {
			// Since this node read the list, other nodes may have reported again, but none can have confirmed the
			// change that Confirm asks about.
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

// sleep returns nil when d has passed, or the error of ctx if ctx ends before.
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

// classifyNodes divides nodes into those that have applied the change numbered seq and those that are
// pending. alive is the number of pending nodes that have reported recently.
func (m *Member) classifyNodes(nodes []Node, now time.Time, keyspace string, seq int64) (c Confirmation, alive int) {
	c.Confirmed = append(c.Confirmed, m.Name())
	recovering := m.membership.recovering()
	for i := range nodes {
		n := &nodes[i]
		deadline := n.DeadlineFor(keyspace)
		switch {
		case n.Name == m.Name(), deadline.Before(now):
		case n.Seq >= seq:
			c.Confirmed = append(c.Confirmed, n.Name)
		default:
			c.Pending = append(c.Pending, PendingNode{n.Name, deadline, n.ContactAt})
			if recovering || now.Sub(n.ContactAt) < unresponsiveAfter {
				alive++
			}
		}
	}
	return c, alive
}

// Nodes returns the gateways that share the store, and the time by the store's clock. The list is nil
// if no other process shares the store.
func (m *Member) Nodes(ctx context.Context) ([]Node, time.Time, error) {
	if m.membership == nil {
		return nil, time.Time{}, nil
	}
	return m.membership.registry.Nodes(ctx)
}

// nodePoller reads the list of nodes. Concurrent callers share a read, and each gets a list that
// was read after its call began.
type nodePoller struct {
	mu sync.Mutex
	// running is the read of nodes that is in progress. next is the read that starts after running.
	running, next *nodePoll
	// last is the list from the last successful read, or nil before the first one.
	last *nodeList
}

// nodeList is the list of nodes at one time. A nodeList is immutable.
type nodeList struct {
	nodes []Node
	// now is the store's time at which it returned the list. asked is this node's time at the start of
	// the query.
	now, asked time.Time
}

type nodePoll struct {
	done chan struct{}
	list *nodeList
	err  error
}

// list returns the nodes of the cluster. If the read fails, it returns an error and the list that was
// read last, or nil if there is none.
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

// run reads the list of nodes for poll. Then it reads the list for polls requested during the read.
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

// NodesKnown returns how many nodes are in the list that this node read last.
func (m *Member) NodesKnown() int {
	p := &m.membership.polls
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		return 0
	}
	return len(p.last.nodes)
}
