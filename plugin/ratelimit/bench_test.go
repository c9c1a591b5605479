package ratelimit

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// threeParties returns the bill of a plan with many limits: a rate per address; a quota, credits
// and concurrency per tenant; two rates and concurrency per key.
func threeParties(t testing.TB, id string) *Bill {
	address, tenant, key := NewSubject("a:"+id), NewSubject("t:"+id), NewSubject("k:"+id)
	tenant.UsageLoaded()
	key.UsageLoaded()
	tenant.Account().Grant(1<<60, 0)
	return &Bill{
		Cost:    1,
		Address: Party{address, address.Bind(1, FromPlan, rates(t, "1000000000/s per address"))},
		Tenant: Party{tenant, tenant.Bind(1, FromPlan, []*Policy{testkit.Must[*Policy](t)(ParseQuota("1000000000000/month")), NewCredits(),
			testkit.Must[*Policy](t)(ParseConcurrency("1000000 per tenant"))})},
		Key: Party{key, key.Bind(1, FromPlan, append(rates(t, "1000000000/s, 1000000000000/d"), testkit.Must[*Policy](t)(ParseConcurrency("1000000"))))},
	}
}

func TestNoAllocations(t *testing.T) {
	ctx, l := context.Background(), NewLocal()
	denied := threeParties(t, "b")
	denied.Key.Lines = append(denied.Key.Lines, denied.Key.Subject.Bind(1, FromKey, append(rates(t, "1/d"), CreditsLimit(1)))...)
	var o Outcome
	for name, b := range map[string]*Bill{"allowed": threeParties(t, "a"), "denied": denied, "nothing": {Key: Party{Subject: NewSubject("k:n")}}} {
		now := epoch
		if n := testing.AllocsPerRun(200, func() {
			now = now.Add(time.Hour) // The clock moves by an hour per charge, so that 200 charges cross several days and months.
			if l.Peek(ctx, now, b, &o) != nil || l.Charge(ctx, now, b, &o) != nil {
				t.Fatal("not decided")
			}
			l.Adjust(ctx, now, b, -1)
			l.Release(b)
			for _, p := range b.parties() {
				if p.Subject != nil {
					r := p.Subject.ensureCold()
					r.closed = r.closed[:0] // Clearing closed acts like a flush.
				}
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func benchCharge(b *testing.B, bill *Bill) {
	ctx, l, now := context.Background(), NewLocal(), time.Now()
	var o Outcome
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Charge(ctx, now, bill, &o); err != nil || o.N == 0 {
			b.Fatal(err)
		}
		l.Release(bill)
	}
}

func BenchmarkChargeOneLine(b *testing.B) {
	benchCharge(b, billOf(NewSubject("k:x"), rates(b, "1000000000000/d")...))
}

func BenchmarkChargeDenied(b *testing.B) {
	benchCharge(b, billOf(NewSubject("k:x"), rates(b, "1/d")...))
}

func BenchmarkChargeThreeLinesThreeParties(b *testing.B) {
	bill := threeParties(b, "x")
	bill.Tenant.Lines, bill.Key.Lines = bill.Tenant.Lines[:1], bill.Key.Lines[:1]
	benchCharge(b, bill)
}

func BenchmarkChargeSevenLinesThreeParties(b *testing.B) { benchCharge(b, threeParties(b, "x")) }

func benchParallel(b *testing.B, keys int) {
	bills := make([]*Bill, keys)
	for i := range bills {
		bills[i] = billOf(NewSubject("k:"+strconv.Itoa(i)), rates(b, "1000000000000/d")...)
	}
	var worker atomic.Int64
	ctx, l, now := context.Background(), NewLocal(), time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var o Outcome
		for i := int(worker.Add(7919)); pb.Next(); i++ {
			bill := *bills[i%keys]
			if l.Charge(ctx, now, &bill, &o) != nil {
				b.Error("not decided")
			}
			l.Release(&bill)
		}
	})
}

func BenchmarkChargeParallelHotKey(b *testing.B)   { benchParallel(b, 1) }
func BenchmarkChargeParallelManyKeys(b *testing.B) { benchParallel(b, 100_000) }

func BenchmarkWriteHeaders(b *testing.B) {
	bill, now := threeParties(b, "x"), time.Now()
	var o Outcome
	if NewLocal().Charge(context.Background(), now, bill, &o) != nil {
		b.Fatal("not decided")
	}
	for name, n := range map[string]int{"1": 1, "7": o.N} {
		b.Run(name, func(b *testing.B) {
			h, o := http.Header{}, o
			o.N = n
			b.ReportAllocs()
			for b.Loop() {
				o.WriteHeaders(h, now, HeaderOptions{X: true, IETF: true})
			}
		})
	}
}
