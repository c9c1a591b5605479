package ratelimit

import "time"

// Violated returns the names of the policies that denied the request, in the bill's order; nil if
// none did. It allocates.
func (o *Outcome) Violated() []string {
	var names []string
	for i := range o.N {
		if st := &o.Standings[i]; st.Denied {
			names = append(names, st.Policy.Name)
		}
	}
	return names
}

// RetryAfter returns the time until the same request would pass, in whole seconds, rounded up and at least one. It is the
// longest Retry of the limits that denied the request. RetryAfter returns 0 if no limit denied the request, or if credits
// are used up.
func (o *Outcome) RetryAfter() time.Duration {
	if !o.Denied || o.Kind == Credits {
		return 0
	}
	longest := time.Second
	for i := range o.N {
		if st := &o.Standings[i]; st.Denied && st.Policy.Reason() != Credits {
			longest = max(longest, st.Retry)
		}
	}
	return time.Duration(seconds(longest)) * time.Second
}

// seconds returns d in seconds, rounded up; 0 for a negative d.
func seconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64((d-1)/time.Second) + 1
}
