package ratelimit

import (
	"strconv"
	"time"
)

// listAsks adds an ask, a question to Redis, to the operation c for each count that a pending limit needs.
func (s *Shared) listAsks(now time.Time, b *Bill, parties *[3]*Party, c *operation, n int, cost int64, take bool) {
	for i := 0; i < n; i++ {
		w := &c.lines[i]
		if w.ask != askPending || w.rate >= 0 {
			continue
		}
		// In this loop, indexes in w.ask start at 1, because 0 means askPending.
		subject := parties[w.party].subject()
		policy := w.line.Policy
		a := c.ask()
		a.Kind, a.Subject, a.Owner = policy.Kind, subject.countID(policy.Kind, w.line.origin, policy.Calendar), b.ownerOf(int(w.party))
		at := subject.clamp(now)
		switch policy.Kind {
		case Rate:
			a.Origin = w.line.origin
			s.listRates(at, a, c, i, n, take)
		case Quota:
			s.listQuota(now, subject, a, c, i, n, cost, take)
		case Concurrency:
			s.listSlots(subject, a, c, i, n, take)
		}
	}
	for i := 0; i < n; i++ {
		if w := &c.lines[i]; w.rate >= 0 {
			w.ask--
		} else {
			w.ask = -1
		}
	}
}

// listRates fills in the ask a. It asks for all rates of the i-th limit's subject and origin together.
func (s *Shared) listRates(at time.Time, a *Ask, c *operation, i, n int, take bool) {
	number := int8(len(c.asks))
	for j := range c.lines[:n] {
		w := &c.lines[j]
		if w.party != c.lines[i].party || w.line.Policy.Kind != Rate || w.line.origin != a.Origin {
			continue
		}
		p := w.line.meter.sharedPool(at)
		r := RateAsk{scale: p.scale, Hint: p.owed(at)}
		if w.ask == askPending {
			r.Need = 1
		}
		if s.leased.Load() && take {
			if r.Extra = p.target(r.Hint, s.remote.Nodes()) - p.held(at); r.Extra > 0 {
				r.Hold = p.scale.units(p.shortHold())
			} else {
				r.Extra = 0
			}
			// If the ask does not reach Redis, the tokens that it returns are lost.
			p.expire(at)
			r.Return, r.From = p.unused.n, p.unused.from
			p.unused = lot{}
		}
		a.Merge = a.Merge || p.unmerged
		w.ask, w.rate = number, int8(len(a.Rates))
		a.Rates = append(a.Rates, r)
	}
}

func (s *Shared) listQuota(now time.Time, subject *Subject, a *Ask, c *operation, i, n int, cost int64, take bool) {
	cal := c.lines[i].line.Policy.Calendar
	a.Calendar, a.Limit, a.Need = cal, MaxLimit, cost
	number := int8(len(c.asks))
	for j := range c.lines[:n] {
		w := &c.lines[j]
		if w.party == c.lines[i].party && w.line.Policy.Kind == Quota && w.line.Policy.Calendar == cal {
			a.Limit = min(a.Limit, w.line.Policy.Limit)
			w.ask, w.rate = number, 0
		}
	}
	s.fillQuota(now, subject, a)
	if l := subject.count(cal).lease; l != nil && s.leased.Load() && take {
		if extra := l.target(a.Limit-a.Seed-a.Need, s.remote.Nodes()) - l.held; extra > 0 {
			a.Extra = extra
		}
	}
}

// fillQuota sets the ask's period, and what this process knows of the count.
func (s *Shared) fillQuota(now time.Time, subject *Subject, a *Ask) {
	count := subject.count(a.Calendar)
	a.Keep = totalKeep.Milliseconds()
	if a.Calendar != Total {
		start, end := a.Calendar.Start(now), a.Calendar.End(now)
		if count.covers(now) {
			start, end = time.Unix(count.start, 0), time.Unix(count.end, 0)
		}
		a.Start = start.Unix()
		a.Keep = (end.Sub(now) + countKeep).Milliseconds()
	}
	a.Seed = count.usedAt(now)
	if l := count.lease; l != nil && l.carry != 0 {
		a.Carry, a.Merge = l.carry, true
		a.Seed -= l.carry
	}
}

func (s *Shared) listSlots(subject *Subject, a *Ask, c *operation, i, n int, take bool) {
	a.Limit, a.Need, a.Keep = MaxLimit, 1, slotKeep.Milliseconds()
	number := int8(len(c.asks))
	for j := range c.lines[:n] {
		w := &c.lines[j]
		if w.party == c.lines[i].party && w.line.Policy.Kind == Concurrency {
			a.Limit = min(a.Limit, w.line.Policy.Limit)
			w.ask, w.rate = number, 0
		}
	}
	if !take {
		return
	}
	if sl := subject.slots(); s.leased.Load() && sl != nil && len(sl.names) > 1 {
		a.Extra = s.spare(a.Limit)
	}
	for range a.Need + a.Extra {
		a.Slots = append(a.Slots, s.name+strconv.FormatUint(s.slotN.Add(1), 36))
	}
}

// spare returns how many unused slots of a concurrency limit are kept for the next requests.
func (s *Shared) spare(limit int64) int64 {
	if !s.leased.Load() {
		return 0
	}
	return min(4, limit/(8*s.remote.Nodes()))
}

// ownerOf returns the id of the tenant under which the counts of the party are stored. It returns "" for an address, because
// several tenants share the counts of an address.
func (b *Bill) ownerOf(party int) string {
	owner := b.Tenant.subject()
	if owner == nil {
		return ""
	}
	return ownerOf(owner, b.parties()[party].subject())
}

func ownerOf(owner, subject *Subject) string {
	const shared = "a:p:"
	if len(subject.id) > len(shared) && subject.id[:len(shared)] == shared {
		return ""
	}
	return owner.id
}
