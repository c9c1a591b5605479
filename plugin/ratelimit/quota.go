package ratelimit

import (
	"math"
	"time"
)

// counter is what a subject spent in the current period of one calendar, shared by
// all quotas of that calendar. Under the subject's lock.
type counter struct {
	// start and end of the period in Unix seconds; both 0 before the first use.
	start, end int64
	used       int64
	// stored is the count that the store last wrote or returned.
	stored int64
	// loaded reports that used is the whole count, not just what this process saw.
	loaded bool
	// unsure reports that the store may hold another count than stored.
	unsure bool
	// unstored reports that the store keeps no count of this period: it is counted here alone.
	unstored bool
	calendar Calendar
	// next is the counter of another calendar.
	next *counter
	// lease is the state of a count that processes share; nil where it is this process's.
	lease *lease
}

// Start returns the beginning of the calendar's period that holds now, in UTC; the zero
// time for Total.
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

// End returns when the calendar's period that holds now ends: the first moment of the
// next one. The zero time for Total.
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

// begin makes the period of cal that holds now the current one, with nothing spent.
func (c *counter) begin(cal Calendar, now time.Time) {
	c.used, c.stored, c.unsure, c.unstored = 0, 0, false, false
	c.lease = nil
	if cal == Total {
		c.start, c.end = math.MinInt64, math.MaxInt64
		return
	}
	c.start, c.end = cal.Start(now).Unix(), cal.End(now).Unix()
}

// begun reports whether the counter has a period.
func (c *counter) begun() bool { return c.end != 0 }

// usedAt returns what was spent in the period that holds now, or in the current one where now
// is earlier, without making it the current one.
func (c *counter) usedAt(now time.Time) int64 {
	if now.Unix() >= c.end {
		return 0
	}
	return c.used
}

// dirty reports whether the count must be written to the store.
func (c *counter) dirty() bool { return c.loaded && !c.unstored && (c.used != c.stored || c.unsure) }

// startTime returns the period's start as the store knows it.
func (c *counter) startTime() time.Time {
	if c.start == math.MinInt64 || !c.begun() {
		return time.Time{}
	}
	return time.Unix(c.start, 0).UTC()
}

// counter returns the subject's counter of a calendar, begun and in the period of now. The
// final count of an ended period that is not in the store yet is kept in closed.
func (s *Subject) counter(cal Calendar, now time.Time) *counter {
	c := s.count(cal)
	if now.Unix() < c.end {
		return c
	}
	if c.begun() && c.dirty() {
		r := s.ensureCold()
		r.closed = append(r.closed, Counted{Subject: s.id, Calendar: cal, Start: c.startTime(), Used: c.used})
	}
	c.begin(cal, now)
	return c
}

// count returns the subject's counter of a calendar as it is.
func (s *Subject) count(cal Calendar) *counter {
	at := &s.counters // in the order of calendars
	for ; *at != nil && (*at).calendar <= cal; at = &(*at).next {
		if (*at).calendar == cal {
			return *at
		}
	}
	*at = &counter{calendar: cal, loaded: s.loaded, next: *at}
	return *at
}

// counted returns the subject's counter of a calendar, nil where nothing was counted by it.
func (s *Subject) counted(cal Calendar) *counter {
	for c := s.counters; c != nil; c = c.next {
		if c.calendar == cal {
			return c
		}
	}
	return nil
}

// fillQuotaStanding fills in the state of a quota of which used is spent.
func fillQuotaStanding(st *Standing, p *Policy, used int64, end, now time.Time) {
	st.Policy = p
	st.Limit = p.Limit
	st.Remaining = max(0, p.Limit-used)
	if used > 0 && p.Calendar != Total {
		st.Reset = max(0, end.Sub(now))
	}
}

// LoadUsage sets the durable count a subject starts with in the period that begins at
// start (ignored for Total); what was counted here before is added. Ignored once loaded, and for a period that
// is no longer the current one.
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

// NeedsUsage reports whether quota lines are bound whose counts have not been loaded yet.
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

// UsageLoaded marks the durable counts as loaded: those that LoadUsage did not set
// begin at 0.
func (s *Subject) UsageLoaded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = true
	for c := s.counters; c != nil; c = c.next {
		c.loaded = true
	}
}

// Unflushed appends the quota counts that changed since they were last confirmed, the
// final ones of periods that have ended first. Counts that were never loaded
// are left out: they would overwrite the store's.
func (s *Subject) Unflushed(dst []Counted) []Counted {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.cold.Load(); r != nil {
		dst = append(dst, r.closed...)
	}
	for c := s.counters; c != nil; c = c.next {
		if c.dirty() {
			dst = append(dst, Counted{Subject: s.id, Calendar: c.calendar, Start: c.startTime(), Used: c.used})
		}
	}
	return dst
}

// Flushed confirms that those counts were stored. Counts of other subjects are ignored, so
// that one list of many subjects will do.
func (s *Subject) Flushed(counts []Counted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range counts {
		if f.Subject != s.id || f.Calendar < Day || f.Calendar > Total {
			continue
		}
		if c := s.counted(f.Calendar); c != nil && c.begun() && c.startTime().Equal(f.Start) {
			// Not "clean": it may have been charged since it was read.
			c.stored, c.unsure = f.Used, false
			continue
		}
		r := s.cold.Load()
		if r == nil {
			continue
		}
		for i, e := range r.closed {
			if e.Calendar == f.Calendar && e.Start.Equal(f.Start) {
				// The period may have been charged between being read and ending.
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

// Unstored marks the count of the calendar's period that begins at start as one that the store keeps no row of.
// From then on it is counted in s alone, so s is not idle until the period ends.
func (s *Subject) Unstored(cal Calendar, start time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.counted(cal); c != nil && c.begun() && c.startTime().Equal(start) {
		c.unstored = true
	}
}
