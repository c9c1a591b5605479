package ratelimit

import "time"

// outage decides about a request while Redis, which holds its counts, is unreachable. The bill's Outage states how. The
// caller holds the locks of the subjects.
func (s *Shared) outage(now time.Time, b *Bill, parties *[3]*Party, o *Outcome, c *operation, take bool) error {
	s.outages.Add(1)
	c.unreachable = true
	if !take {
		if b.Outage == OutageClosed {
			o.N = 0
			return ErrUnavailable
		}
		return nil
	}
	switch b.Outage {
	case OutageClosed:
		s.undo(now, b, parties, c, o.N)
		o.N = 0
		return ErrUnavailable
	case OutageOpen:
		c.open = true
		s.spendLocally(now, b, parties, o, c, 1)
		return nil
	}
	nodes := s.remote.Nodes()
	for i := range o.N {
		w, st := &c.lines[i], &o.Standings[i]
		if w.ask < 0 {
			continue
		}
		subject := parties[w.party].subject()
		at := subject.clamp(now)
		switch policy := w.line.Policy; policy.Kind {
		case Rate:
			// A node's share of the bucket regains a token nodes times more slowly.
			p := w.line.meter.sharedPool(at)
			each := p.share(nodes)
			if owed := p.owed(at); owed+each > max(p.scale.depth, each) {
				st.Denied = true
				st.Retry = p.retry(owed, each)
			}
		case Quota:
			if subject.counter(policy.Calendar, now).overShare(policy.Limit, max(b.Cost, 0), nodes) {
				st.Denied = true
				st.Retry = recheck // Redis may be reachable again after this time, so the client should retry then.
			}
		case Concurrency:
			if subject.live.Load() > max(1, policy.Limit/nodes) { // The count of live requests includes this request.
				st.Denied = true
				st.Retry = time.Second
			}
		}
		o.noteDenial(st, w.line.Policy)
	}
	if o.Denied {
		s.undo(now, b, parties, c, o.N)
		return nil
	}
	s.spendLocally(now, b, parties, o, c, nodes)
	return nil
}

// spendLocally counts a request in this process, because Redis could not be asked. A later ask adds the amount to the shared
// counts.
func (s *Shared) spendLocally(now time.Time, b *Bill, parties *[3]*Party, o *Outcome, c *operation, nodes int64) {
	for i := range o.N {
		w := &c.lines[i]
		if w.ask < 0 || w.local {
			continue
		}
		subject := parties[w.party].subject()
		at := subject.clamp(now)
		switch policy := w.line.Policy; policy.Kind {
		case Rate:
			p := w.line.meter.sharedPool(at)
			each := p.share(nodes)
			p.debt, p.at = min(p.owed(at)+each, max(p.scale.depth, each)), at
			p.unmerged = true
		case Quota:
			if w.sharesCount {
				continue
			}
			count := subject.counter(policy.Calendar, now)
			count.used += max(b.Cost, 0)
			count.ensureLease().carry += max(b.Cost, 0)
		}
	}
}

// share returns the cost of one token when each of the nodes may use only its share of the bucket.
func (p *pool) share(nodes int64) int64 {
	if p.scale.each > maxDepth/nodes {
		return maxDepth
	}
	return p.scale.each * nodes
}

// overShare reports whether cost exceeds what is left of this node's share of the quota. The share is a part of what was
// left when Redis last answered, and is at least one request.
func (c *counter) overShare(limit, cost, nodes int64) bool {
	var mine int64
	if c.lease != nil {
		mine = c.lease.carry
	}
	left := limit - (c.used - mine)
	if cost == 0 || mine == 0 && cost <= left {
		return false
	}
	return left < 1 || mine+cost > max(left/nodes, 1)
}
