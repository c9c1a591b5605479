package ratelimit

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Shared is the Limiter of several processes that count together, elsewhere: in Remote. Credits alone stay in
// the subjects' accounts. Made by NewShared.
//
// Exact, it asks for each request, except those that it knows will be denied. Leased, it takes tokens,
// units and slots ahead of need, in batches as small as the demand allows, so that most requests
// need not ask. Either way no limit is exceeded while Remote answers: what is held ahead is counted as spent, and
// tokens of a bucket are held only for as long as the bucket is taken to be in debt (see Ask).
//
// While it does not answer, each bill says what holds.
type Shared struct {
	remote Remote
	leased atomic.Bool
	// name begins the names of this process's slots.
	name  string
	slotN atomic.Uint64

	mu sync.Mutex
	// holders are the subjects that may hold units or slots.
	holders map[*Subject]string

	asked, waited, fromMemory, outages atomic.Int64
}

var _ Limiter = (*Shared)(nil)

// NewShared returns a limiter that counts in remote. node is a name that no other process has, nor any
// former one. Run must be running for slots to be renewed.
func NewShared(remote Remote, node string, leased bool) *Shared {
	s := &Shared{remote: remote, name: node + ".", holders: map[*Subject]string{}}
	s.leased.Store(leased)
	return s
}

// SetLeased turns prefetching on or off: tokens, units and slots are taken in batches ahead of need,
// or for each request. Held ones are returned once it is off.
func (s *Shared) SetLeased(leased bool) { s.leased.Store(leased) }

// Leased reports whether prefetching is on.
func (s *Shared) Leased() bool { return s.leased.Load() }

// SharedStats counts how requests were decided.
type SharedStats struct {
	// Asked is how often the shared counts were asked, Waited how many requests waited for that.
	Asked, Waited int64
	// Memory is how many requests were decided without asking.
	Memory int64
	// Outage is how many were decided while nothing answered.
	Outage int64
}

// Stats does not block.
func (s *Shared) Stats() SharedStats {
	return SharedStats{s.asked.Load(), s.waited.Load(), s.fromMemory.Load(), s.outages.Load()}
}

// operation is the work on one bill.
type operation struct {
	asks        []Ask
	lines       [MaxLines]lineOperation
	unreachable bool
	// refill reports that a prefetch is due.
	refill bool
	// open reports that no limit applies, peeked that nothing was taken.
	open, peeked bool
	// credits reports that credits were taken.
	credits bool
	slots   [3]string
}

// lineOperation is the work on one line.
type lineOperation struct {
	line  *Line
	party int8
	// ask is the index of the line's ask, and rate its index therein; -1 for none.
	ask, rate int8
	// local reports that the need was met from what this process holds.
	local bool
	// sharesCount reports that another line of the bill takes from the same count.
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

// ask returns a new ask of the call.
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

// Peek implements Limiter. What this process holds ahead of need counts as left. While nothing answers it says what
// is known here, or ErrUnavailable for a bill that is OutageClosed.
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

// prepare takes from what is held here, and lists in c the asks for the rest. Where a line is known
// to deny, it takes nothing and sets o.Denied. The subjects are locked.
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
		var done [Total + 1]bool // by Calendar; 0 for concurrency
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
				s.prepareQuota(at, subject, l, st, w, c, cost, take)
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

// noteDenial sets Denied and Kind where the standing denies the request.
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

const askPending = 0 // an ask that listAsks numbers

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
		// More comes in small amounts, for which no request has to wait.
		st.Denied = true
		st.Retry = p.scale.duration(p.scale.each)
		c.refill = c.refill || p.shouldPrefetch(at, s.remote.Nodes())
		return
	}
	w.ask = askPending
}

func (s *Shared) prepareQuota(at time.Time, subject *Subject, l *Line, st *Standing, w *lineOperation, c *operation, cost int64, take bool) {
	if !take {
		w.ask = askPending
		return
	}
	count := subject.counter(l.Policy.Calendar, at)
	if count.lease == nil {
		count.lease = new(lease)
	}
	ls := count.lease
	if w.sharesCount {
		// What the first line took from, or asks for, will do for both; its limit is the smaller one's.
		return
	}
	if s.leased.Load() {
		ls.observe(at, cost)
		if ls.held >= cost && ls.held > 0 {
			ls.held -= cost
			ls.used = true
			w.local = true
			c.refill = c.refill || !ls.asking && ls.held*2 <= ls.target(l.Policy.Limit-count.used, s.remote.Nodes())
			return
		}
		if cost == 0 && recent(ls.refreshedAt, at, recheck) {
			w.local = true
			return
		}
	}
	if !c.unreachable && cost > 0 && recent(ls.refreshedAt, at, recheck) && count.used > l.Policy.Limit-cost {
		st.Denied = true
		if l.Policy.Calendar != Total {
			st.Retry = subject.ends(l.Policy.Calendar, at).Sub(at)
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

// reserve takes what only this process counts: credits and live requests.
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

// undo gives back what the first n lines took here, and what was reserved.
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
				// Where it came from is not known, so it is held until the earlier time.
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
