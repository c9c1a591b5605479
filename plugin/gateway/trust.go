package gateway

import "time"

// Trust is for how long a node judges keys by what it holds while it hears nothing of a store that
// it shares. Immutable.
type Trust struct {
	// Default is that of every keyspace which Keyspaces does not name.
	Default   time.Duration            `json:"default"`
	Keyspaces map[string]time.Duration `json:"keyspaces,omitempty"`
}

// Of returns that of one keyspace. Does not allocate.
func (t Trust) Of(keyspace string) time.Duration {
	if d, ok := t.Keyspaces[keyspace]; ok {
		return d
	}
	return t.Default
}

// Longest returns that of the keyspace that is judged longest.
func (t Trust) Longest() time.Duration {
	d := t.Default
	for _, own := range t.Keyspaces {
		d = max(d, own)
	}
	return d
}

// shortest returns that of the keyspace which is the first that is judged no more.
func (t Trust) shortest() time.Duration {
	d := t.Default
	for _, own := range t.Keyspaces {
		d = min(d, own)
	}
	return d
}

// Earlier returns how much sooner than Longest it ends for the keyspaces that Keyspaces names, and under
// "" for all others; nil where it is one and the same for all.
func (t Trust) Earlier() map[string]time.Duration {
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

// within returns, of each keyspace, the shorter of two trusts.
func (t Trust) within(o Trust) Trust {
	out := Trust{Default: min(t.Default, o.Default)}
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

// horizon is until when a node judges, in time since its membership.born. Immutable.
type horizon struct {
	// from is when it last knew that it holds everything, and was known to.
	from  time.Duration
	trust Trust
	// first and last are when it stops judging the first keyspace, and the last.
	first, last time.Duration
}

func newHorizon(from time.Duration, trust Trust) *horizon {
	return &horizon{from, trust, from + trust.shortest(), from + trust.Longest()}
}

// passed says that a keyspace is judged no more at a time. Does not allocate.
func (h *horizon) passed(at time.Duration, keyspace string) bool {
	return h == nil || at > h.first && at > h.from+h.trust.Of(keyspace)
}

// over says that no keyspace is judged any more.
func (h *horizon) over(at time.Duration) bool { return h == nil || at > h.last }
