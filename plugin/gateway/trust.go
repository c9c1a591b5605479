package gateway

import "time"

// Staleness is for how long a node judges keys by what it holds while it hears nothing of a store that
// it shares. Immutable.
type Staleness struct {
	// Default is that of every keyspace which Keyspaces does not name.
	Default   time.Duration            `json:"default"`
	Keyspaces map[string]time.Duration `json:"keyspaces,omitempty"`
}

// Of returns that of one keyspace. Does not allocate.
func (t Staleness) Of(keyspace string) time.Duration {
	if d, ok := t.Keyspaces[keyspace]; ok {
		return d
	}
	return t.Default
}

// Longest returns that of the keyspace that is judged longest.
func (t Staleness) Longest() time.Duration {
	d := t.Default
	for _, own := range t.Keyspaces {
		d = max(d, own)
	}
	return d
}

// shortest returns that of the keyspace which is the first that is judged no more.
func (t Staleness) shortest() time.Duration {
	d := t.Default
	for _, own := range t.Keyspaces {
		d = min(d, own)
	}
	return d
}

// Offsets returns how much sooner than Longest it ends for the keyspaces that Keyspaces names, and under
// "" for all others; nil where it is one and the same for all.
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

// atMost returns, of each keyspace, the shorter of two trusts.
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

// deadline is until when a node judges. Immutable; nil says that it judges nothing.
type deadline struct {
	// from is when it last knew that it holds everything, and was known to.
	from      time.Time
	staleness Staleness
	// shortest and longest are for how long after from the first keyspace is judged, and the last.
	shortest, longest time.Duration
}

func newDeadline(from time.Time, trust Staleness) *deadline {
	return &deadline{from, trust, trust.shortest(), trust.Longest()}
}

// age returns how long before now from was, by the clock that nobody sets or by that which is set,
// whichever says longer: the former stands still while the machine is suspended.
func (h *deadline) age(now time.Time) time.Duration {
	return max(now.Sub(h.from), time.Duration(now.UnixNano()-h.from.UnixNano()))
}

// anyPassed says that there may be a keyspace that is judged no more at a time.
func (h *deadline) anyPassed(now time.Time) bool { return h == nil || h.age(now) > h.shortest }

// passed says that a keyspace is judged no more at a time. Does not allocate.
func (h *deadline) passed(now time.Time, keyspace string) bool {
	if h == nil {
		return true
	}
	age := h.age(now)
	return age > h.shortest && age > h.staleness.Of(keyspace)
}

// allPassed says that no keyspace is judged any more.
func (h *deadline) allPassed(now time.Time) bool { return h == nil || h.age(now) > h.longest }
