package ratelimit

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
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

// maxSFInteger is the largest integer of RFC 9651, section 3.3.1.
const maxSFInteger = 999_999_999_999_999

// HeaderOptions says which headers are written. The zero value writes Retry-After alone.
type HeaderOptions struct {
	// X writes X-RateLimit-Limit, -Remaining and -Reset, as GitHub made them common.
	X bool
	// IETF writes RateLimit-Policy and RateLimit, by
	// draft-ietf-httpapi-ratelimit-headers-11.
	IETF bool
	// DeltaReset writes X-RateLimit-Reset as seconds from now instead of Unix seconds.
	DeltaReset bool
}

// WriteHeaders sets in h what o says, replacing what stands there. Nothing is written where
// no policy applies, and no X- header where no rate or quota does. now is that of the charge.
//
// The X- family shows one rate or quota: the one that refused (of several, the one
// with the longest wait), else the one with the fewest requests left (of several, the one
// with the longer window). RateLimit-Policy and RateLimit list every policy; a bucket's q
// is its size and w how many seconds it takes to give that many again, so that q per w is the sustained rate.
// Retry-After is written as RetryAfter says.
//
// It makes two allocations however many headers there are: one text that all values are
// cut from, and one array of them. Neither is shared with another request.
func (o *Outcome) WriteHeaders(h http.Header, now time.Time, opt HeaderOptions) {
	var f fields
	text := o.render(&f, now, opt)
	if f.n == 0 {
		return
	}
	values, start := make([]string, f.n), 0
	for i := range f.n {
		values[i] = text[start:f.ends[i]]
		// Capped: what another handler appends must not run into the next value.
		h[f.keys[i]] = values[i : i+1 : i+1]
		start = f.ends[i]
	}
}

// Headers calls set with each field that WriteHeaders would set. All values are cut from one text.
func (o *Outcome) Headers(now time.Time, opt HeaderOptions, set func(name, value string)) {
	var f fields
	text, start := o.render(&f, now, opt), 0
	for i := range f.n {
		set(f.keys[i], text[start:f.ends[i]])
		start = f.ends[i]
	}
}

// fields are the header fields that were rendered: their names, and where in one text
// the value of each ends, which is where the next begins.
type fields struct {
	keys [6]string
	ends [6]int
	n    int
}

// render fills f, and returns the text of its values.
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

// shown returns the standing that the X- family shows, nil where there is none.
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

// before reports whether st tells a client more than the other.
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

// span orders policies by their window.
func (p *Policy) span() int64 {
	if p.Kind == Quota && p.Calendar == Month {
		return int64(30 * day / time.Second)
	}
	return p.describedPart().window
}

// reset returns when now+d is in Unix seconds, or d, in seconds, rounded up.
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
		b = strconv.AppendInt(b, integer(st.Limit), 10)
	case p.Kind == Quota && p.Calendar == Month:
		b = strconv.AppendInt(append(b, ";w="...), monthLength(now), 10)
	}
	return b
}

// month is a month's beginning and end, in Unix seconds.
type month struct{ start, end int64 }

// lastMonth is the month that monthLength was asked for last.
var lastMonth atomic.Pointer[month]

// monthLength returns how many seconds the month has that now is in.
func monthLength(now time.Time) int64 {
	m, at := lastMonth.Load(), now.Unix()
	if m == nil || at < m.start || at >= m.end {
		m = &month{Month.Start(now).Unix(), Month.End(now).Unix()}
		lastMonth.Store(m)
	}
	return m.end - m.start
}

// appendItem appends the policy's member of RateLimit.
func (st *Standing) appendItem(b []byte) []byte {
	p := st.Policy
	b = append(b, p.describedPart().quoted...)
	b = strconv.AppendInt(append(b, ";r="...), integer(st.Remaining), 10)
	switch {
	case p.Reason() == Credits:
		// Nobody knows when there will be more.
	case st.Denied:
		b = strconv.AppendInt(append(b, ";t="...), seconds(st.Retry), 10)
	case p.Kind != Concurrency:
		b = strconv.AppendInt(append(b, ";t="...), seconds(st.Reset), 10)
	}
	return b
}

// integer clamps n to what both headers take: a non-negative integer of RFC 9651.
func integer(n int64) int64 { return min(max(n, 0), maxSFInteger) }

// appendString appends s as a string of RFC 9651, section 3.3.3. What such a string
// can't hold becomes an underscore.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = append(b, '_')
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
