package gateway_test

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// benchWorld has n keys of one tenant each, all of them used before.
func benchWorld(b *testing.B, n int, limits ...string) (*world, []string) {
	w := newWorld(b, plan("free", limits...))
	w.tenant("acme", "free", 1<<50)
	keys := make([]string, n)
	for i := range keys {
		_, keys[i] = w.key("acme")
	}
	for range 3 { // the cache takes entries in its own time
		for _, k := range keys {
			w.check(k)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return w, keys
}

// cpu reports the processor time of each operation beside the wall time, which on a
// shared machine says more about the neighbours.
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

func benchCheck(b *testing.B, w *world, key string, want gateway.Reason) {
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
		w, keys := benchWorld(b, 1)
		benchCheck(b, w, keys[0], gateway.Allowed)
	})
	b.Run("hit/rate", func(b *testing.B) {
		w, keys := benchWorld(b, 1, "rate 1000000000/s")
		benchCheck(b, w, keys[0], gateway.Allowed)
	})
	b.Run("hit/rate, quota and concurrency", func(b *testing.B) {
		w, keys := benchWorld(b, 1, "rate 1000000000/s", "quota 1000000000000/month", "concurrency 50")
		benchCheck(b, w, keys[0], gateway.Allowed)
	})
	b.Run("refused/rate", func(b *testing.B) {
		w, keys := benchWorld(b, 1, "rate 1/d")
		benchCheck(b, w, keys[0], gateway.RateLimited)
	})
	b.Run("refused/unknown", func(b *testing.B) {
		w, _ := benchWorld(b, 1)
		w.ks.Failures = nil
		eventually(b, "the filter is filled", func() bool { return w.gw.Stats().FilterReady })
		var unknown string
		for unknown == "" || w.check(unknown) != gateway.InvalidKey {
			unknown = must(w.ks.Grammar.Generate("live"))(b)
		}
		benchCheck(b, w, unknown, gateway.InvalidKey)
	})
	b.Run("refused/malformed", func(b *testing.B) {
		w, keys := benchWorld(b, 1)
		benchCheck(b, w, keys[0][:30], gateway.MalformedKey)
	})
	b.Run("parallel/one hot key", func(b *testing.B) {
		w, keys := benchWorld(b, 1, "rate 1000000000/s")
		benchParallel(b, w, keys)
	})
	b.Run("parallel/1000 keys", func(b *testing.B) {
		w, keys := benchWorld(b, 1000, "rate 1000000000/s")
		benchParallel(b, w, keys)
	})
	b.Run("miss", func(b *testing.B) {
		// Each key's first use: the store is asked.
		w := newWorld(b, plan("free", "rate 1000000000/s"))
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

func benchParallel(b *testing.B, w *world, keys []string) {
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
