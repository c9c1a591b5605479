package ratelimit

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrDropped means that a bill names a subject that was dropped as idle after the caller had
// looked it up. Nothing was taken. Another look-up returns its successor.
var ErrDropped = errors.New("subject was dropped: look it up again")

// Subject is a key, a tenant or an address that policies are counted for, with its buckets,
// counters and live requests. Made by NewSubject; safe for concurrent use.
type Subject struct {
	id string
	// live is the number of running requests. Without a concurrency limit it changes without the
	// lock.
	live atomic.Int64
	// cold holds rarely used fields. It is nil until one of them is needed. That keeps subjects small: each key in use has two
	// subjects, and few of them need these fields.
	cold atomic.Pointer[coldFields]
	// dropped is set under mu, once.
	dropped atomic.Bool

	// loaded reports whether the counts of the store are known. The lock mu guards loaded and all fields below.
	loaded bool
	// Code that locks several subjects locks the address first, then the tenant, then the key.
	mu sync.Mutex
	// last is the latest time of a charge. A charge with an earlier time counts at last, because the bucket would gain tokens
	// twice otherwise.
	last time.Time
	sets [NumOrigins]set
	// counters are linked, one for each calendar in use; nil for none.
	counters *counter
}

// coldFields are fields that few subjects need. The lock of the subject guards every field that has no other comment.
type coldFields struct {
	// spent, returned and shortfall are the Spent of this key's requests. They are changed without the lock.
	spent, returned, shortfall atomic.Int64
	account                    Account
	// closed are the final counts of ended periods that the store does not have yet.
	closed []Counted
	// slots are the slots of shared concurrency limits; nil if the subject has none.
	slots *slots
	// holder is set by HandOver. It is read without the lock.
	holder atomic.Pointer[string]
}

// ensureCold returns the cold fields of s, and allocates them if missing.
func (s *Subject) ensureCold() *coldFields {
	if r := s.cold.Load(); r != nil {
		return r
	}
	r := &coldFields{account: Account{s: s, lease: 1}}
	if s.cold.CompareAndSwap(nil, r) {
		return r
	}
	return s.cold.Load()
}

// slots returns the slots of shared concurrency limits, nil for none.
func (s *Subject) slots() *slots {
	if r := s.cold.Load(); r != nil {
		return r.slots
	}
	return nil
}

// Origin distinguishes the sets of policies bound to one subject.
type Origin uint8

const (
	FromPlan Origin = iota // FromPlan is the origin of the limits that the plan states, or of the tenant's own limits that replace them.
	FromKey                // FromKey is the origin of the key's own lines.
	NumOrigins
)

// Counted is one durable count that changed.
type Counted struct {
	Subject  string
	Calendar Calendar
	// Start is the start of the period in UTC. It is the zero time for Total.
	Start time.Time
	Used  int64
}

// NewSubject returns a subject with full buckets and nothing spent. id is the subject's name on
// every node and in the store: "k:<keyspace>:<key id>" for a key, "t:<keyspace>:<slug>" for a
// tenant, "a:" and more for a client address.
func NewSubject(id string) *Subject {
	return &Subject{id: id}
}

func (s *Subject) ID() string { return s.id }

// Holder returns the id of the subject's holder, which is the subject's own id before HandOver.
func (s *Subject) Holder() string {
	if r := s.cold.Load(); r != nil {
		if holder := r.holder.Load(); holder != nil {
			return *holder
		}
	}
	return s.id
}

// HandOver gives s to another holder: a key that takes over the allowance of a former key. What was spent of the plan's limits
// stays spent. The former holder's own limits and its total count end. Those of the new holder are stored under its id.
// HandOver does nothing if s has that holder.
func (s *Subject) HandOver(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Holder() == holder {
		return
	}
	s.ensureCold().holder.Store(&holder)
	s.sets[FromKey] = set{}
	s.loaded = false // The new holder's total count must be loaded.
	if c := s.counted(Total); c != nil {
		c.begin(Total, s.last)
		c.loaded = false
	}
}

// countID returns the id under which a limit is counted: limits of the holder's own record, and total counts, under the
// holder's id. The quotas of a calendar have one count, whatever their origin is.
func (s *Subject) countID(kind Kind, origin Origin, cal Calendar) string {
	if kind == Rate && origin == FromKey || kind == Quota && cal == Total {
		return s.Holder()
	}
	return s.id
}

// Live returns the number of the subject's running requests.
func (s *Subject) Live() int64 { return s.live.Load() }

// Idle reports whether the subject s can be dropped without losing state: its buckets are full, no request is running, every
// count is flushed, and no credits are leased or unwritten. Counts that were not loaded, and counts that the store keeps no
// row of, keep s from being idle until their period ends.
func (s *Subject) Idle(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle(now)
}

// Drop marks s as dropped if it is idle, and reports whether it did. Later charges return ErrDropped, so that no count goes
// to a subject that was replaced. The caller holds the lock of the table from which s is removed.
func (s *Subject) Drop(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.idle(now) {
		return false
	}
	s.dropped.Store(true)
	return true
}

// Dropped reports whether s was dropped.
func (s *Subject) Dropped() bool { return s.dropped.Load() }

func (s *Subject) idle(now time.Time) bool {
	if s.busy() {
		return false
	}
	now = s.clamp(now)
	for i := range s.sets {
		for _, l := range s.sets[i].lines {
			if l.meter != nil && !l.meter.full(now) {
				return false
			}
		}
	}
	for c := s.counters; c != nil; c = c.next {
		if (!c.loaded || c.unstored) && c.usedAt(now) > 0 {
			return false
		}
	}
	return true
}

// busy reports whether s has state that a drop would lose, other than spent tokens.
func (s *Subject) busy() bool {
	if s.live.Load() != 0 {
		return true
	}
	if r := s.cold.Load(); r != nil && (r.spent.Load() != 0 || r.returned.Load() != 0 || r.shortfall.Load() != 0 ||
		len(r.closed) > 0 || r.account.leased != 0) {
		return true
	}
	for c := s.counters; c != nil; c = c.next {
		if c.dirty() || c.lease != nil && (c.lease.held > 0 || c.lease.carry != 0) {
			return true
		}
	}
	return false
}

// clamp returns the later of now and last: a subject's time does not go back.
func (s *Subject) clamp(now time.Time) time.Time {
	if now.Before(s.last) {
		return s.last
	}
	return now
}

// Reset refills the buckets and clears the current quota counts of the policies with these names. Without names, it resets
// all policies and sets the time of the last charge to now, in case a clock ran ahead. Quotas of one calendar share their
// count, so all of them are reset together.
func (s *Subject) Reset(now time.Time, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(names) == 0 {
		s.last = now
	}
	named := func(p *Policy) bool { return len(names) == 0 || slices.Contains(names, p.Name) }
	for i := range s.sets {
		for _, m := range s.sets[i].meters() {
			if named(m.target()) {
				m.refill()
			}
		}
		for _, l := range s.sets[i].lines {
			if l.Policy.Kind != Quota || !named(l.Policy) {
				continue
			}
			c := s.counter(l.Policy.Calendar, now)
			// A count that was not loaded is reset too. It replaces the count in the store.
			c.used, c.loaded, c.unsure, c.lease = 0, true, true, nil
		}
	}
}

// Expendable reports whether the subject s may be dropped although it is not idle. It returns when s was last charged. A
// subject that was never charged may not be dropped, because a request is about to charge it. If all is true, only a running
// request prevents the drop.
func (s *Subject) Expendable(all bool) (last time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		return s.last, s.live.Load() == 0
	}
	return s.last, !s.last.IsZero() && !s.busy()
}

// DropUnlessBusy drops the subject s under the conditions of Expendable, even if its buckets are not full. It reports
// whether it dropped s.
func (s *Subject) DropUnlessBusy(all bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all && s.live.Load() != 0 || !all && s.busy() {
		return false
	}
	s.dropped.Store(true)
	return true
}
