package ratelimit

// set is the policies that one origin bound to a subject.
type set struct {
	epoch int64
	// lines is nil until the first Bind, and never changed: each Bind makes new ones.
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

// Bind replaces the policies that s is limited by from this origin, and returns their lines, which
// the caller must not change. Each rate takes over the spent tokens of the old rate that
// carryMeters matches it with: left = max(0, new burst − spent). Lines returned earlier count in
// the same buckets.
//
// epoch orders configurations: a call with an older epoch changes nothing and returns the current
// lines. For equal policies, Bind returns the same lines and allocates nothing.
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

// carryMeters returns a meter for each rate among policies: the matching old one, which adopts the
// policy at its next use, or a new and full one.
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
	// Match equal rates first, so that several rates of one period keep their own meters; then
	// equal periods, then equal positions, then the rest in order.
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
			// policy may be the policy of before, if an earlier change was never applied.
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
