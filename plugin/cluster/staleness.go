package cluster

import "time"

// Staleness is how long a node accepts keys from memory while a shared store is unreachable. A
// Staleness is immutable.
type Staleness struct {
	// Default is the time for every keyspace that is not in Keyspaces.
	Default   time.Duration            `json:"default"`
	Keyspaces map[string]time.Duration `json:"keyspaces,omitempty"`
}

// Of returns how long a node may accept keys of one keyspace while the store is unreachable. Of does
// not allocate memory.
func (t Staleness) Of(keyspace string) time.Duration {
	if d, ok := t.Keyspaces[keyspace]; ok {
		return d
	}
	return t.Default
}

// Longest returns the longest staleness of any keyspace.
func (t Staleness) Longest() time.Duration {
	d := t.Default
	for _, own := range t.Keyspaces {
		d = max(d, own)
	}
	return d
}

// shortest returns the shortest staleness of any keyspace.
func (t Staleness) shortest() time.Duration {
	d := t.Default
	for _, own := range t.Keyspaces {
		d = min(d, own)
	}
	return d
}

// Offsets returns, for each keyspace in Keyspaces, how much shorter than Longest its staleness is. The
// entry "" holds the value for all other keyspaces. Offsets returns nil if all are equal.
func (t Staleness) Offsets() map[string]time.Duration {
	if len(t.Keyspaces) == 0 {
		return nil
	}
	longest := t.Longest()
	out := map[string]time.Duration{"": longest - t.Default}
	for name, own := range t.Keyspaces {
		out[name] = longest - own
	}
	return out
}

// atMost returns, for each keyspace, the shorter staleness of t and o.
func (t Staleness) atMost(o Staleness) Staleness {
	out := Staleness{Default: min(t.Default, o.Default)}
	if len(t.Keyspaces)+len(o.Keyspaces) == 0 {
		return out
	}
	out.Keyspaces = make(map[string]time.Duration, len(t.Keyspaces)+len(o.Keyspaces))
	for _, names := range []map[string]time.Duration{t.Keyspaces, o.Keyspaces} {
		for name := range names {
			out.Keyspaces[name] = min(t.Of(name), o.Of(name))
		}
	}
	return out
}

// deadline is the time until which a node accepts keys from memory. A deadline is immutable. A nil
// deadline has passed for all keyspaces.
type deadline struct {
	// from is when the node last was both up to date and listed in the registry.
	from      time.Time
	staleness Staleness
	// shortest and longest are the shortest and the longest staleness of any keyspace.
	shortest, longest time.Duration
}

func newDeadline(from time.Time, staleness Staleness) *deadline {
	return &deadline{from, staleness, staleness.shortest(), staleness.Longest()}
}

// age returns the time since from. It uses the clock, monotonic or wall, that shows the longer time,
// because the monotonic clock stops while the machine is suspended.
func (h *deadline) age(now time.Time) time.Duration {
	return max(now.Sub(h.from), time.Duration(now.UnixNano()-h.from.UnixNano()))
}

// anyPassed reports whether the deadline of at least one keyspace may have passed.
func (h *deadline) anyPassed(now time.Time) bool { return h == nil || h.age(now) > h.shortest }

// passed reports whether the deadline of a keyspace has passed. It does not allocate memory.
func (h *deadline) passed(now time.Time, keyspace string) bool {
	if h == nil {
		return true
	}
	age := h.age(now)
	return age > h.shortest && age > h.staleness.Of(keyspace)
}

// allPassed reports whether the deadlines of all keyspaces have passed.
func (h *deadline) allPassed(now time.Time) bool { return h == nil || h.age(now) > h.longest }
