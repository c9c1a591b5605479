package redis_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// BenchmarkCharge charges one request after another under a rate, a quota and a concurrency limit:
// counted in memory, in Redis in exact mode, and in Redis in leased mode.
func BenchmarkCharge(b *testing.B) {
	l := limits{tenant: []string{"q 1000000000000/month"}, key: []string{"r 1000000000/m", "c 1000"}}
	for _, mode := range []string{"local", "exact", "leased"} {
		b.Run(mode, func(b *testing.B) {
			n := newNode(b, testserver.RedisURL(b), options{leased: mode == "leased"})
			bill := n.bill(l)
			var limiter ratelimit.Limiter = n.shared
			if mode == "local" {
				limiter = ratelimit.NewLocal()
			}
			ctx := context.Background()
			var o ratelimit.Outcome
			took := make([]time.Duration, 0, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				one := *bill
				began := time.Now()
				if err := limiter.Charge(ctx, began, &one, &o); err != nil || o.Denied {
					b.Fatal(err, o.Denied)
				}
				limiter.Release(&one)
				if len(took) < cap(took) {
					took = append(took, time.Since(began))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-µs")
		})
	}
}
