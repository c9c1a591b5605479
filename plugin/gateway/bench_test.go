package gateway_test

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// benchFixture returns a fixture whose gateway holds n keys of one tenant in memory, and the texts of the keys.
func benchFixture(b *testing.B, n int, limits ...string) (*fixture, []string) {
	w := newFixture(b, plan("free", limits...))
	w.tenant("acme", "free", 1<<50)
	keys := make([]string, n)
	for i := range keys {
		_, keys[i] = w.key("acme")
	}
	testkit.Eventually(b, "all keys are in memory", func() bool {
		before := w.store.lookups.Load()
		for _, k := range keys {
			w.check(k)
		}
		return w.store.lookups.Load() == before
	})
	return w, keys
}

// cpu adds the processor time of each operation to the results. On a shared machine, the wall time
// depends on other programs.
func cpu(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

func benchCheck(b *testing.B, w *fixture, key string, want gateway.Reason) {
	b.ReportAllocs()
	defer cpu(b)()
	req := w.request(key)
	var d gateway.Decision
	for b.Loop() {
		req.Now = time.Now()
		w.gw.Check(context.Background(), req, &d)
		d.Done()
		if d.Reason != want {
			b.Fatal(d.Reason)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	b.Run("hit/no limits", func(b *testing.B) {
		w, keys := benchFixture(b, 1)
		benchCheck(b, w, keys[0], gateway.Allowed)
	})
	b.Run("hit/rate", func(b *testing.B) {
		w, keys := benchFixture(b, 1, "rate 1000000000/s")
		benchCheck(b, w, keys[0], gateway.Allowed)
	})
	b.Run("hit/rate, quota and concurrency", func(b *testing.B) {
		w, keys := benchFixture(b, 1, "rate 1000000000/s", "quota 1000000000000/month", "concurrency 50")
		benchCheck(b, w, keys[0], gateway.Allowed)
	})
	b.Run("rejected/rate", func(b *testing.B) {
		w, keys := benchFixture(b, 1, "rate 1/d")
		benchCheck(b, w, keys[0], gateway.RateLimited)
	})
	b.Run("rejected/unknown", func(b *testing.B) {
		w, _ := benchFixture(b, 1)
		w.ks.Failures = nil
		testkit.Eventually(b, "the filter is filled", func() bool { return w.gw.Stats().FilterReady })
		var unknown string
		for unknown == "" || w.check(unknown) != gateway.InvalidKey {
			unknown = w.generate()
		}
		benchCheck(b, w, unknown, gateway.InvalidKey)
	})
	b.Run("rejected/malformed", func(b *testing.B) {
		w, keys := benchFixture(b, 1)
		benchCheck(b, w, keys[0][:30], gateway.MalformedKey)
	})
	b.Run("parallel/one hot key", func(b *testing.B) {
		w, keys := benchFixture(b, 1, "rate 1000000000/s")
		benchParallel(b, w, keys)
	})
	b.Run("parallel/1000 keys", func(b *testing.B) {
		w, keys := benchFixture(b, 1000, "rate 1000000000/s")
		benchParallel(b, w, keys)
	})
	b.Run("miss", func(b *testing.B) {
		// Each check is the first use of its key, so the gateway looks the key up in the store.
		w := newFixture(b, plan("free", "rate 1000000000/s"))
		w.tenant("acme", "free", 0)
		keys := make([]string, 2000)
		for i := range keys {
			_, keys[i] = w.key("acme")
		}
		req := w.request("")
		var d gateway.Decision
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			if i%len(keys) == 0 {
				b.StopTimer()
				w.restart()
				b.StartTimer()
			}
			req.Now, req.Credential = time.Now(), keys[i%len(keys)]
			w.gw.Check(context.Background(), req, &d)
			d.Done()
			i++
		}
	})
}

func benchParallel(b *testing.B, w *fixture, keys []string) {
	b.ReportAllocs()
	defer cpu(b)()
	b.ResetTimer()
	var worker atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		i := int(worker.Add(1)) * 331
		req := w.request("")
		var d gateway.Decision
		for pb.Next() {
			req.Now, req.Credential = time.Now(), keys[i%len(keys)]
			w.gw.Check(context.Background(), req, &d)
			d.Done()
			i++
		}
	})
}
