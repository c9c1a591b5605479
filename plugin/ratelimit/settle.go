package ratelimit

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Release implements Limiter. The remote frees slots a moment later.
func (s *Shared) Release(b *Bill) { (*Local)(nil).Release(b) }

// releaseSlots keeps the bill's slots for the next request, or frees them at the remote.
func (s *Shared) releaseSlots(b *Bill) {
	held := b.slots
	b.slots = nil
	for i, p := range b.parties() {
		name := held.names[i]
		if name == "" {
			continue
		}
		subject := p.subject()
		subject.mu.Lock()
		sl := subject.slots()
		sl.full = time.Time{}
		if limit := p.slotLimit(); int64(len(sl.free)) < s.spare(limit) {
			sl.free = append(sl.free, name)
		} else {
			sl.inUse--
			s.endSlots(subject, name)
		}
		subject.mu.Unlock()
	}
}

// slotLimit returns the smallest concurrency limit of the party.
func (p *Party) slotLimit() int64 {
	limit := int64(MaxLimit)
	for i := range p.Lines {
		if policy := p.Lines[i].Policy; policy.Kind == Concurrency {
			limit = min(limit, policy.Limit)
		}
	}
	return limit
}

// endSlots frees slots at the remote. The caller holds the lock of the subject, so that no later Renew names these slots.
func (s *Shared) endSlots(subject *Subject, names ...string) {
	sl := subject.slots()
	for _, n := range names {
		delete(sl.names, n)
	}
	s.remote.Release(Ask{Kind: Concurrency, Subject: subject.id, Owner: sl.owner, Slots: slices.Clone(names)})
}

// Adjust implements Limiter. While the remote is unreachable, it keeps the change for a later ask.
func (s *Shared) Adjust(ctx context.Context, chargedAt time.Time, b *Bill, delta int64) (shortfall int64) {
	delta = min(max(delta, -max(b.Cost, 0)), MaxLimit)
	if delta == 0 {
		return 0
	}
	parties := b.parties()
	lock(&parties, 1)
	shortfall = b.adjustCredits(delta)
	type change struct {
		subject *Subject
		ask     Ask
		delta   int64
	}
	var changes []change
	for i, p := range parties {
		var done [Total + 1]bool
		for j := range p.Lines {
			policy := p.Lines[j].Policy
			if policy.Kind != Quota || done[policy.Calendar] {
				continue
			}
			done[policy.Calendar] = true
			subject := p.subject()
			c := subject.count(policy.Calendar)
			by := delta
			if policy.Calendar == Total && delta > 0 {
				by -= shortfall
			}
			if !c.begun() || by == 0 || by < 0 && !c.covers(chargedAt) {
				continue
			}
			a := Ask{Kind: Quota, Subject: subject.countID(Quota, 0, policy.Calendar), Owner: b.ownerOf(i), Calendar: policy.Calendar}
			s.fillQuota(chargedAt, subject, &a)
			changes = append(changes, change{subject, a, by})
		}
	}
	unlock(&parties, 1)
	for i := range changes {
		ch := &changes[i]
		s.changeQuota(ctx, ch.subject, &ch.ask, ch.delta)
	}
	return shortfall
}

// changeQuota adds delta to a shared quota count.
func (s *Shared) changeQuota(ctx context.Context, subject *Subject, a *Ask, delta int64) {
	used, unreachable := int64(0), s.remote.Unreachable()
	if !unreachable {
		// The next ask sends the carry, the units spent without Redis. This call must not send the carry, because the call may be
		// denied and the carry would be lost.
		a.Carry, a.Merge = 0, false
		var err error
		used, err = s.remote.Adjust(ctx, a, delta)
		unreachable = err != nil
	}
	subject.mu.Lock()
	defer subject.mu.Unlock()
	c := subject.count(a.Calendar)
	if a.Calendar != Total && c.start != a.Start {
		return
	}
	c.ensureLease().refreshedAt = time.Time{} // The zero time makes the next request ask Redis, because the request may pass now.
	if unreachable {
		c.lease.carry += delta
		c.used = max(0, c.used+delta)
		return
	}
	c.used = used + c.lease.carry
}

// Reset implements Limiter. Other processes that remember a denial ask the remote within a second.
func (s *Shared) Reset(ctx context.Context, now time.Time, owner *Subject, p Party, names ...string) error {
	named := func(policy *Policy) bool { return len(names) == 0 || slices.Contains(names, policy.Name) }
	subject := p.Subject
	var asks []Ask
	subject.mu.Lock()
	at := subject.clamp(now)
	for origin := range subject.sets {
		a := Ask{Kind: Rate, Subject: subject.countID(Rate, Origin(origin), 0), Owner: ownerOf(owner, subject), Origin: Origin(origin)}
		wanted := false
		for _, m := range subject.sets[origin].meters() {
			r := RateAsk{scale: m.sharedPool(at).scale}
			if named(m.policy) {
				r.Need, wanted = 1, true
			}
			a.Rates = append(a.Rates, r)
		}
		if wanted {
			asks = append(asks, a)
		}
		var done [Total + 1]bool
		for _, l := range subject.sets[origin].lines {
			if l.Policy.Kind != Quota || done[l.Policy.Calendar] || !named(l.Policy) {
				continue
			}
			done[l.Policy.Calendar] = true
			a := Ask{Kind: Quota, Subject: subject.countID(Quota, 0, l.Policy.Calendar), Owner: ownerOf(owner, subject), Calendar: l.Policy.Calendar}
			s.fillQuota(at, subject, &a)
			asks = append(asks, a)
		}
	}
	subject.mu.Unlock()
	if len(asks) > 0 {
		if err := s.remote.Reset(ctx, asks); err != nil {
			return err
		}
	}
	subject.Reset(now, names...)
	return nil
}

// addHolder adds a subject to those that sweep looks at: it may hold tokens, units or slots.
func (s *Shared) addHolder(subject *Subject, owner string) {
	s.mu.Lock()
	s.holders[subject] = owner
	s.mu.Unlock()
}

// Run returns unused tokens, units and slots to the remote, and renews the slots of running requests. When ctx ends, Run
// returns all held amounts to the remote and ends. Call it once.
func (s *Shared) Run(ctx context.Context) {
	t := time.NewTicker(idleSweep)
	defer t.Stop()
	for renewed := time.Now(); ; {
		select {
		case now := <-t.C:
			renew := now.Sub(renewed) >= slotRenew
			if renew {
				renewed = now
			}
			s.sweep(ctx, now, renew, false)
		case <-ctx.Done():
			s.sweep(context.WithoutCancel(ctx), time.Now(), false, true)
			return
		}
	}
}

func (s *Shared) sweep(ctx context.Context, now time.Time, renew, all bool) {
	s.mu.Lock()
	subjects := maps.Clone(s.holders)
	s.mu.Unlock()
	for subject, owner := range subjects {
		s.returnTokens(ctx, subject, owner, now, all)
		returns, idle := s.sweepSubject(subject, owner, now, renew, all)
		for i := range returns {
			a := &returns[i]
			s.changeQuota(ctx, subject, a, -a.Extra)
		}
		if idle {
			// The subject stays in the list if it has acquired tokens, units or slots since sweepSubject.
			subject.mu.Lock()
			if !subject.holding() {
				s.mu.Lock()
				delete(s.holders, subject)
				s.mu.Unlock()
			}
			subject.mu.Unlock()
		}
	}
}

// returnTokens returns held tokens whose time has ended to the remote. If all is true, it returns every held token.
func (s *Shared) returnTokens(ctx context.Context, subject *Subject, owner string, now time.Time, all bool) {
	subject.mu.Lock()
	at := subject.clamp(now)
	var asks []Ask
	for origin := range subject.sets {
		a := Ask{Kind: Rate, Subject: subject.countID(Rate, Origin(origin), 0), Owner: owner, Origin: Origin(origin)}
		wanted := false
		for _, m := range subject.sets[origin].meters() {
			p := m.sharedPool(at)
			p.expire(at)
			if all {
				p.expire(at.Add(holdCap))
			}
			wanted = wanted || p.unused.n > 0
			a.Rates = append(a.Rates, RateAsk{scale: p.scale, Return: p.unused.n, From: p.unused.from, Hint: p.owed(at)})
			p.unused = lot{}
		}
		if wanted {
			asks = append(asks, a)
		}
	}
	subject.mu.Unlock()
	if len(asks) > 0 && !s.remote.Unreachable() {
		// After a failure the tokens are lost; the bucket regains them with time.
		_, _ = s.remote.Ask(ctx, asks, false)
	}
}

// keepUnused restores the unused tokens of an ask that was denied, since the remote did not take
// them back.
func (p *pool) keepUnused(r *RateAsk, taken bool) {
	if !taken && r.Return > 0 && r.scale == p.scale {
		if p.unused.n == 0 || r.From < p.unused.from {
			p.unused.from = r.From
		}
		p.unused.n += r.Return
	}
}

// holdsTokens reports whether the pool has held tokens, or unused ones to return.
func (p *pool) holdsTokens() bool { return p.lots[0].n > 0 || p.lots[1].n > 0 || p.unused.n > 0 }

// sweepSubject frees idle slots and renews the others. It returns asks that return unused quota units in their field Extra.
// It also reports whether the subject holds nothing more.
func (s *Shared) sweepSubject(subject *Subject, owner string, now time.Time, renew, all bool) (returns []Ask, idle bool) {
	subject.mu.Lock()
	defer subject.mu.Unlock()
	for c := subject.counters; c != nil; c = c.next {
		l := c.lease
		if l == nil || l.held == 0 {
			continue
		}
		if l.used && !all {
			l.used = false
			continue
		}
		a := Ask{Kind: Quota, Subject: subject.countID(Quota, 0, c.calendar), Owner: owner, Calendar: c.calendar, Extra: l.held}
		s.fillQuota(subject.clamp(now), subject, &a)
		l.held = 0
		returns = append(returns, a)
	}
	if sl := subject.slots(); sl != nil {
		n := min(sl.idle, len(sl.free))
		if all {
			n = len(sl.free)
		}
		if n > 0 {
			sl.inUse -= int64(n)
			s.endSlots(subject, sl.free[:n]...)
			sl.free = slices.Delete(sl.free, 0, n)
		}
		sl.idle = len(sl.free)
		if all && len(sl.names) > 0 {
			// Requests that are still running continue without a slot.
			s.endSlots(subject, slices.Collect(maps.Keys(sl.names))...)
		}
		if renew && len(sl.names) > 0 {
			a := Ask{Kind: Concurrency, Subject: subject.id, Owner: sl.owner, Keep: slotKeep.Milliseconds()}
			a.Slots = slices.AppendSeq(a.Slots, maps.Keys(sl.names))
			s.remote.Renew(a)
		}
	}
	return returns, !subject.holding()
}

// holding reports whether s holds a part of a shared count. The subject is locked.
func (s *Subject) holding() bool {
	for i := range s.sets {
		for j := range s.sets[i].lines {
			if m := s.sets[i].lines[j].meter; m != nil && m.pool != nil && m.pool.holdsTokens() {
				return true
			}
		}
	}
	if sl := s.slots(); sl != nil && len(sl.names) > 0 {
		return true
	}
	for c := s.counters; c != nil; c = c.next {
		if l := c.lease; l != nil && l.held > 0 {
			return true
		}
	}
	return false
}
