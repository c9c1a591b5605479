package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/sites"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// TestUsageOff checks that `usage off` stops counting. The last requests of a key are still recorded, unless they are turned
// off too.
func TestUsageOff(t *testing.T) {
	ctx, actor := context.Background(), management.Actor{Name: "test"}
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	for _, remembered := range []bool{true, false} {
		g := newHarness(t, &config.PlanConfig{Name: "free"}, config.HandlerConfig{})
		app, ks := g.handler.app, g.handler.keyspace
		ks.UsageOff = true
		if !remembered {
			ks.Requests = nil
		}
		r := httptest.NewRequest(http.MethodGet, "http://localhost/v1/things", nil)
		r.Header.Set("X-Api-Key", g.key)
		if err := g.serve(httptest.NewRecorder(), r, next); err != nil {
			t.Fatal(err)
		}
		m := app.engine.Manager()
		if result, err := app.Verifier().Verify(ctx, "shop", inspect.Request{Key: g.key}); err != nil || !result.Allowed {
			t.Fatalf("verified: %v %v", result, err)
		}
		if err := app.engine.Usage().Flush(ctx); err != nil {
			t.Fatal(err)
		}
		report, err := sites.UsageService(app, m).OfTenant(ctx, actor, "shop", "acme", usage.Range{})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range report.Data {
			if line.Requests != 0 {
				t.Errorf("counted: %+v", line)
			}
		}
		keys, err := m.Keys(ctx, actor, "shop", management.KeyFilter{})
		if err != nil || len(keys.Data) != 1 {
			t.Fatalf("%d keys, %v", len(keys.Data), err)
		}
		last, err := app.engine.Store().RecentRequests(ctx, "shop", keys.Data[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, chunk := range last {
			n += chunk.Count
		}
		if want := map[bool]int{true: 2}[remembered]; n != want {
			t.Errorf("%d requests are remembered, want %d", n, want)
		}
	}
}

// discard is a ResponseWriter that costs almost nothing.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHandlerUsage measures how much counting usage adds to a request with a busy key,
// including the writes to the store. The two variants take turns within one run, as in
// BenchmarkHandlerAdds.
func BenchmarkHandlerUsage(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	g := newHarness(b, &config.PlanConfig{Name: "free", Limits: []string{"rate 1000000/s"}}, config.HandlerConfig{})
	ks, w := g.handler.keyspace, &discard{http.Header{}}
	log := ks.Requests
	const turn = 2000
	var off, adds []float64
	for b.Loop() {
		var spent [2]time.Duration
		for i := range spent {
			ks.UsageOff, ks.Requests = i == 0, nil
			if i == 1 {
				ks.Requests = log
			}
			before := cpuTime(b)
			for range turn {
				clear(w.h)
				r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/v1/things", nil)
				r.Header["X-Api-Key"] = []string{g.key}
				if err := g.serve(w, r, next); err != nil {
					b.Fatal(err)
				}
			}
			spent[i] = cpuTime(b) - before
		}
		off = append(off, float64(spent[0])/turn/1e3)
		adds = append(adds, float64(spent[1]-spent[0])/turn/1e3)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(off), "off-µs")
	b.ReportMetric(median(adds), "usage-adds-µs")
}
