package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrTooManyLines means that a bill has more than MaxLines lines.
var ErrTooManyLines = errors.New("too many limits apply to one request")

// Local is the Limiter of a single process, which keeps every count in its subject. It allocates nothing, ignores its
// contexts, and blocks only on the locks of the subjects.
type Local struct{}

var _ Limiter = (*Local)(nil)

// NewLocal returns a Local. It has no state of its own.
func NewLocal() *Local { return &Local{} }

// Charge implements Limiter.
func (*Local) Charge(_ context.Context, now time.Time, b *Bill, o *Outcome) error {
	return decide(now, b, o, true)
}

// Peek implements Limiter.
func (*Local) Peek(_ context.Context, now time.Time, b *Bill, o *Outcome) error {
	return decide(now, b, o, false)
}

// Release implements Limiter.
func (*Local) Release(b *Bill) {
	if b.slots != nil {
		b.slots.by.releaseSlots(b)
	}
	if !b.held {
		return
	}
	b.held = false
	for _, p := range b.parties() {
		if s := p.subject(); s != nil {
			s.live.Add(-1)
		}
	}
}

// Adjust implements Limiter. If the charged period has ended, a positive delta counts in the current period, because the
// cost would be free otherwise. A delta above MaxLimit counts as MaxLimit.
func (*Local) Adjust(_ context.Context, chargedAt time.Time, b *Bill, delta int64) (shortfall int64) {
	delta = min(max(delta, -max(b.Cost, 0)), MaxLimit)
	if delta == 0 {
		return 0
	}
	parties := b.parties()
	lock(&parties, 1)
	// Credits come first: a key's credits_limit counts spent credits without the shortfall.
	shortfall = b.adjustCredits(delta)
	for _, p := range parties {
		var done [Total + 1]bool
		for i := range p.Lines {
			policy := p.Lines[i].Policy
			if policy.Kind != Quota || done[policy.Calendar] {
				continue
			}
			done[policy.Calendar] = true
			c := p.subject().count(policy.Calendar)
			switch {
			case !c.begun():
			case delta < 0:
				if c.covers(chargedAt) {
					c.used = max(0, c.used+delta)
				}
			case policy.Calendar == Total:
				c.used += delta - shortfall
			default:
				c.used += delta
			}
		}
	}
	unlock(&parties, 1)
	return shortfall
}

// Reset implements Limiter.
func (*Local) Reset(_ context.Context, now time.Time, _ *Subject, p Party, names ...string) error {
	p.Subject.Reset(now, names...)
	return nil
}

// parties returns the bill's parties in the order of locking.
func (b *Bill) parties() [3]*Party { return [3]*Party{&b.Address, &b.Tenant, &b.Key} }

// subject returns the party's subject, nil for the zero Party.
func (p *Party) subject() *Subject {
	if p.Subject == nil && len(p.Lines) > 0 {
		return p.Lines[0].Subject
	}
	return p.Subject
}

// adjustCredits changes by delta the credits that the bill b was charged, and returns the shortfall. The caller holds the
// locks of the tenant and the key.
func (b *Bill) adjustCredits(delta int64) (shortfall int64) {
	for i := range b.Tenant.Lines {
		if b.Tenant.Lines[i].Policy.Kind == Credits {
			holder := b.Tenant.subject()
			made := holder.Account().adjust(b.lease, delta)
			b.payer(holder).PutBack(made)
			return made.Shortfall
		}
	}
	return 0
}

// payer returns the subject that records credits spent from holder's account: the key, if there is
// one.
func (b *Bill) payer(holder *Subject) *Subject {
	if s := b.Key.subject(); s != nil {
		return s
	}
	return holder
}

// locked reports whether the i-th party must be locked: it has lines, or it is the key, which
// records the credits spent. A party without lines stays unlocked, so that keys of one tenant do
// not wait for each other. lines is the number of lines in the bill.
func locked(parties *[3]*Party, i, lines int) bool {
	return lines > 0 && (len(parties[i].Lines) > 0 || i == 2 && parties[i].Subject != nil)
}

func lock(parties *[3]*Party, lines int) {
	for i, p := range parties {
		if locked(parties, i, lines) {
			p.subject().mu.Lock()
		}
	}
}

func unlock(parties *[3]*Party, lines int) {
	for i, p := range parties {
		if locked(parties, i, lines) {
			p.subject().mu.Unlock()
		}
	}
}

// decide tests every line of the bill. If take is true and no line denies the request, it takes the cost from all lines.
// The subjects stay locked from the test until the cost is taken.
func decide(now time.Time, b *Bill, o *Outcome, take bool) error {
	o.Denied, o.Kind, o.N = false, 0, 0
	lines := len(b.Address.Lines) + len(b.Tenant.Lines) + len(b.Key.Lines)
	if lines > MaxLines {
		return fmt.Errorf("%w: %d, of at most %d", ErrTooManyLines, lines, MaxLines)
	}
	parties := b.parties()
	lock(&parties, lines)
	err := decideLocked(now, b, &parties, o, take)
	unlock(&parties, lines)
	return err
}

func decideLocked(now time.Time, b *Bill, parties *[3]*Party, o *Outcome, take bool) error {
	cost := max(b.Cost, 0)
	var tokens [MaxLines]float64 // tokens holds the tokens in each rate's bucket, indexed like o.Standings.
	n, lease := 0, false
	for _, p := range parties {
		s := p.subject()
		if s == nil {
			continue
		}
		if s.dropped.Load() {
			return ErrDropped
		}
		at := s.clamp(now)
		for i := range p.Lines {
			l := &p.Lines[i]
			if l.Policy.Kind == Concurrency && b.NoConcurrency {
				continue
			}
			st := &o.Standings[n]
			*st = Standing{}
			switch l.Policy.Kind {
			case Rate:
				if l.meter.next != nil {
					s.last = at
					l.meter.applyNext(at)
				}
				tokens[n] = l.meter.bucket.TokensAt(at)
				if !l.meter.passes(tokens[n]) {
					st.Denied = true
					st.Retry = l.meter.retry(at, tokens[n]) + at.Sub(now)
				}
			case Quota:
				c := s.count(l.Policy.Calendar)
				if c.mayBeStored(now) {
					return ErrPeriod
				}
				if cost > 0 && c.usedAt(now) > l.Policy.Limit-cost {
					st.Denied = true
					if l.Policy.Calendar != Total {
						st.Retry = s.ends(l.Policy.Calendar, now).Sub(now)
					}
				}
			case Concurrency:
				if s.live.Load() >= l.Policy.Limit {
					st.Denied = true
					// The end of a running request is unknown.
					st.Retry = time.Second
				}
			case Credits:
				if s.Account().leased < cost {
					st.Denied = s.Account().exhausted()
					lease = lease || !st.Denied
				}
			}
			o.noteDenial(st, l.Policy)
			n++
		}
	}
	if lease && !o.Denied {
		return ErrLease
	}
	if take && !o.Denied {
		takeAll(now, b, parties, cost, &tokens)
	}
	o.N = n
	n = 0
	for _, p := range parties {
		s := p.subject()
		if s == nil {
			continue
		}
		at := s.clamp(now)
		for i := range p.Lines {
			l := &p.Lines[i]
			if l.Policy.Kind == Concurrency && b.NoConcurrency {
				continue
			}
			st := &o.Standings[n]
			switch l.Policy.Kind {
			case Rate:
				l.meter.fillStanding(st, tokens[n], at.Sub(now))
			case Quota:
				fillQuotaStanding(st, l.Policy, s.count(l.Policy.Calendar).usedAt(now), s.ends(l.Policy.Calendar, now), now)
			case Concurrency:
				st.Policy = l.Policy
				st.Limit = l.Policy.Limit
				st.Remaining = max(0, l.Policy.Limit-s.live.Load())
			case Credits:
				s.Account().fillStanding(st, l.Policy)
			}
			n++
		}
	}
	return nil
}

// takeAll takes from every line, but only once from a count that several lines share. It subtracts
// the taken tokens from tokens.
func takeAll(now time.Time, b *Bill, parties *[3]*Party, cost int64, tokens *[MaxLines]float64) {
	n := 0
	for _, p := range parties {
		s := p.subject()
		if s == nil {
			continue
		}
		if len(p.Lines) > 0 {
			s.last = s.clamp(now)
		}
		var done [Total + 1]bool // done is indexed by Calendar, with credits at 0.
		for i := range p.Lines {
			l := &p.Lines[i]
			switch l.Policy.Kind {
			case Rate:
				l.meter.bucket.AllowN(s.last, 1)
				tokens[n]--
			case Quota:
				if !done[l.Policy.Calendar] {
					done[l.Policy.Calendar] = true
					s.counter(l.Policy.Calendar, now).used += cost
				}
			case Concurrency:
				if b.NoConcurrency {
					continue
				}
			case Credits:
				if !done[0] {
					done[0] = true
					s.Account().take(cost)
					b.lease = s.Account().lease
					b.payer(s).ensureCold().spent.Add(cost)
				}
			}
			n++
		}
		if !b.NoConcurrency {
			// Live requests count even without a concurrency limit: the configuration may add one
			// before the request ends.
			s.live.Add(1)
		}
	}
	b.held = !b.NoConcurrency
}

// ends returns the end of the quota period that contains now. For Total, it returns the zero time.
func (s *Subject) ends(cal Calendar, now time.Time) time.Time {
	if cal == Total {
		return time.Time{}
	}
	if c := s.count(cal); c.covers(now) {
		return time.Unix(c.end, 0)
	}
	return cal.End(now)
}
