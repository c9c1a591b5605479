package ratelimit

import (
	"math"
	"math/bits"
	"strconv"
	"time"
)

// A shared bucket uses the generic cell rate algorithm (ITU-T I.371) with integers: tokens taken
// are a debt in units, which time pays off. Integers do not drift, in whatever order processes add
// to them. A Redis script, whose numbers are float64, keeps them exact below 2^53.

// maxDepth bounds a bucket's units, so that sums stay below 2^53.
const maxDepth = 1 << 51

// maxShift bounds how finely a microsecond is divided.
const maxShift = 30

// scale is the unit in which a shared rate is counted.
type scale struct {
	// perMicro is the number of units that a microsecond pays off: a power of two.
	perMicro int64
	// each is the cost of one token, rounded up. The rounding makes a limit smaller by less than
	// one part in 2^51/Burst.
	each int64
	// depth is the debt of an empty bucket: Burst tokens.
	depth int64
	// sign identifies the rate and its unit: "period:limit:burst:each:perMicro".
	sign string
}

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

// costOf returns the cost of one token of limit per period, in 2^-shift microseconds, rounded up.
func costOf(period time.Duration, limit int64, shift uint) int64 {
	hi, lo := bits.Mul64(uint64(period), 1<<shift)
	// The divisor stays above hi within a policy's bounds: 366 days << 30 is below 2^85, and a
	// small limit has a small shift.
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

// units returns the number of units that d pays off.
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

// duration returns the time that pays off units, rounded up.
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

// convert returns a debt in the old scale as the same number of tokens in s, at most a whole
// bucket.
func (s *scale) convert(old *scale, debt int64) int64 {
	if debt <= 0 {
		return 0
	}
	spent := math.Ceil(float64(debt) / float64(old.each) * float64(s.each))
	return int64(min(spent, float64(s.depth)))
}
