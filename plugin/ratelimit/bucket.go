package ratelimit

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

// meter is the token bucket of one rate of one subject, guarded by the subject's lock. When the
// policy changes, the same meter adopts the new one. So lines from before the change count in the
// same bucket as lines from after it.
type meter struct {
	policy *Policy
	bucket *rate.Limiter
	// next is the policy that replaces policy at the next use. Only the time of that use shows how many tokens were spent.
	next *Policy
	// pool is the state of the bucket that processes share; nil if only this process counts.
	pool *pool
}

func newMeter(p *Policy) *meter { return &meter{policy: p, bucket: newBucket(p)} }

func newBucket(p *Policy) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(p.describedPart().perSecond), int(min(p.Burst, math.MaxInt)))
}

// target returns the policy that counts at the next use.
func (m *meter) target() *Policy {
	if m.next != nil {
		return m.next
	}
	return m.policy
}

// applyNext puts a changed policy into effect: left = max(0, new burst − spent).
func (m *meter) applyNext(now time.Time) {
	p := m.next
	m.next = nil
	spent := float64(m.policy.Burst) - m.bucket.TokensAt(now)
	m.policy, m.bucket = p, newBucket(p)
	if spent = min(spent, float64(p.Burst)); spent <= 0 {
		return
	}
	// AllowN takes only whole tokens. So the next larger whole number is taken at an earlier time, chosen so that the bucket has
	// regained the difference by now.
	whole := math.Ceil(spent)
	m.bucket.AllowN(now.Add(-m.timeFor(whole-spent)), int(whole))
}

// refill makes the bucket full, under the newest policy.
func (m *meter) refill() {
	m.policy, m.next = m.target(), nil
	m.bucket = newBucket(m.policy)
	m.pool = nil
}

func (m *meter) full(now time.Time) bool {
	return m.bucket.TokensAt(now) >= float64(m.policy.Burst)
}

// passes reports whether AllowN(now, 1) would succeed if the bucket had that many tokens. It must be the same expression as
// in x/time/rate, which ignores a lack of tokens that less than a nanosecond refills. With another expression, one limit of
// a bill could be charged for a request that another limit denies.
func (m *meter) passes(tokens float64) bool {
	lack := -(tokens - 1)
	return lack <= 0 || time.Duration(lack/float64(m.bucket.Limit())*float64(time.Second)) <= 0
}

// timeFor returns how long the bucket takes to gain that many tokens, rounded up.
func (m *meter) timeFor(tokens float64) time.Duration {
	if tokens <= 0 {
		return 0
	}
	ns := math.Ceil(tokens / float64(m.bucket.Limit()) * float64(time.Second))
	if !(ns < math.MaxInt64) {
		return math.MaxInt64
	}
	return time.Duration(ns)
}

// retry returns how long after now a denied request would pass. The division may be a few
// nanoseconds short, because the bucket computes its tokens in another way; so retry checks the
// result with the bucket.
func (m *meter) retry(now time.Time, tokens float64) time.Duration {
	d := m.timeFor(1 - tokens)
	for step := time.Duration(1); step < time.Second && d < math.MaxInt64-step; step *= 2 {
		if m.passes(m.bucket.TokensAt(now.Add(d))) {
			break
		}
		d += step
	}
	return d
}

// fillStanding sets the state of a bucket that has that many tokens. late is how far the caller's clock is behind the clock
// of the subject; the client has to wait that much longer.
func (m *meter) fillStanding(st *Standing, tokens float64, late time.Duration) {
	left := max(0, math.Floor(tokens+1e-9))
	if left <= 1 && tokens > 0 {
		// If about one token is left, the exact test of a charge decides instead of rounding.
		left = 0
		if m.passes(tokens) {
			left = 1
		}
	}
	st.Policy = m.policy
	st.Limit = m.policy.Burst
	st.Remaining = min(int64(left), st.Limit)
	st.Reset = m.timeFor(float64(st.Limit) - tokens)
	if st.Reset > 0 && st.Reset < math.MaxInt64-late {
		st.Reset += late
	}
}
