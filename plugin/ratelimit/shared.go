package ratelimit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Shared is the Limiter of several processes whose common counts are in a Remote. Only credits
// stay in the subjects' accounts. Made by NewShared.
//
// In exact mode it asks the Remote about each request, except those that it knows will be denied.
// In leased mode it fetches tokens, units and slots ahead of need, in batches as small as the
// demand allows, so that most requests need not ask. While the Remote answers, neither mode
// exceeds a limit: the Remote counts prefetched amounts as spent, and tokens are held only as long
// as the bucket is treated as being in debt (see RateAsk.Hold).
//
// While the Remote is unreachable, each bill's Outage decides.
type Shared struct {
	remote Remote
	leased atomic.Bool
	// name is the prefix of the names of this process's slots.
	name  string
	slotN atomic.Uint64

	mu sync.Mutex
	// holders maps each subject that may hold tokens, units or slots to its owner's id.
	holders map[*Subject]string

	asked, waited, fromMemory, outages atomic.Int64
}

var _ Limiter = (*Shared)(nil)

// NewShared returns a limiter that counts in remote. node is a name that no other process has or
// had. Slots are renewed only while Run runs.
func NewShared(remote Remote, node string, leased bool) *Shared {
	s := &Shared{remote: remote, name: node + ".", holders: map[*Subject]string{}}
	s.leased.Store(leased)
	return s
}

// SetLeased turns prefetching on or off. After it is turned off, Run returns the held amounts.
func (s *Shared) SetLeased(leased bool) { s.leased.Store(leased) }

// Leased reports whether prefetching is on.
func (s *Shared) Leased() bool { return s.leased.Load() }

// SharedStats counts how requests were decided.
type SharedStats struct {
	// Asked is the number of asks to the shared counts, Waited the number of requests that waited
	// for one.
	Asked, Waited int64
	// Memory is the number of requests decided without asking.
	Memory int64
	// Outage is the number of requests decided while the remote was unreachable.
	Outage int64
}

// Stats returns the counts since NewShared. It does not block.
func (s *Shared) Stats() SharedStats {
	return SharedStats{s.asked.Load(), s.waited.Load(), s.fromMemory.Load(), s.outages.Load()}
}

// operation is the state of the decision about one bill.
type operation struct {
	asks        []Ask
	lines       [MaxLines]lineOperation
	unreachable bool
	// refill reports whether a prefetch is due.
	refill bool
	// open reports whether the bill is allowed without limits. peeked reports whether nothing was taken, only read.
	open, peeked bool
	// credits reports that the bill's credits were taken.
	credits bool
	slots   [3]string
}

// lineOperation is the state of the decision about one line of a bill.
type lineOperation struct {
	line  *Line
	party int8
	// ask is the index of the line's ask in asks; rate is the index of the line's RateAsk in that ask. An index of -1 means none.
	ask, rate int8
	// local reports whether the amounts that this process holds are enough for the line.
	local bool
	// sharesCount reports whether another line of the bill takes from the same count.
	sharesCount bool
}

var operations = sync.Pool{New: func() any { return new(operation) }}

func (c *operation) reset() {
	for i := range c.asks {
		a := &c.asks[i]
		*a = Ask{Rates: a.Rates[:0], Slots: a.Slots[:0]}
	}
	c.asks = c.asks[:0]
	c.refill, c.open, c.peeked, c.credits, c.slots = false, false, false, false, [3]string{}
}

// ask appends an empty ask and returns it.
func (c *operation) ask() *Ask {
	if n := len(c.asks); n < cap(c.asks) {
		c.asks = c.asks[:n+1]
		a := &c.asks[n]
		*a = Ask{Rates: a.Rates[:0], Slots: a.Slots[:0]}
		return a
	}
	c.asks = append(c.asks, Ask{})
	return &c.asks[len(c.asks)-1]
}

// Charge implements Limiter.
func (s *Shared) Charge(ctx context.Context, now time.Time, b *Bill, o *Outcome) error {
	return s.decide(ctx, now, b, o, true)
}

// Peek implements Limiter. Amounts held by this process count as remaining. While the remote is
// unreachable, it returns what this process knows, or ErrUnavailable for an OutageClosed bill.
func (s *Shared) Peek(ctx context.Context, now time.Time, b *Bill, o *Outcome) error {
	return s.decide(ctx, now, b, o, false)
}

func (s *Shared) decide(ctx context.Context, now time.Time, b *Bill, o *Outcome, take bool) error {
	o.Denied, o.Kind, o.N = false, 0, 0
	lines := len(b.Address.Lines) + len(b.Tenant.Lines) + len(b.Key.Lines)
	if lines > MaxLines {
		return fmt.Errorf("%w: %d, of at most %d", ErrTooManyLines, lines, MaxLines)
	}
	parties := b.parties()
	c := operations.Get().(*operation)
	defer func() {
		c.reset()
		operations.Put(c)
	}()
	c.unreachable = s.remote.Unreachable()

	lock(&parties, lines)
	err := s.prepare(now, b, &parties, o, c, take)
	ask := err == nil && !o.Denied && len(c.asks) > 0
	if ask && c.unreachable {
		ask = false
		err = s.outage(now, b, &parties, o, c, take)
	}
	if !ask {
		var ahead *operation
		if err == nil {
			if take && !o.Denied {
				s.assignSlots(b, c)
			}
			s.fillStandings(now, &parties, o, c)
			if c.refill && !c.unreachable {
				ahead = s.listPrefetch(now, b, &parties, o.N, c)
			}
		}
		unlock(&parties, lines)
		if ahead != nil {
			go s.prefetch(now, ahead)
		}
		if !c.unreachable && o.N > 0 {
			s.fromMemory.Add(1)
		}
		return err
	}
	unlock(&parties, lines)

	s.asked.Add(1)
	s.waited.Add(1)
	taken, err := s.remote.Ask(ctx, c.asks, !take)

	lock(&parties, lines)
	if err != nil {
		s.abandonSlots(c)
		err = s.outage(now, b, &parties, o, c, take)
	} else {
		s.applyAnswers(now, b, &parties, o, c, take, taken)
	}
	if err == nil {
		if take && !o.Denied {
			s.assignSlots(b, c)
		}
		s.fillStandings(now, &parties, o, c)
	}
	unlock(&parties, lines)
	return err
}

// prepare takes from the amounts that this process holds, and adds asks for the missing amounts to c. If a line certainly
// denies the request, prepare takes nothing and sets o.Denied. The caller holds the locks of the subjects.
func (s *Shared) prepare(now time.Time, b *Bill, parties *[3]*Party, o *Outcome, c *operation, take bool) error {
	cost := max(b.Cost, 0)
	n, lacking := 0, false
	for pi, p := range parties {
		subject := p.subject()
		if subject == nil {
			continue
		}
		if subject.dropped.Load() {
			s.undo(now, b, parties, c, n)
			return ErrDropped
		}
		at := subject.clamp(now)
		if take && len(p.Lines) > 0 {
			subject.last = at
		}
		var done [Total + 1]bool // done is indexed by Calendar, with concurrency at 0.
		for i := range p.Lines {
			l := &p.Lines[i]
			if l.Policy.Kind == Concurrency && b.NoConcurrency {
				continue
			}
			st, w := &o.Standings[n], &c.lines[n]
			*st, *w = Standing{}, lineOperation{line: l, party: int8(pi), ask: -1, rate: -1}
			n++
			switch l.Policy.Kind {
			case Rate:
				s.prepareRate(at, l, st, w, c, take)
			case Quota:
				w.sharesCount = done[l.Policy.Calendar]
				done[l.Policy.Calendar] = true
				if c.unreachable && subject.count(l.Policy.Calendar).mayBeStored(now) {
					s.undo(now, b, parties, c, n)
					return ErrPeriod
				}
				s.prepareQuota(now, subject, l, st, w, c, cost, take)
			case Concurrency:
				w.sharesCount = done[0]
				done[0] = true
				s.prepareSlot(at, subject, st, w, c, take)
			case Credits:
				if subject.Account().leased < cost {
					st.Denied = subject.Account().exhausted()
					lacking = lacking || !st.Denied
				}
			}
			o.noteDenial(st, l.Policy)
		}
	}
	o.N = n
	if o.Denied || lacking {
		s.undo(now, b, parties, c, n)
		c.asks = c.asks[:0]
		if o.Denied {
			return nil
		}
		o.N = 0
		return ErrLease
	}
	if take {
		s.reserve(b, parties, c, cost)
	}
	s.listAsks(now, b, parties, c, n, cost, take)
	return nil
}

// noteDenial sets o.Denied and o.Kind if the standing denies the request.
func (o *Outcome) noteDenial(st *Standing, p *Policy) {
	if st.Denied {
		o.Denied = true
		if r := p.Reason(); o.Kind == 0 || r < o.Kind {
			o.Kind = r
		}
	}
}

// recent reports whether t is less than d before now.
func recent(t, now time.Time, d time.Duration) bool { return !t.IsZero() && now.Sub(t) < d }

const askPending = 0 // askPending marks a line that needs an ask, which listAsks adds.

func (s *Shared) prepareRate(at time.Time, l *Line, st *Standing, w *lineOperation, c *operation, take bool) {
	p := l.meter.sharedPool(at)
	if !take {
		w.ask = askPending
		return
	}
	if s.leased.Load() {
		p.observe(at)
		if p.take(at) {
			w.local = true
			c.refill = c.refill || p.shouldPrefetch(at, s.remote.Nodes())
			return
		}
	}
	owed := p.owed(at)
	switch {
	case c.unreachable:
	case recent(p.refreshedAt, at, recheck) && owed+p.scale.each > p.scale.depth:
		st.Denied = true
		st.Retry = p.retry(owed, p.scale.each)
		return
	case s.leased.Load() && p.short && recent(p.refreshedAt, at, p.hold(owed)) && p.target(owed, s.remote.Nodes()) > 0:
		// The bucket gains tokens only slowly. Prefetches in the background fetch them, and no request waits for them.
		st.Denied = true
		st.Retry = p.scale.duration(p.scale.each)
		c.refill = c.refill || p.shouldPrefetch(at, s.remote.Nodes())
		return
	}
	w.ask = askPending
}

func (s *Shared) prepareQuota(now time.Time, subject *Subject, l *Line, st *Standing, w *lineOperation, c *operation, cost int64, take bool) {
	if !take {
		w.ask = askPending
		return
	}
	count := subject.counter(l.Policy.Calendar, now)
	ls := count.ensureLease()
	if w.sharesCount {
		// Two quotas of one calendar share a count. The first line of the calendar takes or asks for both, under the smaller limit.
		return
	}
	if s.leased.Load() {
		ls.observe(now, cost)
		if ls.held >= cost && ls.held > 0 {
			ls.held -= cost
			ls.used = true
			w.local = true
			c.refill = c.refill || !ls.asking && ls.held*2 <= ls.target(l.Policy.Limit-count.used, s.remote.Nodes())
			return
		}
		if cost == 0 && recent(ls.refreshedAt, now, recheck) {
			w.local = true
			return
		}
	}
	if !c.unreachable && cost > 0 && recent(ls.refreshedAt, now, recheck) && count.used > l.Policy.Limit-cost {
		st.Denied = true
		if l.Policy.Calendar != Total {
			st.Retry = subject.ends(l.Policy.Calendar, now).Sub(now)
		}
		return
	}
	w.ask = askPending
}

func (s *Shared) prepareSlot(at time.Time, subject *Subject, st *Standing, w *lineOperation, c *operation, take bool) {
	if !take {
		w.ask = askPending
		return
	}
	if w.sharesCount {
		return
	}
	if sl := subject.slots(); sl != nil {
		if name, ok := sl.take(); ok {
			c.slots[w.party] = name
			w.local = true
			return
		}
		if !c.unreachable && at.Before(sl.full) {
			st.Denied = true
			st.Retry = time.Second
			return
		}
	}
	w.ask = askPending
}

// reserve takes the amounts that only this process counts: credits and live requests.
func (s *Shared) reserve(b *Bill, parties *[3]*Party, c *operation, cost int64) {
	for _, p := range parties {
		subject := p.subject()
		if subject == nil {
			continue
		}
		for i := range p.Lines {
			if p.Lines[i].Policy.Kind == Credits {
				subject.Account().take(cost)
				b.lease = subject.Account().lease
				b.payer(subject).ensureCold().spent.Add(cost)
				c.credits = true
				break
			}
		}
		if !b.NoConcurrency {
			subject.live.Add(1)
		}
	}
	b.held = !b.NoConcurrency
}

// undo gives back what the first n lines took in this process, and the amounts that reserve took.
func (s *Shared) undo(now time.Time, b *Bill, parties *[3]*Party, c *operation, n int) {
	for i := range c.lines[:n] {
		w := &c.lines[i]
		if !w.local {
			continue
		}
		w.local = false
		subject := parties[w.party].subject()
		switch p := w.line.Policy; p.Kind {
		case Rate:
			if pl := w.line.meter.pool; pl != nil {
				// The lot that the token came from is unknown. So putBack adds the token to the lot that ends first.
				pl.putBack(now)
			}
		case Quota:
			if l := subject.count(p.Calendar).lease; l != nil {
				l.held += max(b.Cost, 0)
			}
		case Concurrency:
			if sl := subject.slots(); sl != nil && c.slots[w.party] != "" {
				sl.free = append(sl.free, c.slots[w.party])
				c.slots[w.party] = ""
			}
		}
	}
	if c.credits {
		c.credits = false
		holder := parties[1].subject()
		b.payer(holder).PutBack(holder.Account().adjust(b.lease, -max(b.Cost, 0)))
	}
	if b.held {
		b.held = false
		for _, p := range parties {
			if subject := p.subject(); subject != nil {
				subject.live.Add(-1)
			}
		}
	}
}
