package ratelimit

import (
	"errors"
	"math"
	"slices"
	"time"
)

// counter is a subject's count in the current period of one calendar. All quotas of that calendar
// share it. The subject's lock guards it.
type counter struct {
	// start and end are the bounds of the period in Unix seconds. Both are 0 before the first use.
	start, end int64
	// newest is the start of the latest period that this process or the store has counted in, in Unix seconds. A later
	// period has no count in the store, so it begins at 0 without a look-up.
	newest int64
	used   int64
	// stored is the count that the store last wrote or returned.
	stored int64
	// loaded reports whether used includes the count that the store had, and not only what this process counted.
	loaded bool
	// unsure reports whether the count in the store may differ from stored.
	unsure bool
	// unstored reports whether the store refused to keep a row for this period's count.
	unstored bool
	calendar Calendar
	// next is the subject's counter of the next calendar.
	next *counter
	// lease is this process's part of a shared count; nil if only this process counts.
	lease *lease
}

// Start returns the start of the calendar's period at now, in UTC; the zero time for Total.
func (c Calendar) Start(now time.Time) time.Time {
	y, m, d := now.UTC().Date()
	switch c {
	case Day:
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	case Month:
		return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}
}

// End returns the end of the calendar's period at now, which is the start of the next one; the
// zero time for Total.
func (c Calendar) End(now time.Time) time.Time {
	y, m, d := now.UTC().Date()
	switch c {
	case Day:
		return time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)
	case Month:
		return time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}
}

// begin starts the period of cal at now, with a count of 0.
func (c *counter) begin(cal Calendar, now time.Time) {
	c.used, c.stored, c.unsure, c.unstored = 0, 0, false, false
	c.lease = nil
	if cal == Total {
		c.start, c.end = math.MinInt64, math.MaxInt64
		return
	}
	c.start, c.end = cal.Start(now).Unix(), cal.End(now).Unix()
	c.newest = max(c.newest, c.start)
}

// clockSlack is how far before the start of a period a time still counts in that period, in seconds. Requests that read the
// clock just before midnight may be counted just after it, and clocks are often set back by a second.
const clockSlack = 10

// covers reports whether the counter's period contains now.
func (c *counter) covers(now time.Time) bool {
	u := now.Unix()
	return u < c.end && u+clockSlack >= c.start
}

// mayBeStored reports whether the store may have a count of the period that contains now, which the counter does not have.
// That is so after the clock was set: back, or forward from a time that was too early.
func (c *counter) mayBeStored(now time.Time) bool {
	return c.begun() && c.loaded && !c.covers(now) && c.calendar.Start(now).Unix() <= c.newest
}

// begun reports whether the counter has a period.
func (c *counter) begun() bool { return c.end != 0 }

// usedAt returns the count in the period that contains now. It starts no new period.
func (c *counter) usedAt(now time.Time) int64 {
	if !c.covers(now) {
		return 0
	}
	return c.used
}

// dirty reports whether the store must be given the count.
func (c *counter) dirty() bool { return c.loaded && !c.unstored && (c.used != c.stored || c.unsure) }

// startTime returns the start of the period in the store's form: zero for Total.
func (c *counter) startTime() time.Time {
	if c.start == math.MinInt64 || !c.begun() {
		return time.Time{}
	}
	return time.Unix(c.start, 0).UTC()
}

// counter returns the subject's counter of a calendar, in the period that contains now. If that is another period than
// before, counter keeps the former count in closed until it is stored, and continues a count that is in closed.
func (s *Subject) counter(cal Calendar, now time.Time) *counter {
	c := s.count(cal)
	if c.covers(now) {
		return c
	}
	if c.begun() && c.dirty() {
		r := s.ensureCold()
		r.closed = append(r.closed, Counted{Subject: s.id, Calendar: cal, Start: c.startTime(), Used: c.used})
	}
	c.begin(cal, now)
	if r := s.cold.Load(); r != nil {
		for i, e := range r.closed {
			if e.Calendar == cal && e.Start.Unix() == c.start && cal != Total {
				c.used, c.unsure = e.Used, true
				r.closed = slices.Delete(r.closed, i, i+1)
				break
			}
		}
		if len(r.closed) == 0 {
			r.closed = nil
		}
	}
	return c
}

// ErrPeriod means that a charge counts in a period of which only the store has the count, because the clock was set.
// Nothing was taken. The caller loads the counts with LoadPeriod and charges again.
var ErrPeriod = errors.New("the count of this quota period must be loaded first")

// NeedsPeriod reports whether the store may have the count of a period that contains now and that s does not have.
func (s *Subject) NeedsPeriod(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := s.counters; c != nil; c = c.next {
		if c.mayBeStored(now) {
			return true
		}
	}
	return false
}

// LoadPeriod begins the periods that contain now, for the counters for which NeedsPeriod is true. counts holds the counts of
// these periods in the store.
func (s *Subject) LoadPeriod(now time.Time, counts []Counted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := s.counters; c != nil; c = c.next {
		if !c.mayBeStored(now) {
			continue
		}
		s.counter(c.calendar, now)
		for _, u := range counts {
			if u.Calendar != c.calendar || u.Start.Unix() != c.start {
				continue
			}
			c.stored = u.Used
			if !c.unsure { // A count that was still in memory is newer than the store's.
				c.used = u.Used
			}
		}
	}
}

// KnowPeriod records that the store has a count of the calendar's period that begins at start.
func (s *Subject) KnowPeriod(c Calendar, start time.Time) {
	if c < Day || c >= Total {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count(c)
	n.newest = max(n.newest, start.Unix())
}

// count returns the subject's counter of a calendar, whatever its period is. It adds the counter if the subject has none.
func (s *Subject) count(cal Calendar) *counter {
	at := &s.counters // The list is sorted by calendar.
	for ; *at != nil && (*at).calendar <= cal; at = &(*at).next {
		if (*at).calendar == cal {
			return *at
		}
	}
	*at = &counter{calendar: cal, loaded: s.loaded, next: *at}
	return *at
}

// counted returns the subject's counter of a calendar, nil if it has none.
func (s *Subject) counted(cal Calendar) *counter {
	for c := s.counters; c != nil; c = c.next {
		if c.calendar == cal {
			return c
		}
	}
	return nil
}

// fillQuotaStanding sets the state of a quota of which used is spent.
func fillQuotaStanding(st *Standing, p *Policy, used int64, end, now time.Time) {
	st.Policy = p
	st.Limit = p.Limit
	st.Remaining = max(0, p.Limit-used)
	if used > 0 && p.Calendar != Total {
		st.Reset = max(0, end.Sub(now))
	}
}

// LoadUsage adds the count that the store has for the period which begins at start; for Total, start is ignored. It does
// nothing if the count is loaded already, or if the period is not the current one.
func (s *Subject) LoadUsage(start time.Time, c Calendar, used int64) {
	if c < Day || c > Total {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count(c)
	if n.loaded {
		return
	}
	if !n.begun() || c != Total && start.Unix() >= n.end {
		n.begin(c, start)
	}
	if c != Total && start.Unix() != n.start {
		return
	}
	n.used += used
	n.stored = used
	n.loaded = true
}

// NeedsUsage reports whether a quota is bound while the store's counts are not loaded.
func (s *Subject) NeedsUsage() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loaded {
		return false
	}
	for i := range s.sets {
		for _, l := range s.sets[i].lines {
			if l.Policy.Kind == Quota {
				return true
			}
		}
	}
	return false
}

// UsageLoaded marks all counts as loaded. Counts that LoadUsage did not set begin at 0.
func (s *Subject) UsageLoaded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = true
	for c := s.counters; c != nil; c = c.next {
		c.loaded = true
	}
}

// Unflushed appends the quota counts that the store must be given, the final counts of ended periods first. It leaves out
// counts that were not loaded, because they would replace larger counts in the store.
func (s *Subject) Unflushed(dst []Counted) []Counted {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.cold.Load(); r != nil {
		dst = append(dst, r.closed...)
	}
	for c := s.counters; c != nil; c = c.next {
		if c.dirty() {
			dst = append(dst, Counted{Subject: s.countID(Quota, 0, c.calendar), Calendar: c.calendar, Start: c.startTime(), Used: c.used})
		}
	}
	return dst
}

// Flushed records that the store has those counts. It ignores counts of other subjects, so one
// list can serve many subjects.
func (s *Subject) Flushed(counts []Counted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range counts {
		if f.Calendar < Day || f.Calendar > Total || f.Subject != s.countID(Quota, 0, f.Calendar) {
			continue
		}
		if c := s.counted(f.Calendar); c != nil && c.begun() && c.startTime().Equal(f.Start) {
			// If the count was charged after the call of Unflushed, it is larger than stored, and so it stays dirty.
			c.stored, c.unsure = f.Used, false
			continue
		}
		r := s.cold.Load()
		if r == nil {
			continue
		}
		for i, e := range r.closed {
			if e.Calendar == f.Calendar && e.Start.Equal(f.Start) {
				// The period may have been charged after the call of Unflushed and before its end. Then its final count stays in the list.
				if e.Used == f.Used {
					r.closed = append(r.closed[:i], r.closed[i+1:]...)
				}
				break
			}
		}
		if len(r.closed) == 0 {
			r.closed = nil
		}
	}
}

// Unstored records that the store keeps no row for the count of the period that begins at start. From then on only the
// subject s holds the count, so s is not idle until the period ends.
func (s *Subject) Unstored(cal Calendar, start time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.counted(cal); c != nil && c.begun() && c.startTime().Equal(start) {
		c.unstored = true
	}
}
