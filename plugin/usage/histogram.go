package usage

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"time"
)

// Bins is the number of bins of a Histogram.
const Bins = 96

// The first bin ends at 2^firstBits ns, 16 µs; the last one begins at about 195 s. Between them,
// perDoubles bins cover a doubling of the duration.
const (
	firstBits  = 14
	perDoubles = 4
)

// Histogram counts durations in bins, each 2^(1/4) times as wide as the one before. Histograms of different times and
// keys can be merged without loss. The error of a quantile is at most 2^(1/8), about 9 %, for durations between
// 16 µs and 195 s. Counts do not overflow: they stay at their largest value.
type Histogram [Bins]uint32

// steps are 2^(1/4), 2^(1/2) and 2^(3/4) as 64-bit mantissas whose first bit is 1.
var steps = [perDoubles - 1]uint64{
	uint64(math.Exp2(0.25) * (1 << 63)), uint64(math.Exp2(0.5) * (1 << 63)), uint64(math.Exp2(0.75) * (1 << 63)),
}

// binOf returns the bin of a duration.
func binOf(d time.Duration) int {
	if d < 1<<firstBits {
		return 0
	}
	length := bits.Len64(uint64(d))
	mantissa := uint64(d) << (64 - length)
	i := 1 + (length-1-firstBits)*perDoubles
	for _, s := range steps {
		if mantissa >= s {
			i++
		}
	}
	return min(i, Bins-1)
}

// Add counts one duration. It does not allocate.
func (h *Histogram) Add(d time.Duration) {
	if i := binOf(d); h[i] != math.MaxUint32 {
		h[i]++
	}
}

// Merge adds the counts of o.
func (h *Histogram) Merge(o *Histogram) {
	for i, n := range o {
		if h[i] > math.MaxUint32-n {
			h[i] = math.MaxUint32
			continue
		}
		h[i] += n
	}
}

// Quantile returns the duration that the fraction q (0 to 1) of the counted durations do not exceed; false where none
// was counted. The result is the geometric mean of the bounds of its bin.
func (h *Histogram) Quantile(q float64) (time.Duration, bool) {
	var total uint64
	for _, n := range h {
		total += uint64(n)
	}
	if total == 0 {
		return 0, false
	}
	rank := uint64(math.Ceil(q * float64(total)))
	rank = min(max(rank, 1), total)
	for i, n := range h {
		if uint64(n) >= rank {
			return middle(i), true
		}
		rank -= uint64(n)
	}
	return 0, false // not reached: the counts add up to total
}

// middle returns the duration that represents a bin.
func middle(i int) time.Duration {
	switch i {
	case 0:
		return 1 << (firstBits - 1)
	case Bins - 1:
		return time.Duration(math.Ceil(math.Exp2(firstBits + float64(i-1)/perDoubles)))
	}
	return time.Duration(math.Exp2(firstBits + (float64(i-1)+0.5)/perDoubles))
}

// histogramForm is the first byte of the binary form. Then follow, for each bin that is not empty, the number of empty
// bins before it and its count, both as unsigned varints of encoding/binary.
const histogramForm = 1

// AppendBinary implements encoding.BinaryAppender. It never fails, and appends nothing for a histogram without counts.
func (h *Histogram) AppendBinary(b []byte) ([]byte, error) {
	skipped, begun := uint64(0), false
	for _, n := range h {
		if n == 0 {
			skipped++
			continue
		}
		if !begun {
			b, begun = append(b, histogramForm), true
		}
		b = binary.AppendUvarint(b, skipped)
		b = binary.AppendUvarint(b, uint64(n))
		skipped = 0
	}
	return b, nil
}

var errHistogram = errors.New("a stored histogram is damaged")

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (h *Histogram) UnmarshalBinary(b []byte) error {
	*h = Histogram{}
	if len(b) == 0 {
		return nil
	}
	if b[0] != histogramForm {
		return errHistogram
	}
	b = b[1:]
	for i := uint64(0); len(b) > 0; i++ {
		skip, n := binary.Uvarint(b)
		if n <= 0 || skip >= Bins {
			return errHistogram
		}
		b = b[n:]
		count, n := binary.Uvarint(b)
		if n <= 0 || count > math.MaxUint32 {
			return errHistogram
		}
		b = b[n:]
		if i += skip; i >= Bins {
			return errHistogram
		}
		h[i] = uint32(count)
	}
	return nil
}
