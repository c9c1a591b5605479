package ratelimit

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrDropped means that a bill names a subject that was dropped as idle after the caller
// had looked it up. Looking it up again gives its successor; nothing was taken.
var ErrDropped = errors.New("subject was dropped: look it up again")

// Subject is who policies are counted for, with its buckets, counters and live
// requests. Made by NewSubject; safe for concurrent use.
type Subject struct {
	id string
	// live requests are changed without the lock where nothing is tested against them.
	live atomic.Int64
	// cold is nil until something in it is needed. There are two subjects for a key in
	// use, so what few of them have is not in each.
	cold atomic.Pointer[coldFields]
	// dropped is set under mu, once.
	dropped atomic.Bool

	// loaded reports that the store's counts are known. Guarded by mu, as is what follows.
	loaded bool
	// Where several subjects are locked, the order is address, tenant, key.
	mu sync.Mutex
	// last is the latest now that was charged: an older one would mint tokens.
	last time.Time
	sets [NumOrigins]set
	// counters of the calendars that a quota was counted by; nil for none.
	counters *counter
}

// coldFields are the fields that few subjects have. Unless stated otherwise, the subject's lock guards it.
type coldFields struct {
	// Credits spent and lacking at this key, changed without the lock.
	spent, returned, shortfall atomic.Int64
	account                    Account
	// closed are the final counts of ended periods that are not in the store yet.
	closed []Counted
	// slots are those of shared concurrency limits; nil where there are none.
	slots *slots
}

// ensureCold returns what few subjects have, which s has from now on.
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

// slots returns the slots of shared concurrency limits, nil where there are none.
func (s *Subject) slots() *slots {
	if r := s.cold.Load(); r != nil {
		return r.slots
	}
	return nil
}

// Origin distinguishes the sets of policies bound to one subject.
type Origin uint8

const (
	FromPlan Origin = iota // the plan's lines, or the tenant's that replace them
	FromKey                // the key's own lines
	NumOrigins
)

// Counted is one durable count that changed.
type Counted struct {
	Subject  string
	Calendar Calendar
	// Start of the period in UTC; zero for Total.
	Start time.Time
	Used  int64
}

// NewSubject returns a subject with full buckets and nothing spent. id names it among
// nodes and in the store: "k:<keyspace>:<key id>", "t:<keyspace>:<slug>", "a:…".
func NewSubject(id string) *Subject {
	return &Subject{id: id}
}

// ID returns what NewSubject was given.
func (s *Subject) ID() string { return s.id }

// Live returns how many requests of the subject are running.
func (s *Subject) Live() int64 { return s.live.Load() }

// Idle reports whether s has nothing to lose: buckets full, nothing live, every count flushed, no
// credits leased or unsettled. Such a subject may be dropped and made again. Counts that were never
// loaded, and those that the store keeps no row of, keep s from being idle until their period ends.
func (s *Subject) Idle(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle(now)
}

// Drop marks s as dropped if it is idle, and reports whether it did. From then on charging
// it returns ErrDropped, so that no count goes to s instead of its successor. Call it under
// the lock of the table that s is taken out of.
func (s *Subject) Drop(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.idle(now) {
		return false
	}
	s.dropped.Store(true)
	return true
}

// Dropped reports whether Drop succeeded.
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

// busy reports whether s holds state that would be lost with it, other than spent tokens.
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

// clamp returns now, or the last one where that is later: time does not go back.
func (s *Subject) clamp(now time.Time) time.Time {
	if now.Before(s.last) {
		return s.last
	}
	return now
}

// Reset refills the buckets and forgets the current quota counts: POST …/limits/reset.
// Empty names resets everything, and the subject's sense of time with it, should a clock have run ahead; else
// the policies of those names. Quotas of one calendar share their count.
func (s *Subject) Reset(now time.Time, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(names) == 0 {
		s.last = now
	}
	now = s.clamp(now)
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
			if now.Unix() < c.start {
				// The clock had run ahead, and the counter with it.
				c.begin(l.Policy.Calendar, now)
			}
			// Also where nothing was loaded yet: the store's count is what is forgotten.
			c.used, c.loaded, c.unsure, c.lease = 0, true, true, nil
		}
	}
}

// Expendable reports whether s may be dropped although it is not idle, and returns when it was last
// charged. A subject that was never charged is about to be, so it may not. With all set, only a
// running request keeps s.
func (s *Subject) Expendable(all bool) (last time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		return s.last, s.live.Load() == 0
	}
	return s.last, !s.last.IsZero() && !s.busy()
}

// DropUnlessBusy is Drop for a subject whose buckets need not be full, as Expendable reports.
func (s *Subject) DropUnlessBusy(all bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all && s.live.Load() != 0 || !all && s.busy() {
		return false
	}
	s.dropped.Store(true)
	return true
}
