package ratelimit

// set is what one origin bound to a subject.
type set struct {
	epoch int64
	// lines are handed out and never changed; a new set has new ones. nil until something is bound, if it
	// be no lines.
	lines []Line
}

func (s *set) bound() bool { return s.lines != nil }

// meters returns the buckets of the set's rates, in order.
func (s *set) meters() []*meter {
	var out []*meter
	for i := range s.lines {
		if m := s.lines[i].meter; m != nil {
			out = append(out, m)
		}
	}
	return out
}

// Bind makes policies, all of one origin, the ones counted for s, and returns their
// lines, which the caller must not change. What was spent is carried over from the line they follow (same period first,
// then by position): left = max(0, new size − spent). epoch orders configurations: a
// call with an older epoch than the last binds nothing and returns the lines that are bound,
// which count in the buckets as they now are. Equal policies return equal lines and
// allocate nothing; lines returned earlier go on counting in the buckets that follow theirs.
func (s *Subject) Bind(epoch int64, origin Origin, policies []*Policy) []Line {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := &s.sets[origin]
	if set.bound() && epoch < set.epoch {
		return set.lines
	}
	set.epoch = epoch
	if set.bound() && equal(set.lines, policies) {
		return set.lines
	}
	meters := carryMeters(set.meters(), policies)
	set.lines = make([]Line, len(policies))
	rates := 0
	for i, p := range policies {
		set.lines[i] = Line{Policy: p, Subject: s, origin: origin}
		if p.Kind == Rate {
			set.lines[i].meter = meters[rates]
			rates++
		}
	}
	return set.lines
}

// carryMeters returns a meter for each rate among policies: the old one it follows, told
// to change, or a new and full one.
func carryMeters(old []*meter, policies []*Policy) []*meter {
	var rates []*Policy
	for _, p := range policies {
		if p.Kind == Rate {
			rates = append(rates, p)
		}
	}
	if len(rates) == 0 {
		return nil
	}
	meters := make([]*meter, len(rates))
	taken := make([]bool, len(old))
	follow := func(i int, matches func(j int, p *Policy) bool) {
		for j, m := range old {
			if meters[i] == nil && !taken[j] && matches(j, m.target()) {
				meters[i], taken[j] = m, true
			}
		}
	}
	// The same rate first, so that of several with one period each keeps its own; then
	// the same period; then the same position; then whatever is left, in order.
	for _, matches := range []func(p, q *Policy, i, j int) bool{
		func(p, q *Policy, _, _ int) bool {
			return p.Period == q.Period && p.Limit == q.Limit && p.Burst == q.Burst
		},
		func(p, q *Policy, _, _ int) bool { return p.Period == q.Period },
		func(_, _ *Policy, i, j int) bool { return i == j },
		func(_, _ *Policy, _, _ int) bool { return true },
	} {
		for i, p := range rates {
			follow(i, func(j int, q *Policy) bool { return matches(p, q, i, j) })
		}
	}
	for i, p := range rates {
		switch m := meters[i]; {
		case m == nil:
			meters[i] = newMeter(p)
		case m.policy.Equal(p):
			// Also back to what it was before a change that never took effect.
			m.policy, m.next = p, nil
		default:
			m.next = p
		}
	}
	return meters
}

func equal(a []Line, b []*Policy) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Policy.Equal(b[i]) {
			return false
		}
	}
	return true
}
