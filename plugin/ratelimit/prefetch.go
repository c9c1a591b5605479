package ratelimit

import (
	"context"
	"time"
)

// listPrefetch returns an operation that asks for tokens and units before requests need them. It returns nil if nothing is
// due. The caller holds the locks of the subjects.
func (s *Shared) listPrefetch(now time.Time, b *Bill, parties *[3]*Party, n int, done *operation) *operation {
	c := new(operation)
	for i := range n {
		w := done.lines[i]
		w.ask, w.rate, w.local = -1, -1, false
		c.lines[i] = w
	}
	for i := range n {
		w := &c.lines[i]
		if w.ask >= 0 || w.sharesCount {
			continue
		}
		subject := parties[w.party].subject()
		at := subject.clamp(now)
		switch policy := w.line.Policy; policy.Kind {
		case Rate:
			if !w.line.meter.sharedPool(at).shouldPrefetch(at, s.remote.Nodes()) {
				continue
			}
			a := c.ask()
			a.Kind, a.Subject, a.Owner, a.Origin = Rate, subject.countID(Rate, w.line.origin, 0), b.ownerOf(int(w.party)), w.line.origin
			s.listRates(at, a, c, i, n, true)
		case Quota:
			l := subject.count(policy.Calendar).lease
			if l == nil || l.asking {
				continue
			}
			extra := l.target(policy.Limit-subject.count(policy.Calendar).usedAt(now), s.remote.Nodes()) - l.held
			if extra <= 0 {
				continue
			}
			a := c.ask()
			a.Kind, a.Subject, a.Owner = Quota, subject.countID(Quota, 0, policy.Calendar), b.ownerOf(int(w.party))
			s.listQuota(now, subject, a, c, i, n, 0, true)
			a.Extra = extra
			l.asking = true
		default:
			continue
		}
		for j := range n {
			if o := &c.lines[j]; o.rate >= 0 && o.ask == int8(len(c.asks)) {
				o.ask--
				if o.line.Policy.Kind == Rate {
					o.line.meter.sharedPool(at).asking = true
				}
			}
		}
	}
	if len(c.asks) == 0 {
		return nil
	}
	return c
}

// prefetch sends the asks that listPrefetch made at now, and stores the granted tokens and units.
// It blocks on the remote, so it runs in the background.
func (s *Shared) prefetch(now time.Time, c *operation) {
	s.asked.Add(1)
	_, err := s.remote.Ask(context.Background(), c.asks, false)
	for i := range c.lines {
		w := &c.lines[i]
		if w.line == nil || w.ask < 0 {
			continue
		}
		a, subject := &c.asks[w.ask], w.line.Subject
		subject.mu.Lock()
		switch policy := w.line.Policy; policy.Kind {
		case Rate:
			p := w.line.meter.sharedPool(now)
			p.asking = false
			if err == nil {
				p.applyAnswer(now, &a.Rates[w.rate], a.At, true)
				if p.holdsTokens() {
					s.addHolder(subject, a.Owner)
				}
			}
		case Quota:
			if l := subject.count(policy.Calendar).lease; l != nil && !w.sharesCount {
				l.asking = false
				if err == nil {
					s.applyQuota(now, subject, a, true, true)
				}
			}
		}
		subject.mu.Unlock()
	}
}
