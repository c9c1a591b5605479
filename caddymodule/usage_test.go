package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// BenchmarkHandlerUsage is the handler of BenchmarkHandler with usage counted and
// without: the difference is what counting costs a request, writing included.
// discard is a ResponseWriter that costs nothing itself.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

func BenchmarkHandlerUsage(b *testing.B) {
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	for _, counted := range []bool{false, true} {
		name := "not counted"
		if counted {
			name = "counted"
		}
		b.Run(name, func(b *testing.B) {
			g := newRig(b, &PlanConfig{Name: "free", Limits: []string{"rate 1000000000/s"}}, HandlerConfig{})
			if !counted {
				e := g.handler.app.engine
				uncounted, err := gateway.New(gateway.Options{Store: e.lazy})
				if err != nil {
					b.Fatal(err)
				}
				if err := uncounted.Start(context.Background()); err != nil {
					b.Fatal(err)
				}
				former := e.gateway
				e.gateway = uncounted
				defer func() { e.gateway = former; _ = uncounted.Close(context.Background()) }()
			}
			b.ReportAllocs()
			w := &discard{http.Header{}}
			begin := cpuTime(b)
			for b.Loop() {
				clear(w.h)
				r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/v1/things", nil)
				r.Header["X-Api-Key"] = []string{g.key}
				if err := g.serve(w, r, next); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-begin)/float64(b.N), "cpu-ns/op")
		})
	}
}
