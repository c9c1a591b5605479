package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// modelBucket is an exact token bucket for comparison. It counts tokens × period/limit in whole nanoseconds.
type modelBucket struct {
	each, level, size int64
	last              time.Time
}

func (m *modelBucket) at(now time.Time) int64 {
	m.level = min(m.size, m.level+int64(now.Sub(m.last)))
	m.last = now
	return m.level / m.each
}

// Random bills agree with a simple model: a denied bill takes nothing, an allowed one takes from
// all lines, and the outcome shows what is left.
func TestAllOrNothing(t *testing.T) {
	ctx, l := context.Background(), NewLocal()
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		var subjects [3]*Subject
		var parties [3]Party
		var buckets [3][]*modelBucket
		var used, quota, slots, live [3]int64
		now := epoch
		for i := range subjects {
			s := NewSubject("x")
			s.UsageLoaded()
			var ps []*Policy
			for range r.IntN(3) {
				p := rates(t, []string{"60/m", "10/s burst 3", "1000/h burst 20", "2/s"}[r.IntN(4)])[0]
				ps = append(ps, p)
				each := int64(p.Period) / p.Limit
				buckets[i] = append(buckets[i], &modelBucket{each, p.Burst * each, p.Burst * each, now})
			}
			if r.IntN(2) == 0 {
				quota[i] = r.Int64N(60) + 1
				ps = append(ps, newPolicy(Policy{Kind: Quota, Calendar: Month, Limit: quota[i], Name: "q"}))
			}
			if r.IntN(2) == 0 {
				slots[i] = r.Int64N(4) + 1
				ps = append(ps, newPolicy(Policy{Kind: Concurrency, Limit: slots[i], Name: "c"}))
			}
			if i == 1 {
				ps = append(ps, NewCredits())
			}
			subjects[i], parties[i] = s, Party{Subject: s, Lines: s.Bind(1, FromPlan, ps)}
		}
		balance := r.Int64N(100)
		subjects[1].Account().Grant(balance, 0)
		var running []*Bill
		var spent int64
		for step := range 1500 {
			now = now.Add(time.Duration(r.Int64N(int64(time.Second))))
			if r.IntN(3) == 0 && len(running) > 0 {
				l.Release(running[0])
				running = running[1:]
				for i := range live {
					live[i]--
				}
			}
			cost := r.Int64N(4)
			var want Kind
			deny := func(k Kind) {
				if want == 0 || k < want {
					want = k
				}
			}
			for i := range parties {
				for _, m := range buckets[i] {
					if m.at(now) < 1 {
						deny(Rate)
					}
				}
				if quota[i] > 0 && cost > 0 && used[i]+cost > quota[i] {
					deny(Quota)
				}
				if slots[i] > 0 && live[i] >= slots[i] {
					deny(Concurrency)
				}
			}
			if balance < cost {
				deny(Credits)
			}
			b := &Bill{Cost: cost, Address: parties[0], Tenant: parties[1], Key: parties[2]}
			var before, o Outcome
			if err := errors.Join(l.Peek(ctx, now, b, &before), l.Charge(ctx, now, b, &o)); err != nil {
				t.Fatal(err)
			}
			if o.Kind != want || o.Denied != (want != 0) || before.Kind != want {
				t.Fatalf("seed %d step %d: %v, peeked %v, want %v", seed, step, o.Kind, before.Kind, want)
			}
			if want == 0 {
				for i := range parties {
					for _, m := range buckets[i] {
						m.level -= m.each
					}
					used[i] += cost
					live[i]++
				}
				balance -= cost
				spent += cost
				running = append(running, b)
			}
			n := 0
			for i, p := range parties {
				rate := 0
				for _, line := range p.Lines {
					st := &o.Standings[n]
					n++
					var left int64
					switch line.Policy.Kind {
					case Rate:
						left = buckets[i][rate].at(now)
						rate++
					case Quota:
						left = quota[i] - used[i]
					case Concurrency:
						left = max(0, slots[i]-live[i])
					case Credits:
						left = balance
					}
					if st.Remaining != left {
						t.Fatalf("seed %d step %d: %s has %d left, want %d", seed, step, st.Policy.Name, st.Remaining, left)
					}
				}
			}
		}
		if got := subjects[2].TakeSpent(); got != (Spent{Amount: spent}) {
			t.Fatalf("recorded %+v, want %d", got, spent)
		}
		for _, b := range running {
			l.Release(b)
			l.Release(b) // A second Release does nothing.
		}
		for _, s := range subjects {
			if s.Live() != 0 {
				t.Fatalf("%d still live", s.Live())
			}
		}
	}
}

func TestQuotaCalendar(t *testing.T) {
	s := NewSubject("t:x")
	b := billOf(s, testkit.Must[*Policy](t)(ParseQuota("10/day")), testkit.Must[*Policy](t)(ParseQuota("4/day")), testkit.Must[*Policy](t)(ParseQuota("12/month")))
	if !s.NeedsUsage() {
		t.Fatal("the counts are not reported as needed")
	}
	now := time.Date(2024, 2, 28, 23, 0, 0, 0, time.UTC)
	b.Cost = 1
	charge(t, b, now) // This charge comes before the store's counts are loaded.
	if c := s.Unflushed(nil); len(c) != 0 {
		t.Fatalf("unloaded counts would overwrite the store: %v", c)
	}
	s.LoadUsage(Day.Start(now), Day, 1)
	s.LoadUsage(Day.Start(now), Day, 100) // This call is ignored, since the day's count is already loaded.
	s.LoadUsage(Month.Start(now).AddDate(0, -1, 0), Month, 100)
	s.LoadUsage(Month.Start(now), Month, 5)
	s.UsageLoaded()
	s.LoadUsage(Month.Start(now), Month, 100)
	if s.NeedsUsage() {
		t.Error("the loaded counts are reported as needed")
	}
	b.Cost = 2
	o := charge(t, b, now)
	if o.Denied || o.Standings[0].Remaining != 6 || o.Standings[1].Remaining != 0 || o.Standings[2].Remaining != 4 || o.Standings[0].Reset != time.Hour {
		t.Fatalf("%+v", o.Standings[:3])
	}
	o = charge(t, b, now)
	if !o.Denied || o.Kind != Quota || o.Standings[0].Denied || !o.Standings[1].Denied || o.Standings[1].Retry != time.Hour {
		t.Fatalf("%+v", o.Standings[:3])
	}
	first := s.Unflushed(nil)
	if len(first) != 2 || first[0].Used != 4 || first[1].Used != 8 || !first[0].Start.Equal(Day.Start(now)) {
		t.Fatal(first)
	}
	// The next day is a leap day. The old day's count must still be flushed.
	next := now.Add(time.Hour)
	if o := charge(t, b, next); o.Denied || o.Standings[1].Remaining != 2 || o.Standings[2].Remaining != 2 || o.Standings[0].Reset != day {
		t.Fatalf("%+v", o.Standings[:3])
	}
	c := s.Unflushed(nil)
	if len(c) != 3 || c[0] != first[0] || c[1].Used != 2 || c[2].Used != 10 {
		t.Fatal(c)
	}
	s.Flushed(first) // The month's count has changed since first was read.
	if c = s.Unflushed(nil); len(c) != 2 || c[0].Used != 2 || c[1].Used != 10 {
		t.Fatal(c)
	}
	if s.Idle(next) {
		t.Error("idle with unflushed counts")
	}
	s.Flushed(c)
	if c = s.Unflushed(nil); len(c) != 0 || !s.Idle(next) == (s.Live() == 0) {
		t.Fatal(c)
	}
	// An adjustment of an ended day refunds nothing, and adds a surcharge to the current day.
	l, ctx := NewLocal(), context.Background()
	l.Adjust(ctx, now, b, -1)
	if st := peek(t, b, next).Standings; st[0].Remaining != 8 || st[2].Remaining != 3 {
		t.Errorf("%+v", st[:3])
	}
	l.Adjust(ctx, next, b, -1000)
	if st := peek(t, b, next).Standings; st[0].Remaining != 10 || st[2].Remaining != 5 {
		t.Errorf("%+v", st[:3])
	}
	l.Adjust(ctx, next, b, 1000)
	if st := peek(t, b, next).Standings; st[0].Remaining != 0 || st[0].Limit != 10 {
		t.Errorf("%+v", st[:3])
	}
	b.Cost = 0
	if charge(t, b, next).Denied {
		t.Error("a request of cost 0 was denied")
	}
	// A month's quota begins again after the end of the year.
	end := time.Date(2024, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	if o := peek(t, b, end); o.Standings[2].Remaining != 12 || !Month.End(end).Equal(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", o.Standings[2])
	}
}

func TestConcurrency(t *testing.T) {
	s, l := NewSubject("k:x"), NewLocal()
	two := testkit.Must[*Policy](t)(ParseConcurrency("2"))
	free := &Bill{Key: Party{Subject: s}}
	charge(t, free, epoch) // This request starts before the limit is bound.
	b, c := billOf(s, two), billOf(s, two)
	if o := charge(t, b, epoch); o.Denied || o.Standings[0].Remaining != 0 {
		t.Fatalf("%+v", o.Standings[0])
	}
	o := charge(t, c, epoch)
	if !o.Denied || o.Kind != Concurrency || o.Standings[0].Retry != time.Second || s.Live() != 2 {
		t.Fatalf("%+v", o.Standings[0])
	}
	l.Release(c) // The denied bill holds no slot to release.
	verify := billOf(s, two)
	verify.NoConcurrency = true
	if o := charge(t, verify, epoch); o.Denied || o.N != 0 || s.Live() != 2 {
		t.Errorf("%+v", o)
	}
	l.Release(verify)
	s.Bind(2, FromPlan, nil) // The limit is removed while the request runs.
	if s.Idle(epoch) || s.Drop(epoch) {
		t.Error("idle while requests run")
	}
	l.Release(b)
	l.Release(free)
	if s.Live() != 0 || !s.Drop(epoch) {
		t.Errorf("%d live", s.Live())
	}
	if err := l.Charge(context.Background(), epoch, free, &Outcome{}); !errors.Is(err, ErrDropped) || s.Live() != 0 {
		t.Errorf("charging a dropped subject returned %v", err)
	}
}

func TestCredits(t *testing.T) {
	ctx, l := context.Background(), NewLocal()
	tenant, key := NewSubject("t:x"), NewSubject("k:x")
	key.UsageLoaded()
	b := &Bill{Cost: 5, Tenant: Party{Subject: tenant, Lines: tenant.Bind(1, FromPlan, []*Policy{NewCredits()})},
		Key: Party{Subject: key, Lines: key.Bind(1, FromKey, []*Policy{CreditsLimit(20)})}}
	var o Outcome
	a := tenant.Account()
	expect := func(what string, ok bool) {
		t.Helper()
		if !ok {
			leased, rest := a.Held()
			t.Fatalf("%s: leased %d, rest %d, %+v", what, leased, rest, o.Standings[:o.N])
		}
	}
	expect("no lease", errors.Is(l.Charge(ctx, epoch, b, &o), ErrLease) && errors.Is(l.Peek(ctx, epoch, b, &o), ErrLease))
	a.Grant(6, 10)
	expect("leased", l.Charge(ctx, epoch, b, &o) == nil && !o.Denied && o.Standings[0].Remaining == 11 && o.Standings[0].Limit == 11 && o.Standings[1].Remaining == 15)
	expect("the store has more", errors.Is(l.Charge(ctx, epoch, b, &o), ErrLease))
	a.Grant(3, 0)
	expect("all is leased, and too little", l.Charge(ctx, epoch, b, &o) == nil && o.Denied && o.Kind == Credits && o.Standings[0].Remaining == 4 && o.Standings[0].Retry == 0 && o.RetryAfter() == 0)
	a.Invalidate()
	expect("more credits are possible", errors.Is(l.Charge(ctx, epoch, b, &o), ErrLease))
	changes := a.Changes()
	a.Invalidate() // The balance is topped up while the store is asked.
	a.GrantSince(changes, 0, 0)
	expect("an outdated answer", errors.Is(l.Charge(ctx, epoch, b, &o), ErrLease))
	a.GrantSince(a.Changes(), 96, 0)
	recorded := key.TakeSpent()
	expect("recorded", recorded == Spent{Amount: 5} && a.Unwritten() == 5)
	key.PutBack(recorded)
	expect("refund", l.Adjust(ctx, epoch, b, -100) == 0)
	recorded = key.TakeSpent()
	leased, _ := a.Held()
	expect("the refund is at most the cost", recorded == Spent{} && a.Unwritten() == 0 && leased == 105 && l.Peek(ctx, epoch, b, &o) == nil && o.Standings[1].Remaining == 20)
	l.Release(b)
	expect("again", l.Charge(ctx, epoch, b, &o) == nil && !o.Denied)
	expect("shortfall", l.Adjust(ctx, epoch, b, 110) == 10)
	recorded = key.TakeSpent()
	leased, _ = a.Held()
	expect("the account ends at 0", recorded == Spent{Amount: 105, Shortfall: 10} && leased == 0)
	a.Written(recorded)
	expect("written", a.Unwritten() == 0)
	l.Release(b)
	expect("the key's own limit", l.Peek(ctx, epoch, b, &o) == nil && o.Kind == Credits && o.Standings[1].Denied)
	expect("surrender", a.Surrender() == 0)
	a.Grant(50, 0)
	l.Adjust(ctx, epoch, b, -5) // This refunds a charge from the surrendered lease.
	leased, _ = a.Held()
	recorded = key.TakeSpent()
	expect("the refund goes to the store only", leased == 50 && recorded == Spent{Returned: 5} && a.Unwritten() == 0)
	expect("no credits beyond the lease", l.Charge(ctx, epoch, b, &o) == nil && o.Denied)
	a.Written(recorded)
	b.Cost, b.Key.Lines = 51, nil
	expect("more credits are possible after the refund", errors.Is(l.Charge(ctx, epoch, b, &o), ErrLease))
	b.Cost = 5
	expect("not idle with a lease", !tenant.Idle(epoch) && a.Surrender() == 50 && tenant.Idle(epoch))

	// If a rate denies the request, Charge does not ask for a lease.
	b.Key.Lines = key.Bind(1, FromPlan, rates(t, "1/m"))
	a.Grant(5, 5)
	expect("rate", l.Charge(ctx, epoch, b, &o) == nil && !o.Denied)
	expect("the rate denies first", l.Charge(ctx, epoch, b, &o) == nil && o.Kind == Rate && !o.Standings[0].Denied)
	b.Cost = 0
	l.Release(b)
	expect("a request of cost 0", l.Charge(ctx, epoch.Add(time.Hour), b, &o) == nil && !o.Denied)
}

func TestTooManyLines(t *testing.T) {
	s := NewSubject("k:x")
	b := billOf(s, rates(t, "1/s, 2/s, 3/s, 4/s, 5/s, 6/s, 7/s, 8/s, 9/s, 10/s, 11/s, 12/s, 13/s, 14/s, 15/s, 16/s")...)
	if o := charge(t, b, epoch); o.N != MaxLines {
		t.Error(o.N)
	}
	b.Key.Lines = append(b.Key.Lines, b.Key.Lines[0])
	if err := NewLocal().Charge(context.Background(), epoch, b, &Outcome{}); !errors.Is(err, ErrTooManyLines) {
		t.Error(err)
	}
}

// After concurrent charges, adjustments, binds and flushes, all counts are exact.
func TestConcurrentUse(t *testing.T) {
	ctx, l := context.Background(), NewLocal()
	tenant := NewSubject("t:x")
	tenant.UsageLoaded()
	tenant.Account().Grant(1500, 0)
	quotas := []*Policy{testkit.Must[*Policy](t)(ParseQuota("100000/month")), NewCredits(), testkit.Must[*Policy](t)(ParseConcurrency("3 per tenant"))}
	tenant.Bind(1, FromPlan, quotas)
	sizes := [][]*Policy{rates(t, "1000/h"), rates(t, "1000/h, 5000/d"), rates(t, "1000/h")}
	keys := [4]*Subject{NewSubject("k:0"), NewSubject("k:1"), NewSubject("k:2"), NewSubject("k:3")}
	var allowed [4]atomic.Int64
	var peak, epochs atomic.Int64
	stored := map[string]int64{}
	stop := make(chan struct{})
	var workers, background sync.WaitGroup
	background.Go(func() {
		for {
			c := tenant.Unflushed(nil)
			for _, n := range c {
				stored[n.Subject] = n.Used
			}
			tenant.Flushed(c)
			for i, k := range keys {
				k.Bind(epochs.Add(1), FromPlan, sizes[i%3])
				k.Idle(epoch)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for g := range 8 {
		workers.Go(func() {
			key := keys[g%4]
			for i := range 500 {
				b := Bill{Cost: 1, Tenant: Party{tenant, tenant.Bind(1, FromPlan, quotas)},
					Key: Party{key, key.Bind(epochs.Load(), FromPlan, sizes[(g%4)%3])}}
				var o Outcome
				if err := l.Charge(ctx, epoch, &b, &o); err != nil {
					t.Error(err)
					return
				}
				if o.Denied {
					continue
				}
				allowed[g%4].Add(1)
				if n := tenant.Live(); n > peak.Load() {
					peak.Store(n)
				}
				if i%5 == 0 {
					l.Adjust(ctx, epoch, &b, -1)
					allowed[g%4].Add(-1)
				}
				l.Release(&b)
			}
		})
	}
	workers.Wait()
	close(stop)
	background.Wait()
	for _, n := range tenant.Unflushed(nil) {
		stored[n.Subject] = n.Used
	}
	var total, recorded int64
	for i, k := range keys {
		amount := k.TakeSpent().Amount
		if amount != allowed[i].Load() {
			t.Errorf("key %d recorded %d, want %d", i, amount, allowed[i].Load())
		}
		total += allowed[i].Load()
		recorded += amount
		if k.Live() != 0 {
			t.Errorf("key %d has %d live", i, k.Live())
		}
	}
	if leased, _ := tenant.Account().Held(); leased+total != 1500 || leased < 0 {
		t.Errorf("%d spent, %d left of 1500", total, leased)
	}
	if stored["t:x"] != total || recorded != total || tenant.Live() != 0 || peak.Load() > 3 || total == 0 {
		t.Errorf("stored %d, recorded %d, allowed %d, live %d, peak %d", stored["t:x"], recorded, total, tenant.Live(), peak.Load())
	}
}

// TestQuotaOfAWrongClock sets the clock ahead and back. Each period keeps its own count: it is neither frozen nor forgotten,
// and a count that only the store has is asked for.
func TestQuotaOfAWrongClock(t *testing.T) {
	today := time.Date(2026, 12, 10, 12, 0, 0, 0, time.UTC)
	for name, wrong := range map[string]time.Time{"ahead": today.AddDate(5, 0, 0), "behind": today.AddDate(-6, 0, 0), "a day behind": today.AddDate(0, 0, -1)} {
		for _, flushed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", flushed: ", flushed), func(t *testing.T) {
				s := NewSubject("k:x")
				b := billOf(s, testkit.Must[*Policy](t)(ParseQuota("5/day")))
				s.UsageLoaded()
				stored := map[int64]Counted{}
				flush := func() {
					list := s.Unflushed(nil)
					for _, c := range list {
						stored[c.Start.Unix()] = c
					}
					s.Flushed(list)
				}
				left := func(now time.Time) int64 {
					t.Helper()
					var o Outcome
					err := NewLocal().Charge(t.Context(), now, b, &o)
					if errors.Is(err, ErrPeriod) {
						if !s.NeedsPeriod(now) {
							t.Fatal("the period is asked for, and not needed")
						}
						s.LoadPeriod(now, slices.Collect(maps.Values(stored)))
						err = NewLocal().Charge(t.Context(), now, b, &o)
					}
					if err != nil {
						t.Fatal(err)
					}
					NewLocal().Release(b)
					if flushed {
						flush()
					}
					if o.Denied && o.Standings[0].Retry > 24*time.Hour {
						t.Errorf("at %v the client shall wait for %v", now, o.Standings[0].Retry)
					}
					return o.Standings[0].Remaining
				}
				for i, tt := range []struct {
					now  time.Time
					left int64
				}{
					{today, 4}, {today, 3}, {wrong, 4}, {today, 2}, {today.Add(time.Second), 1}, {wrong, 3}, {today, 0}, {today, 0},
					{today.AddDate(0, 0, 1), 4}, {today.AddDate(0, 0, 2), 4}, {today, 0},
				} {
					if got := left(tt.now); got != tt.left {
						t.Fatalf("step %d, at %v: %d left, want %d", i, tt.now, got, tt.left)
					}
				}
				flush()
				want := map[int64]int64{
					Day.Start(today).Unix(): 5, Day.Start(wrong).Unix(): 2,
					Day.Start(today.AddDate(0, 0, 1)).Unix(): 1, Day.Start(today.AddDate(0, 0, 2)).Unix(): 1,
				}
				for start, used := range want {
					if stored[start].Used != used {
						t.Errorf("the store has %d of the day %v, want %d", stored[start].Used, time.Unix(start, 0).UTC(), used)
					}
				}
			})
		}
	}
}
