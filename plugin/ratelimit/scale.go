package ratelimit

import (
	"math"
	"math/bits"
	"strconv"
	"time"
)

// A bucket that several machines share is counted by the generic cell rate algorithm
// (ITU-T I.371) in whole numbers: what was spent of it is a debt, every token adds to it, and
// time pays it off. Whole numbers never drift, however many machines add to them and in whatever
// order, and a script in Redis, whose only numbers are float64, keeps them exact below 2^53.

// maxDepth bounds a bucket in units, so that no sum comes near 2^53.
const maxDepth = 1 << 51

// maxShift bounds how finely a microsecond is divided.
const maxShift = 30

// scale says how a rate is counted in whole units.
type scale struct {
	// perMicro is how many units a microsecond pays off: a power of two.
	perMicro int64
	// each is what one token costs, rounded up: a limit that can't be divided exactly
	// comes out smaller, by less than one part in 2^51/Burst.
	each int64
	// depth is what a bucket of Burst tokens holds.
	depth int64
	// sign identifies this way of counting: "period:limit:burst:each:perMicro".
	sign string
}

// newScale returns the scale of a rate.
func newScale(p *Policy) *scale {
	limit, burst, period := max(p.Limit, 1), max(p.Burst, 1), max(p.Period, 1)
	micros := float64(burst) * float64(period) / 1000 / float64(limit)
	shift := min(max(int(math.Floor(51-math.Log2(max(micros, 1)))), 0), maxShift)
	var each int64
	for {
		each = costOf(period, limit, uint(shift))
		if hi, lo := bits.Mul64(uint64(each), uint64(burst)); hi == 0 && lo <= maxDepth || shift == 0 {
			break
		}
		shift--
	}
	s := &scale{perMicro: 1 << shift, each: min(each, maxDepth)}
	s.depth = s.each * min(burst, maxDepth/s.each)
	b := strconv.AppendInt(nil, int64(period/time.Microsecond), 10)
	for _, n := range []int64{limit, burst, s.each, s.perMicro} {
		b = strconv.AppendInt(append(b, ':'), n, 10)
	}
	s.sign = string(b)
	return s
}

// costOf returns what one token of limit per period costs, in 2^-shift microseconds, rounded up.
func costOf(period time.Duration, limit int64, shift uint) int64 {
	hi, lo := bits.Mul64(uint64(period), 1<<shift)
	// Both bounds of a policy keep the divisor above hi: 366 days << 30 is below 2^85, and where
	// limit is small the shift is, too.
	div := uint64(limit) * 1000
	if hi >= div {
		return math.MaxInt64
	}
	q, r := bits.Div64(hi, lo, div)
	if r > 0 {
		q++
	}
	return int64(max(min(q, math.MaxInt64), 1))
}

// units returns what d pays off.
func (s *scale) units(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	us := int64(d / time.Microsecond)
	if us > maxDepth/s.perMicro {
		return maxDepth
	}
	return us * s.perMicro
}

// duration returns how long it takes to pay units off, rounded up.
func (s *scale) duration(units int64) time.Duration {
	if units <= 0 {
		return 0
	}
	us := (units-1)/s.perMicro + 1
	if us > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(us) * time.Microsecond
}

// convert returns, in s, what debt in the old scale comes to: the same number of tokens, at
// most a whole bucket.
func (s *scale) convert(old *scale, debt int64) int64 {
	if debt <= 0 {
		return 0
	}
	spent := math.Ceil(float64(debt) / float64(old.each) * float64(s.each))
	return int64(min(spent, float64(s.depth)))
}
