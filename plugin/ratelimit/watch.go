package ratelimit

import "time"

// EachQuota calls f with every calendar quota of s and its count in the period that contains now. It holds the lock of the
// subject during the calls, so f must not use s.
func (s *Subject) EachQuota(now time.Time, f func(p *Policy, used int64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counters == nil {
		return
	}
	for i := range s.sets {
		for _, l := range s.sets[i].lines {
			p := l.Policy
			if p.Kind == Quota && p.Calendar != Total {
				used := int64(0)
				if c := s.counted(p.Calendar); c != nil {
					used = c.usedAt(now)
				}
				f(p, used)
			}
		}
	}
}
