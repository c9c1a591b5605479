package ratelimit

import "time"

const (
	// slotKeep is for how long a slot of a shared concurrency limit is held without being
	// renewed: that long after a process was killed, its slots are free again.
	slotKeep = 15 * time.Second
	// slotRenew is how often slots in use are renewed.
	slotRenew = slotKeep / 3
	// idleSweep is how often tokens, units and slots are returned that were prefetched and not used
	// since the last sweep.
	idleSweep = 500 * time.Millisecond
	// countKeep is for how long the count of a quota is kept after its period; that of
	// a quota without one after its last use.
	countKeep = 24 * time.Hour
	totalKeep = 400 * 24 * time.Hour
)

// lease is what a process knows of a shared quota's count, and holds of it. Under the subject's lock.
type lease struct {
	// held units may be spent without asking; they count as spent.
	held int64
	// carry was spent without asking, and is not counted yet.
	carry int64
	// refreshedAt is when the count was last asked for.
	refreshedAt time.Time
	// demand is the units asked for per second, smoothed; seen since that time.
	demand, seen float64
	since        time.Time
	// used reports that units were taken since the last sweep, asking that a prefetch is in progress.
	used, asking bool
}

// observe notes a request of that cost.
func (l *lease) observe(now time.Time, cost int64) {
	switch passed := now.Sub(l.since); {
	case passed < time.Second:
	case passed > 8*time.Second:
		l.demand, l.seen, l.since = 0, 0, now
	default:
		l.demand += (l.seen/passed.Seconds() - l.demand) / 2
		l.seen, l.since = 0, now
	}
	l.seen += float64(cost)
}

// target returns how many units to hold: the demand of a tenth of a second, at most a small part of
// those left, since other processes cannot use them.
func (l *lease) target(left, nodes int64) int64 {
	ahead := max(l.demand, l.seen) / 10
	return int64(min(ahead, float64(max(left, 0))/float64(16*nodes)))
}

// slots are the shared concurrency slots that a process holds for a subject. Under the subject's lock.
type slots struct {
	owner string
	// names of all that are held; free of those that no request is using.
	names map[string]struct{}
	free  []string
	// inUse is how many were in use, here and elsewhere, when last asked.
	inUse int64
	// full is until when it is remembered that there was none.
	full time.Time
	// idle is the smallest number of free ones since the last sweep.
	idle int
}

// take returns a free slot.
func (s *slots) take() (name string, ok bool) {
	n := len(s.free)
	if n == 0 {
		return "", false
	}
	name = s.free[n-1]
	s.free = s.free[:n-1]
	s.idle = min(s.idle, n-1)
	return name, true
}

// heldSlots are the slots that a bill holds, by party.
type heldSlots struct {
	by    *Shared
	names [3]string
}
