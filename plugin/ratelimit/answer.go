package ratelimit

import "time"

// finish notes what was answered, and gives back what was taken here where a count refused. The
// subjects are locked.
func (s *Shared) finish(now time.Time, b *Bill, parties *[3]*Party, o *Outcome, c *call, take, taken bool) {
	cost := max(b.Cost, 0)
	c.peeked = !take
	for i := range o.N {
		w := &c.lines[i]
		if w.ask < 0 {
			continue
		}
		a, st, policy := &c.asks[w.ask], &o.Standings[i], w.line.Policy
		subject := parties[w.party].subject()
		at := subject.clamp(now)
		switch policy.Kind {
		case Rate:
			r, p := &a.Rates[w.rate], w.line.meter.shared(at)
			if !take {
				p.learn(at, r.Debt)
			} else {
				p.answer(at, r, a.At, taken)
				p.keepUnused(r, taken)
				if p.holding() {
					s.holds(subject, a.Owner)
				}
			}
			if p.merge && take && taken {
				p.merge = false
			}
			if !taken && r.Need > 0 && r.Debt+r.Need*r.scale.each > r.scale.depth {
				st.Refused = true
				st.Retry = r.scale.duration(r.Debt + r.Need*r.scale.each - r.scale.depth)
			}
		case Quota:
			if !w.follows {
				s.answerQuota(at, subject, a, take, taken)
			}
			if !taken && cost > 0 && a.Used > policy.Limit-cost {
				st.Refused = true
				if policy.Calendar != Total {
					st.Retry = subject.ends(policy.Calendar, at).Sub(now)
				}
			}
		case Concurrency:
			if !w.follows {
				s.answerSlots(at, subject, a, c, int(w.party), take, taken)
			}
			if !taken && a.Used >= policy.Limit {
				st.Refused = true
				st.Retry = time.Second // nobody knows when a running request ends
			}
		}
		o.refuse(st, policy)
	}
	if taken {
		return
	}
	if !o.Refused {
		// It was refused for what has changed since; the same request may pass now.
		for i := range o.N {
			if w := &c.lines[i]; w.ask >= 0 {
				o.Standings[i].Refused, o.Standings[i].Retry = true, time.Second
				o.refuse(&o.Standings[i], w.line.Policy)
				break
			}
		}
	}
	s.undo(now, b, parties, c, o.N)
}

func (s *Shared) answerQuota(at time.Time, subject *Subject, a *Ask, take, taken bool) {
	count := subject.count(a.Calendar)
	if take {
		count = subject.counter(a.Calendar, at)
	}
	if a.Calendar != Total && count.start != a.Start {
		return // the period ended meanwhile
	}
	if !take {
		if count.begun() {
			count.used = a.Used
		}
		return
	}
	if count.lease == nil {
		count.lease = new(lease)
	}
	l := count.lease
	l.heard = at
	count.used = a.Used
	if !taken {
		return
	}
	count.used += a.Granted
	l.carry -= a.Carry
	if a.Granted > a.Need {
		l.held += a.Granted - a.Need
		l.used = true
		s.holds(subject, a.Owner)
	}
}

func (s *Shared) answerSlots(at time.Time, subject *Subject, a *Ask, c *call, party int, take, taken bool) {
	sl := subject.slots()
	if sl == nil {
		sl = &slots{owner: a.Owner, names: map[string]struct{}{}}
		subject.rarely().slots = sl
	}
	sl.inUse = a.Used
	if !take {
		return
	}
	if !taken {
		if a.Used >= a.Limit {
			sl.full = at.Add(slotRecheck)
		}
		return
	}
	sl.inUse += a.Granted
	for _, name := range a.Slots[:a.Granted] {
		sl.names[name] = struct{}{}
	}
	c.slots[party] = a.Slots[0]
	sl.free = append(sl.free, a.Slots[1:a.Granted]...)
	sl.idle = min(sl.idle, len(sl.free))
	s.holds(subject, a.Owner)
}

// hold has the bill hold the call's slots.
func (s *Shared) hold(b *Bill, c *call) {
	if c.slots != ([3]string{}) {
		b.slots = &heldSlots{by: s, names: c.slots}
	}
}

// disown gives up slots of which it is not known whether they were taken.
func (s *Shared) disown(c *call) {
	for i := range c.asks {
		if a := &c.asks[i]; a.Kind == Concurrency && len(a.Slots) > 0 {
			s.remote.Release(Ask{Kind: Concurrency, Subject: a.Subject, Owner: a.Owner, Slots: append([]string(nil), a.Slots...)})
		}
	}
}

// stand fills in where every line stands, as far as it is known here. The subjects are locked.
func (s *Shared) stand(now time.Time, parties *[3]*Party, o *Outcome, c *call) {
	if c.open {
		o.N = 0
		return
	}
	for i := range o.N {
		st, w := &o.Standings[i], &c.lines[i]
		subject := parties[w.party].subject()
		at, policy := subject.clamp(now), w.line.Policy
		switch policy.Kind {
		case Rate:
			w.line.meter.shared(at).stand(at, st, w.line.meter.policy)
		case Quota:
			count := subject.count(policy.Calendar)
			used := count.at(at)
			if c.peeked && w.ask >= 0 {
				used = c.asks[w.ask].Used // this process may count nothing yet
			}
			if count.lease != nil && at.Unix() < count.end {
				used -= count.lease.held
			}
			standQuota(st, policy, used, subject.ends(policy.Calendar, at), now)
		case Concurrency:
			st.Policy, st.Limit = policy, policy.Limit
			inUse := subject.live.Load()
			if sl := subject.slots(); sl != nil && !c.away {
				inUse = sl.inUse - int64(len(sl.free))
			}
			st.Remaining = max(0, policy.Limit-max(inUse, 0))
			if st.Refused {
				st.Remaining = 0
			}
		case Credits:
			subject.Account().stand(st, policy)
		}
	}
}

// stand fills in where the bucket stands.
func (p *pool) stand(now time.Time, st *Standing, policy *Policy) {
	owed := p.owed(now)
	left := max(0, p.scale.depth-owed)/p.scale.each + p.held(now)
	if st.Refused {
		left = 0
	}
	st.Policy = policy
	st.Limit = policy.Burst
	st.Remaining = min(left, st.Limit)
	st.Reset = p.scale.duration(owed)
}
