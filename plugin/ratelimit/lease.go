package ratelimit

import "time"

const (
	// slotKeep is how long a shared concurrency slot is held without being renewed. So the slots
	// of a killed process are free again after that time.
	slotKeep = 15 * time.Second
	// slotRenew is the interval at which slots in use are renewed.
	slotRenew = slotKeep / 3
	// idleSweep is the interval at which a process returns prefetched tokens, units and slots that it has not used since the
	// last sweep.
	idleSweep = 500 * time.Millisecond
	// countKeep is how long a shared quota count is kept after the end of its period. totalKeep is how long a count without a
	// period is kept after its last use.
	countKeep = 24 * time.Hour
	totalKeep = 400 * 24 * time.Hour
)

// lease is a process's part of a shared quota count. The subject's lock guards it.
type lease struct {
	// held is the number of units that were taken before a request needed them. The shared count includes them as spent.
	held int64
	// carry is the number of units that were spent while Redis was unreachable. The shared count does not include them yet.
	carry int64
	// refreshedAt is when the remote last returned the count.
	refreshedAt time.Time
	// demand is the smoothed number of units per second. seen counts the units after since.
	demand, seen float64
	since        time.Time
	// used reports whether held units were spent since the last sweep. asking reports whether a prefetch is running.
	used, asking bool
}

// ensureLease returns the lease of c, and allocates it if missing.
func (c *counter) ensureLease() *lease {
	if c.lease == nil {
		c.lease = new(lease)
	}
	return c.lease
}

// observe records the cost of a request as demand.
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

// target returns how many units to hold: the demand of a tenth of a second, but at most one in 16*nodes of the units that
// are left, because other processes cannot use held units.
func (l *lease) target(left, nodes int64) int64 {
	ahead := max(l.demand, l.seen) / 10
	return int64(min(ahead, float64(max(left, 0))/float64(16*nodes)))
}

// slots are the shared concurrency slots that a process holds for a subject. The subject's lock
// guards them.
type slots struct {
	owner string
	// names holds the names of all held slots. free holds those that no request uses.
	names map[string]struct{}
	free  []string
	// inUse is how many slots all processes together used when Redis was last asked.
	inUse int64
	// full is the time until which requests are denied without asking the remote.
	full time.Time
	// idle is the smallest length of free since the last sweep.
	idle int
}

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

// heldSlots are the names of a bill's slots, one for each party; "" for none.
type heldSlots struct {
	by    *Shared
	names [3]string
}
