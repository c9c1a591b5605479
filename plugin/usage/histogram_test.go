package usage

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A quantile is off by a factor of at most 2^(1/8), and merged histograms equal one of all
// durations.
func TestHistogramQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h, parts Histogram
	var all []time.Duration
	for range 10 {
		var part Histogram
		for range 2000 {
			d := time.Duration(math.Exp(r.Float64()*math.Log(1e5)) * float64(20*time.Microsecond)) // from 20 µs to 2 s
			all = append(all, d)
			h.Add(d)
			part.Add(d)
		}
		parts.Merge(&part)
	}
	if parts != h {
		t.Error("the merged histograms differ from one of all durations")
	}
	slices.Sort(all)
	most := math.Exp2(1.0/8) + 1e-6
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		got, ok := h.Quantile(q)
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		if off := float64(got) / float64(want); !ok || off > most || off < 1/most {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

func TestHistogramBins(t *testing.T) {
	last := -1
	for exp := 0.0; exp < 62; exp += 0.01 {
		i := binOf(time.Duration(math.Exp2(exp)))
		if i < last || i > last+1 {
			t.Fatalf("2^%v ns is in bin %d, after %d", exp, i, last)
		}
		last = i
	}
	if last != Bins-1 {
		t.Errorf("the last bin is %d", last)
	}
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1} {
		if i := binOf(d); i != 0 {
			t.Errorf("%v is in bin %d", d, i)
		}
	}
	for i := range Bins {
		if got := binOf(middle(i)); got != i {
			t.Errorf("the middle of bin %d is in %d", i, got)
		}
	}
	var h Histogram
	if _, ok := h.Quantile(0.5); ok {
		t.Error("an empty histogram has a quantile")
	}
	h[3] = math.MaxUint32
	h.Add(middle(3))
	h.Merge(&Histogram{3: 1})
	if h[3] != math.MaxUint32 {
		t.Error("a count overflowed")
	}
}

func FuzzHistogramUnmarshal(f *testing.F) {
	for _, h := range []Histogram{{}, {0: 1}, {95: math.MaxUint32}, {1: 5, 2: 6, 90: 7}} {
		b, _ := h.AppendBinary(nil)
		f.Add(b)
	}
	f.Add([]byte{1, 95, 1, 0, 1})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again Histogram
		if h.UnmarshalBinary(b) != nil {
			return
		}
		out, err := h.AppendBinary(nil)
		if err != nil || again.UnmarshalBinary(out) != nil || again != h {
			t.Errorf("%x became another histogram: %v", b, err)
		}
	})
}
