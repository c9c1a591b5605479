package ratelimit

// set holds the policies that one origin, such as the plan or the key's record, has bound to a subject.
type set struct {
	epoch int64
	// lines is nil before the first Bind. The slice is never changed: each Bind makes a new one.
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

// Bind replaces the policies from this origin that limit s, and returns their lines. The caller must not change the lines.
// Each new rate takes over the spent tokens of the old rate that carryMeters finds for it: left = max(0, new burst − spent).
// Lines that earlier calls returned count in the same buckets.
//
// epoch orders configurations. A call with an older epoch changes nothing and returns the current lines. For equal
// policies, Bind returns the same lines and allocates nothing.
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

// carryMeters returns a meter, a token bucket, for each rate among policies. If an old meter matches the rate, it is kept
// and adopts the policy at its next use. Otherwise the meter is new and full.
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
	// Equal rates are matched first, so that several rates of one period keep their own meters. Rates with equal periods follow,
	// then rates in equal positions, then all others in order.
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
