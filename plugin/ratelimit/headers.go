package ratelimit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/keygate-dev/keygate/internal/sfv"
)

// The header fields that WriteHeaders sets, as net/http spells them.
const (
	HeaderLimit      = "X-Ratelimit-Limit"
	HeaderRemaining  = "X-Ratelimit-Remaining"
	HeaderReset      = "X-Ratelimit-Reset"
	HeaderRetryAfter = "Retry-After"
	HeaderPolicy     = "Ratelimit-Policy"
	HeaderRateLimit  = "Ratelimit"
)

// HeaderOptions selects the headers. The zero value selects Retry-After alone.
type HeaderOptions struct {
	// X selects X-RateLimit-Limit, -Remaining and -Reset, the names that GitHub made common.
	X bool
	// IETF selects RateLimit-Policy and RateLimit, by draft-ietf-httpapi-ratelimit-headers-11.
	IETF bool
	// DeltaReset writes X-RateLimit-Reset as seconds from now, instead of Unix seconds.
	DeltaReset bool
}

// WriteHeaders sets the headers in h that describe o, replacing former values. It sets nothing if
// no policy applies, and no X- header if no rate or quota does. now is the time of the charge.
//
// The X- headers show one rate or quota: the one that denied (of several, the one with the longest
// wait), else the one with the fewest requests left (of several, the one with the longest window).
// RateLimit-Policy and RateLimit list every policy. A bucket's q is its burst, and w the seconds
// in which it gains q tokens, so q per w is the sustained rate.
//
// It makes two allocations, whatever the number of headers: one text that all values are parts of,
// and one array. Neither is shared with another request.
func (o *Outcome) WriteHeaders(h http.Header, now time.Time, opt HeaderOptions) {
	var f fields
	text := o.render(&f, now, opt)
	if f.n == 0 {
		return
	}
	values, start := make([]string, f.n), 0
	for i := range f.n {
		values[i] = text[start:f.ends[i]]
		// The capacity is 1, so that another handler's append does not overwrite the next value.
		h[f.keys[i]] = values[i : i+1 : i+1]
		start = f.ends[i]
	}
}

// Headers calls set with each field that WriteHeaders would set. All values are parts of one text.
func (o *Outcome) Headers(now time.Time, opt HeaderOptions, set func(name, value string)) {
	var f fields
	text, start := o.render(&f, now, opt), 0
	for i := range f.n {
		set(f.keys[i], text[start:f.ends[i]])
		start = f.ends[i]
	}
}

// fields are the rendered header fields: their names, and the end of each value in one text. A
// value begins at the end of the one before.
type fields struct {
	keys [6]string
	ends [6]int
	n    int
}

// render fills f and returns the text of its values.
func (o *Outcome) render(f *fields, now time.Time, opt HeaderOptions) string {
	if o.N == 0 {
		return ""
	}
	var room [1024]byte
	b := room[:0]
	end := func(key string) {
		f.keys[f.n], f.ends[f.n] = key, len(b)
		f.n++
	}
	if shown := o.shown(); shown != nil && opt.X {
		b = strconv.AppendInt(b, shown.Limit, 10)
		end(HeaderLimit)
		b = strconv.AppendInt(b, shown.Remaining, 10)
		end(HeaderRemaining)
		b = strconv.AppendInt(b, reset(shown.Reset, now, opt.DeltaReset), 10)
		end(HeaderReset)
	}
	if after := o.RetryAfter(); after > 0 {
		b = strconv.AppendInt(b, int64(after/time.Second), 10)
		end(HeaderRetryAfter)
	}
	if opt.IETF {
		for i := range o.N {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = o.Standings[i].appendPolicy(b, now)
		}
		end(HeaderPolicy)
		for i := range o.N {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = o.Standings[i].appendItem(b)
		}
		end(HeaderRateLimit)
	}
	return string(b)
}

// shown returns the limit whose state the X-RateLimit-* headers show; nil if there is none.
func (o *Outcome) shown() *Standing {
	var best *Standing
	for i := range o.N {
		st := &o.Standings[i]
		if r := st.Policy.Reason(); r != Rate && r != Quota {
			continue
		}
		if best == nil || st.before(best) {
			best = st
		}
	}
	return best
}

// before reports whether the X-RateLimit-* headers show st in preference to other.
func (st *Standing) before(other *Standing) bool {
	switch {
	case st.Denied != other.Denied:
		return st.Denied
	case st.Denied && st.Retry != other.Retry:
		return st.Retry > other.Retry
	case !st.Denied && st.Remaining != other.Remaining:
		return st.Remaining < other.Remaining
	}
	return st.Policy.span() > other.Policy.span()
}

// span returns the policy's window in seconds, to compare policies; a month counts as 30 days.
func (p *Policy) span() int64 {
	if p.Kind == Quota && p.Calendar == Month {
		return int64(30 * day / time.Second)
	}
	return p.describedPart().window
}

// reset returns now+d in Unix seconds. If delta is true, it returns d in seconds. Both are rounded up.
func reset(d time.Duration, now time.Time, delta bool) int64 {
	if delta {
		return seconds(d)
	}
	at := now.Add(d)
	if at.Nanosecond() > 0 {
		return at.Unix() + 1
	}
	return at.Unix()
}

// appendPolicy appends the policy's member of RateLimit-Policy.
func (st *Standing) appendPolicy(b []byte, now time.Time) []byte {
	p := st.Policy
	b = append(b, p.describedPart().item...)
	switch {
	case p.Kind == Credits:
		b = strconv.AppendInt(b, sfv.Integer(st.Limit), 10)
	case p.Kind == Quota && p.Calendar == Month:
		b = strconv.AppendInt(append(b, ";w="...), monthLength(now), 10)
	}
	return b
}

// monthLength returns the number of seconds in the UTC month of now.
func monthLength(now time.Time) int64 {
	y, m, _ := now.UTC().Date()
	return int64(time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day()) * int64(day/time.Second)
}

// appendItem appends the policy's member of RateLimit.
func (st *Standing) appendItem(b []byte) []byte {
	p := st.Policy
	b = append(b, p.describedPart().quoted...)
	b = strconv.AppendInt(append(b, ";r="...), sfv.Integer(st.Remaining), 10)
	switch {
	case p.Reason() == Credits:
		// The time of the next top-up is unknown.
	case st.Denied:
		b = strconv.AppendInt(append(b, ";t="...), seconds(st.Retry), 10)
	case p.Kind != Concurrency:
		b = strconv.AppendInt(append(b, ";t="...), seconds(st.Reset), 10)
	}
	return b
}
