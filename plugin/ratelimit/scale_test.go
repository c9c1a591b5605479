package ratelimit

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

// checkScale compares a rate's integers with the rate: they are never more generous and hardly
// stricter, and their sums are exact in a float64.
func checkScale(t *testing.T, p *Policy) {
	t.Helper()
	s := newScale(p)
	if s.each < 1 || s.perMicro < 1 || s.depth < s.each || s.depth > maxDepth || s.depth%s.each != 0 {
		t.Fatalf("%s: %+v", p, *s)
	}
	// each/perMicro microseconds per token must be at least period/limit, and hardly more.
	exact := big.NewRat(int64(p.Period), p.Limit*1000)
	got := big.NewRat(s.each, s.perMicro)
	if got.Cmp(exact) < 0 {
		t.Fatalf("%s: a token costs %s µs, less than %s", p, got.FloatString(9), exact.FloatString(9))
	}
	if more := new(big.Rat).Sub(got, exact); more.Cmp(big.NewRat(1, s.perMicro)) > 0 {
		t.Fatalf("%s: a token costs %s µs too much", p, more.FloatString(12))
	}
	if tokens := s.depth / s.each; tokens > p.Burst || tokens < p.Burst && s.perMicro > 1 {
		t.Fatalf("%s: a bucket of %d tokens", p, tokens)
	}
	for _, d := range []time.Duration{time.Microsecond, time.Second, time.Hour} {
		if u := s.units(d); u < maxDepth && s.duration(u) != d {
			t.Fatalf("%s: %s is %d units, which are %s", p, d, u, s.duration(u))
		}
	}
}

func TestScale(t *testing.T) {
	for _, text := range []string{
		"60/m", "7/s", "10000/m burst 1", "1000000000000/1ms burst 1000000000000", "1/366d", "1000000000000/s", "1/1ms", "1/366d burst 1000000000000",
		"999983/d", "3/1.5s burst 1000000", "1000000/d",
	} {
		checkScale(t, rates(t, text)[0])
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		log := func(most int64) int64 { return r.Int64N(int64(1)<<r.Int64N(41)%most) + 1 }
		checkScale(t, newPolicy(Policy{Kind: Rate, Limit: log(MaxLimit), Burst: log(MaxLimit), Name: "x",
			Period: min(MinPeriod+time.Duration(r.Int64N(int64(1)<<r.IntN(55))), MaxPeriod)}))
	}
	s := newScale(rates(t, "60/m")[0])
	if want := int64(1e6) * s.perMicro; s.each != want || s.depth != 60*want {
		t.Errorf("60/m is not exact: %+v", *s)
	}
}

// A debt converted to another rate is the same number of tokens.
func TestScaleConverts(t *testing.T) {
	for _, c := range []struct {
		from, to    string
		spent, want int64
	}{
		{"60/m", "60/m", 17, 17}, {"60/m", "300/m", 60, 60}, {"300/m", "60/m", 200, 60}, {"7/s", "1000/d", 5, 5}, {"10/h", "10000/m burst 3", 2, 2},
	} {
		a, b := newScale(rates(t, c.from)[0]), newScale(rates(t, c.to)[0])
		if got := b.convert(a, c.spent*a.each); got < c.want*b.each || got > c.want*b.each+1 {
			t.Errorf("%d of %s are %d units of %s, not %d", c.spent, c.from, got, c.to, c.want*b.each)
		}
	}
}

// Held tokens are used once, before they expire, or else become unused ones to return.
func TestPoolLots(t *testing.T) {
	now := time.Now()
	p := &pool{scale: newScale(rates(t, "1000/m")[0])}
	p.put(now, 2, now.Add(time.Second), 1)
	p.put(now, 3, now.Add(2*time.Second), 2)
	p.put(now, 1, now.Add(3*time.Second), 3) // There are two lots, so these tokens join the second one.
	for range 3 {
		if !p.take(now) {
			t.Fatal("no token is held")
		}
	}
	if n := p.held(now); n != 3 {
		t.Errorf("%d held, not 3", n)
	}
	later := now.Add(2 * time.Second)
	if p.take(later) || p.held(later) != 0 {
		t.Error("an expired token was taken")
	}
	p.expire(later)
	if p.unused.n != 3 || p.unused.from != 2 || !p.holdsTokens() {
		t.Errorf("unused: %+v", p.unused)
	}
}

// A node's share of the rest of a quota is at least one request, and can be used up.
func TestQuotaShare(t *testing.T) {
	for _, c := range []struct {
		used, mine, limit, cost, nodes int64
		over                           bool
	}{
		{0, 0, 100, 1, 5, false}, {19, 19, 100, 1, 5, false}, {20, 20, 100, 1, 5, true}, {100, 0, 100, 1, 1, true}, {99, 0, 100, 1, 9, false},
		{100, 1, 100, 1, 9, true}, {0, 0, 10, 10, 5, false}, {10, 10, 10, 1, 5, true}, {95, 0, 100, 10, 1, true}, {100, 0, 100, 0, 1, false},
	} {
		counter := &counter{used: c.used, lease: &lease{carry: c.mine}}
		if over := counter.overShare(c.limit, c.cost, c.nodes); over != c.over {
			t.Errorf("%+v: %v", c, over)
		}
	}
}
