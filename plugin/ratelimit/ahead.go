package ratelimit

import (
	"context"
	"time"
)

// ahead lists what should be taken ahead of need for the bill's lines; nil where nothing should. The
// subjects are locked.
func (s *Shared) ahead(now time.Time, b *Bill, parties *[3]*Party, n int, done *call) *call {
	c := new(call)
	for i := range n {
		w := done.lines[i]
		w.ask, w.rate, w.here = -1, -1, false
		c.lines[i] = w
	}
	for i := range n {
		w := &c.lines[i]
		if w.ask >= 0 || w.follows {
			continue
		}
		subject := parties[w.party].subject()
		at := subject.clamp(now)
		switch policy := w.line.Policy; policy.Kind {
		case Rate:
			if !w.line.meter.shared(at).wants(at, s.remote.Nodes()) {
				continue
			}
			a := c.ask()
			a.Kind, a.Subject, a.Owner, a.Origin = Rate, subject.id, b.ownerOf(int(w.party)), w.line.origin
			s.listRates(at, a, c, i, n, true)
			for j := range n {
				if o := &c.lines[j]; o.rate >= 0 && o.ask == int8(len(c.asks)) {
					o.ask--
					o.line.meter.shared(at).asking = true
				}
			}
		case Quota:
			l := subject.count(policy.Calendar).lease
			if l == nil || l.asking {
				continue
			}
			extra := l.target(policy.Limit-subject.count(policy.Calendar).at(at), s.remote.Nodes()) - l.held
			if extra <= 0 {
				continue
			}
			a := c.ask()
			a.Kind, a.Subject, a.Owner = Quota, subject.id, b.ownerOf(int(w.party))
			s.listQuota(at, subject, a, c, i, n, 0, true)
			a.Extra = extra
			for j := range n {
				if o := &c.lines[j]; o.rate >= 0 && o.ask == int8(len(c.asks)) {
					o.ask--
				}
			}
			l.asking = true
		}
	}
	if len(c.asks) == 0 {
		return nil
	}
	return c
}

// fetch asks for what ahead listed at now, and keeps it. It blocks as a request would, and runs beside them.
func (s *Shared) fetch(now time.Time, c *call) {
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
			p := w.line.meter.shared(now)
			p.asking = false
			if err == nil {
				p.answer(now, &a.Rates[w.rate], a.At, true)
				if p.holding() {
					s.holds(subject, a.Owner)
				}
			}
		case Quota:
			if l := subject.count(policy.Calendar).lease; l != nil && !w.follows {
				l.asking = false
				if err == nil {
					s.answerQuota(subject.clamp(now), subject, a, true, true)
				}
			}
		}
		subject.mu.Unlock()
	}
}
