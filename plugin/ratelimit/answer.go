package ratelimit

import "time"

// applyAnswers stores the answers of the remote counter in the operation c. If a count denied the request, applyAnswers
// undoes the local charges of the request. The caller holds the locks of the subjects.
func (s *Shared) applyAnswers(now time.Time, b *Bill, parties *[3]*Party, o *Outcome, c *operation, take, taken bool) {
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
			r, p := &a.Rates[w.rate], w.line.meter.sharedPool(at)
			if !take {
				p.learn(at, r.Debt)
			} else {
				p.applyAnswer(at, r, a.At, taken)
				p.keepUnused(r, taken)
				if p.holdsTokens() {
					s.addHolder(subject, a.Owner)
				}
			}
			if p.unmerged && take && taken {
				p.unmerged = false
			}
			if !taken && r.Need > 0 && r.Debt+r.Need*r.scale.each > r.scale.depth {
				st.Denied = true
				st.Retry = r.scale.duration(r.Debt + r.Need*r.scale.each - r.scale.depth)
			}
		case Quota:
			if !w.sharesCount {
				s.applyQuota(now, subject, a, take, taken)
			}
			if !taken && cost > 0 && a.Used > policy.Limit-cost {
				st.Denied = true
				if policy.Calendar != Total {
					st.Retry = subject.ends(policy.Calendar, now).Sub(now)
				}
			}
		case Concurrency:
			if !w.sharesCount {
				s.applySlots(at, subject, a, c, int(w.party), take, taken)
			}
			if !taken && a.Used >= policy.Limit {
				st.Denied = true
				st.Retry = time.Second // the end of a running request is unknown
			}
		}
		o.noteDenial(st, policy)
	}
	if taken {
		return
	}
	if !o.Denied {
		// The count that denied the request has changed since the answer, so a retry may pass.
		for i := range o.N {
			if w := &c.lines[i]; w.ask >= 0 {
				o.Standings[i].Denied, o.Standings[i].Retry = true, time.Second
				o.noteDenial(&o.Standings[i], w.line.Policy)
				break
			}
		}
	}
	s.undo(now, b, parties, c, o.N)
}

func (s *Shared) applyQuota(now time.Time, subject *Subject, a *Ask, take, taken bool) {
	count := subject.count(a.Calendar)
	if take {
		count = subject.counter(a.Calendar, now)
	}
	if a.Calendar != Total && count.start != a.Start {
		return // The period of the quota ended while Redis was asked, so the answer belongs to a past period and is ignored.
	}
	if !take {
		if count.begun() {
			count.used = a.Used
		}
		return
	}
	l := count.ensureLease()
	l.refreshedAt = now
	count.used = a.Used
	if !taken {
		return
	}
	count.used += a.Granted
	l.carry -= a.Carry
	if a.Granted > a.Need {
		l.held += a.Granted - a.Need
		l.used = true
		s.addHolder(subject, a.Owner)
	}
}

func (s *Shared) applySlots(at time.Time, subject *Subject, a *Ask, c *operation, party int, take, taken bool) {
	sl := subject.slots()
	if sl == nil {
		sl = &slots{owner: a.Owner, names: map[string]struct{}{}}
		subject.ensureCold().slots = sl
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
	s.addHolder(subject, a.Owner)
}

// assignSlots moves the operation's concurrency slots into the bill, so that Release frees them.
func (s *Shared) assignSlots(b *Bill, c *operation) {
	if c.slots != ([3]string{}) {
		b.slots = &heldSlots{by: s, names: c.slots}
	}
}

// abandonSlots releases concurrency slots for which Redis was asked without an answer, because Redis may have taken them.
func (s *Shared) abandonSlots(c *operation) {
	for i := range c.asks {
		if a := &c.asks[i]; a.Kind == Concurrency && len(a.Slots) > 0 {
			s.remote.Release(Ask{Kind: Concurrency, Subject: a.Subject, Owner: a.Owner, Slots: append([]string(nil), a.Slots...)})
		}
	}
}

// fillStandings sets the state of every limit of the operation, as far as this process knows it. The caller holds the locks
// of the subjects.
func (s *Shared) fillStandings(now time.Time, parties *[3]*Party, o *Outcome, c *operation) {
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
			w.line.meter.sharedPool(at).fillStanding(at, st, w.line.meter.policy)
		case Quota:
			count := subject.count(policy.Calendar)
			used := count.usedAt(now)
			if c.peeked && w.ask >= 0 {
				used = c.asks[w.ask].Used // The answer's count is used, because this process's own count may still be empty.
			}
			if count.lease != nil && at.Unix() < count.end {
				used -= count.lease.held
			}
			fillQuotaStanding(st, policy, used, subject.ends(policy.Calendar, now), now)
		case Concurrency:
			st.Policy, st.Limit = policy, policy.Limit
			inUse := subject.live.Load()
			if sl := subject.slots(); sl != nil && !c.unreachable {
				inUse = sl.inUse - int64(len(sl.free))
			}
			st.Remaining = max(0, policy.Limit-max(inUse, 0))
			if st.Denied {
				st.Remaining = 0
			}
		case Credits:
			subject.Account().fillStanding(st, policy)
		}
	}
}

func (p *pool) fillStanding(now time.Time, st *Standing, policy *Policy) {
	owed := p.owed(now)
	left := max(0, p.scale.depth-owed)/p.scale.each + p.held(now)
	if st.Denied {
		left = 0
	}
	st.Policy = policy
	st.Limit = policy.Burst
	st.Remaining = min(left, st.Limit)
	st.Reset = p.scale.duration(owed)
}
