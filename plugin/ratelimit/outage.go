package ratelimit

import "time"

// outage decides what could not be asked for, as the bill wants it. What was taken here stays
// taken where the bill passes. The subjects are locked.
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
			// A share of the bucket pays a token off as many times more slowly as there are nodes.
			p := w.line.meter.sharedPool(at)
			each := p.share(nodes)
			if owed := p.owed(at); owed+each > max(p.scale.depth, each) {
				st.Denied = true
				st.Retry = p.retry(owed, each)
			}
		case Quota:
			if subject.counter(policy.Calendar, at).overShare(policy.Limit, max(b.Cost, 0), nodes) {
				st.Denied = true
				st.Retry = recheck // when shared counts are back, at the latest at the period's end
			}
		case Concurrency:
			if subject.live.Load() > max(1, policy.Limit/nodes) { // with this one
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

// spendLocally counts here what could not be taken from the shared counts, which get it later.
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
			count := subject.counter(policy.Calendar, at)
			if count.lease == nil {
				count.lease = new(lease)
			}
			count.used += max(b.Cost, 0)
			count.lease.carry += max(b.Cost, 0)
		}
	}
}

// share is what one token costs where each of that many nodes may use its share of the bucket.
func (p *pool) share(nodes int64) int64 {
	if p.scale.each > maxDepth/nodes {
		return maxDepth
	}
	return p.scale.each * nodes
}

// overShare reports whether cost exceeds the rest of a node's share of the quota, as of its last
// answer. A share is at least one request.
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
