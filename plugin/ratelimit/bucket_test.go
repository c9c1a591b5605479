package ratelimit

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

var epoch = time.Date(2024, 2, 10, 12, 0, 0, 0, time.UTC)

// billOf returns a bill with the policies bound to its key.
func billOf(s *Subject, policies ...*Policy) *Bill {
	return &Bill{Cost: 1, Key: Party{Subject: s, Lines: s.Bind(1, FromPlan, policies)}}
}

func charge(t testing.TB, b *Bill, now time.Time) *Outcome {
	t.Helper()
	var o Outcome
	if err := NewLocal().Charge(context.Background(), now, b, &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

func peek(t testing.TB, b *Bill, now time.Time) *Outcome {
	t.Helper()
	var o Outcome
	if err := NewLocal().Peek(context.Background(), now, b, &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

// drain charges until a charge is denied, and returns how many passed.
func drain(t testing.TB, b *Bill, now time.Time) (passed int64, o *Outcome) {
	t.Helper()
	for {
		if o = charge(t, b, now); o.Denied {
			return passed, o
		}
		NewLocal().Release(b)
		passed++
	}
}

var manyRates = []string{
	"1/1ms", "7/1ms burst 3", "100000/s burst 50", "99999/s burst 7", "333/s", "10/s", "3/s burst 1", "100/2s", "60/m", "61/m burst 2",
	"300/m burst 60", "7/1h30m", "5000/12h burst 100", "1/24h", "1/d", "3/7d", "1/366d", "7/366d", "1000000/366d burst 5",
	"1000000/s burst 10",
}

// A denied request passes at now+Retry, and is still denied well before.
func TestRetryIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, text := range manyRates {
		p := rates(t, text)[0]
		b := billOf(NewSubject("k:t:"+text), p)
		each := float64(p.Period) / float64(p.Limit)
		now := epoch
		for i := range 300 {
			_, o := drain(t, b, now)
			st := o.Standings[0]
			if o.Kind != Rate || !st.Denied || st.Remaining != 0 || st.Retry <= 0 {
				t.Fatalf("%s: %+v", text, o)
			}
			if float64(st.Retry) > each*1.000001+100 {
				t.Fatalf("%s: retry after %v, a token takes %v", text, st.Retry, time.Duration(each))
			}
			// Retry may be later than necessary by the rounding of x/time/rate: at most a
			// millisecond.
			if early := st.Retry - min(time.Millisecond, st.Retry/100) - 20; early > 0 && !peek(t, b, now.Add(early)).Denied {
				t.Fatalf("%s: %d: passes after %v, before its retry of %v", text, i, early, st.Retry)
			}
			if got := peek(t, b, now.Add(st.Retry)); got.Denied || got.Standings[0].Remaining < 1 {
				t.Fatalf("%s: %d: after its own retry of %v: %+v", text, i, st.Retry, got.Standings[0])
			}
			full := now.Add(st.Reset)
			if got := peek(t, b, full).Standings[0]; got.Remaining != got.Limit || got.Reset > 10 {
				t.Fatalf("%s: not full after its reset of %v: %+v", text, st.Reset, got)
			}
			if st.Reset > 0 && p.Burst > 1 && peek(t, b, now.Add(st.Reset/2)).Standings[0].Reset == 0 {
				t.Fatalf("%s: full at half its reset of %v", text, st.Reset)
			}
			now = now.Add(st.Retry)
			if i%3 == 0 {
				// At random times the bucket holds fractions of tokens.
				now = now.Add(time.Duration(r.Int64N(int64(each*3) + 2)))
			}
			if charge(t, b, now).Denied {
				t.Fatalf("%s: denied after its retry", text)
			}
			NewLocal().Release(b)
		}
	}
}

// In any time t, at most burst + rate × t requests pass, and nearly that many do.
func TestRateIsKept(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, text := range manyRates {
		p := rates(t, text)[0]
		b := billOf(NewSubject("k:t"), p)
		each := float64(p.Period) / float64(p.Limit)
		passed, offered, now := 0.0, 0, epoch
		for now.Sub(epoch) < 200*366*day && offered < 3000 {
			offered++
			if !charge(t, b, now).Denied {
				NewLocal().Release(b)
				passed++
			}
			now = now.Add(time.Duration(r.Float64() * each * 1.5))
			may := float64(p.Burst) + now.Sub(epoch).Seconds()*p.fixed.perSecond
			if passed > may+1e-6+p.fixed.perSecond/1e9 {
				t.Fatalf("%s: %v passed in %v, at most %v may", text, passed, now.Sub(epoch), may)
			}
		}
		// Requests come at 4/3 of the rate, so at least nine tenths of the allowed number pass.
		if may := now.Sub(epoch).Seconds() * p.fixed.perSecond; p.Burst > 1 && passed < may*0.9 {
			t.Errorf("%s: only %v passed of %v", text, passed, may)
		}
	}
}

// passes predicts the result of AllowN in every case. A wrong prediction would charge the other
// lines of a bill for a denied request.
func TestPassesPredictsTheBucket(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, text := range append(manyRates, "1000000000000/1ms burst 10", "999999999999/s") {
		m := newMeter(rates(t, text)[0])
		each, now := float64(m.policy.Period)/float64(m.policy.Limit), epoch
		for range 20_000 {
			if want, got := m.passes(m.bucket.TokensAt(now)), m.bucket.AllowN(now, 1); want != got {
				t.Fatalf("%s: predicted %v, but AllowN returned %v", text, want, got)
			}
			now = now.Add(time.Duration(r.Float64() * each * 1.2))
		}
	}
}

func TestRateDeniesBeyondBurst(t *testing.T) {
	b := billOf(NewSubject("k:t"), rates(t, "60/m")...)
	for i := range int64(60) {
		o := charge(t, b, epoch)
		st := o.Standings[0]
		if o.Denied || st.Limit != 60 || st.Remaining != 59-i || st.Reset != time.Duration(i+1)*time.Second {
			t.Fatalf("%d: %+v", i, st)
		}
	}
	o := charge(t, b, epoch)
	if st := o.Standings[0]; !o.Denied || o.Kind != Rate || st.Remaining != 0 || st.Retry != time.Second || st.Reset != time.Minute {
		t.Errorf("%+v", o.Standings[0])
	}
}

// A charge with an earlier now mints no tokens, and its Retry is relative to that now.
func TestTimeDoesNotGoBack(t *testing.T) {
	b := billOf(NewSubject("k:t"), rates(t, "60/m")...)
	if n, _ := drain(t, b, epoch); n != 60 {
		t.Fatal(n)
	}
	for i := range 100 {
		now := epoch.Add(-time.Duration(i) * time.Minute)
		o := charge(t, b, now)
		if !o.Denied {
			t.Fatalf("passed %v earlier", time.Duration(i)*time.Minute)
		}
		if st := o.Standings[0]; st.Retry != epoch.Sub(now)+time.Second || st.Reset != epoch.Sub(now)+time.Minute {
			t.Fatalf("retry %v, reset %v", st.Retry, st.Reset)
		}
		if o := charge(t, b, epoch); !o.Denied {
			t.Fatal("an earlier charge minted a token")
		}
	}
}

func TestCarryOver(t *testing.T) {
	for _, tt := range []struct {
		name       string
		old, new   string
		spend      int
		after      time.Duration
		wantBefore []int64
		want       []int64
	}{
		{"larger", "60/m", "300/m", 40, 0, []int64{20}, []int64{260}},
		{"smaller", "300/m", "60/m", 40, 0, []int64{260}, []int64{20}},
		{"smaller than the spent tokens", "300/m", "60/m", 100, 0, []int64{200}, []int64{0}},
		{"same", "60/m", "60/m", 40, 0, []int64{20}, []int64{20}},
		{"burst alone", "300/m burst 60", "300/m burst 10", 5, 0, []int64{55}, []int64{5}},
		{"another period, by position", "60/m", "1000/h", 40, 0, []int64{20}, []int64{960}},
		{"the same period first", "10/s, 60/m", "120/m, 20/s", 5, 0, []int64{5, 55}, []int64{115, 15}},
		{"a new rate is full", "60/m", "10/s, 60/m", 5, 0, []int64{55}, []int64{10, 55}},
		{"one is removed", "10/s, 60/m", "60/m", 5, 0, []int64{5, 55}, []int64{55}},
		{"the rest in order", "60/m, 10/s", "10/s, 5000/h", 5, 0, []int64{55, 5}, []int64{5, 4995}},
		{"two of one period keep their own", "300/m burst 9, 60/m", "60/m, 300/m burst 9", 5, 0, []int64{4, 55}, []int64{55, 4}},
		{"none to none", "", "", 3, 0, nil, nil},
		{"none to some", "", "60/m", 3, 0, nil, []int64{60}},
		{"regained tokens are not spent", "86400/d", "60/m", 100, 70 * time.Second, []int64{86370}, []int64{30}},
	} {
		s := NewSubject("k:t")
		b := billOf(s, rates(t, tt.old)...)
		for range tt.spend {
			if charge(t, b, epoch).Denied {
				t.Fatal(tt.name)
			}
			NewLocal().Release(b)
		}
		now := epoch.Add(tt.after)
		check := func(when string, b *Bill, want []int64) {
			t.Helper()
			o := peek(t, b, now)
			if o.N != len(want) {
				t.Fatalf("%s: %s: %d lines, want %d", tt.name, when, o.N, len(want))
			}
			for i, w := range want {
				if got := o.Standings[i].Remaining; got != w {
					t.Errorf("%s: %s: %s has %d left, want %d", tt.name, when, o.Standings[i].Policy, got, w)
				}
			}
		}
		check("before", b, tt.wantBefore)
		b2 := &Bill{Cost: 1, Key: Party{Subject: s, Lines: s.Bind(2, FromPlan, rates(t, tt.new))}}
		for range 3 {
			check("after", b2, tt.want)
			s.Bind(2, FromPlan, rates(t, tt.new))
			s.Bind(1, FromPlan, rates(t, tt.old))
		}
		if passed, o := int64(0), (*Outcome)(nil); len(tt.want) == 1 {
			if passed, o = drain(t, b2, now); passed != tt.want[0] {
				t.Errorf("%s: %d passed, want %d: %+v", tt.name, passed, tt.want[0], o.Standings[0])
			}
		}
	}
}

func TestBind(t *testing.T) {
	s := NewSubject("k:t")
	old := billOf(s, rates(t, "60/m")...)
	charge(t, old, epoch)
	if again := s.Bind(1, FromPlan, rates(t, "60/m")); &again[0] != &old.Key.Lines[0] {
		t.Error("equal policies at an equal epoch gave other lines")
	}
	if again := s.Bind(5, FromPlan, rates(t, "60/m")); &again[0] != &old.Key.Lines[0] {
		t.Error("equal policies at a later epoch gave other lines")
	}
	// Lines from before the change count in the same buckets as the lines from after it.
	lines := s.Bind(6, FromPlan, rates(t, "30/m"))
	if st := charge(t, old, epoch).Standings[0]; st.Policy.Name != "30/m" || st.Limit != 30 || st.Remaining != 28 {
		t.Errorf("%+v", st)
	}
	// A Bind with an older epoch changes nothing.
	if got := s.Bind(5, FromPlan, rates(t, "1000/m")); &got[0] != &lines[0] {
		t.Error("an older epoch was bound")
	}
	// A change that was replaced before any charge has no effect.
	s.Bind(7, FromPlan, rates(t, "1/m"))
	s.Bind(8, FromPlan, rates(t, "30/m"))
	if st := peek(t, old, epoch).Standings[0]; st.Remaining != 28 || st.Limit != 30 {
		t.Errorf("%+v", st)
	}
	// The sets of different origins are independent.
	own := s.Bind(1, FromKey, rates(t, "5/m"))
	b := &Bill{Cost: 1, Key: Party{Subject: s, Lines: append(append([]Line(nil), lines...), own...)}}
	if o := charge(t, b, epoch); o.N != 2 || o.Standings[0].Remaining != 27 || o.Standings[1].Remaining != 4 {
		t.Errorf("%+v", o.Standings[:2])
	}
	policies := rates(t, "30/m")
	if n := testing.AllocsPerRun(100, func() { s.Bind(9, FromPlan, policies) }); n != 0 {
		t.Errorf("binding the same allocates %v times", n)
	}
}

func TestReset(t *testing.T) {
	s := NewSubject("k:t")
	s.UsageLoaded()
	policies := append(rates(t, "10/m, 20/h"), testkit.Must[*Policy](t)(ParseQuota("30/day per key")))
	b := billOf(s, policies...)
	left := func() (n [3]int64) {
		for i := range n {
			n[i] = peek(t, b, epoch).Standings[i].Remaining
		}
		return n
	}
	spend := func() {
		for range 5 {
			charge(t, b, epoch)
		}
	}
	spend()
	if got := left(); got != [3]int64{5, 15, 25} {
		t.Fatal(got)
	}
	s.Reset(epoch, "20/h")
	if got := left(); got != [3]int64{5, 20, 25} {
		t.Error(got)
	}
	s.Flushed(s.Unflushed(nil))
	s.Reset(epoch, "30/day", "unknown")
	if got := left(); got != [3]int64{5, 20, 30} {
		t.Error(got)
	}
	if c := s.Unflushed(nil); len(c) != 1 || c[0].Used != 0 {
		t.Errorf("the reset is not flushed: %v", c)
	}
	spend()
	s.Reset(epoch)
	if got := left(); got != [3]int64{10, 20, 30} {
		t.Error(got)
	}
	// A Reset without names also corrects counts whose time is in the future, because the clock had run ahead.
	charge(t, b, epoch.AddDate(1, 0, 0))
	s.Reset(epoch)
	charge(t, b, epoch)
	if st := peek(t, b, epoch).Standings; st[0].Reset != 6*time.Second || st[2].Reset != 12*time.Hour || st[2].Remaining != 29 {
		t.Errorf("%+v", st[:3])
	}
}
