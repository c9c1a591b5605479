package caddymodule

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

func viewOf(t testing.TB, name string, plans ...*config.PlanConfig) *gateway.View {
	t.Helper()
	ks, err := (&config.KeyspaceConfig{Plans: plans}).Compile(name)
	if err != nil {
		t.Fatal(err)
	}
	h, err := apikey.NewHasher()
	if err != nil {
		t.Fatal(err)
	}
	return gateway.NewView(h, ks.Keyspace)
}

// Counters belong to the process: they keep their values over reloads, although each configuration
// has a new registry.
func TestMetricsOutliveConfigurations(t *testing.T) {
	view := viewOf(t, "metrics-test", &config.PlanConfig{Name: "free"})
	ks := view.Keyspaces["metrics-test"]
	value := make(map[string]float64) // by the values of the labels keyspace, plan, reason and result
	for range 2 {
		reg := prometheus.NewPedanticRegistry()
		m, err := newMetrics(reg, view)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newMetrics(reg, view); err != nil {
			t.Fatalf("a second app on one registry: %v", err)
		}
		m.observe(ks, "free", gateway.Allowed, time.Microsecond)
		m.observe(ks, "free", gateway.RateLimited, time.Microsecond)
		m.observe(ks, "", gateway.MissingKey, time.Microsecond)
		m.observe(ks, "gone", gateway.PlanNotAllowed, time.Microsecond)
		m.observePassed(ks, "free", gateway.RateLimited, time.Microsecond)
		m.observe(&gateway.Keyspace{Name: "stranger"}, "free", gateway.Allowed, time.Microsecond)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		names := make(map[string]bool)
		for _, f := range families {
			names[f.GetName()] = true
			for _, metric := range f.GetMetric() {
				var labels []string
				for _, l := range metric.GetLabel() {
					labels = append(labels, l.GetValue())
					if l.GetValue() == "stranger" || l.GetValue() == "gone" {
						t.Errorf("%s has the label %s=%s", f.GetName(), l.GetName(), l.GetValue())
					}
				}
				if f.GetName() == "keygate_requests_total" {
					value[strings.Join(labels, " ")] = metric.GetCounter().GetValue()
				}
			}
		}
		want := []string{"keygate_actual_invalid_total", "keygate_check_duration_seconds", "keygate_degraded", "keygate_keys_cached",
			"keygate_paths_reported_total",
			"keygate_requests_total", "keygate_revocation_lag_seconds", "keygate_store_errors_total"}
		if got := slices.Sorted(maps.Keys(names)); !slices.Equal(got, want) {
			t.Errorf("metrics %s\nwant %s", strings.Join(got, " "), strings.Join(want, " "))
		}
	}
	for _, tt := range []struct {
		plan, result, reason string
		want                 float64
	}{
		{"free", "allowed", "allowed", 2},
		{"free", "refused", "rate_limited", 2},
		{"free", "observed", "rate_limited", 2},
		{"", "refused", "missing_key", 2},
		{"", "refused", "plan_not_allowed", 2},
	} {
		if got := value["metrics-test "+tt.plan+" "+tt.reason+" "+tt.result]; got != tt.want {
			t.Errorf("%s %s %s: %v, want %v", tt.plan, tt.result, tt.reason, got, tt.want)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	view := viewOf(b, "bench", &config.PlanConfig{Name: "free"})
	ks := view.Keyspaces["bench"]
	m, err := newMetrics(prometheus.NewRegistry(), view)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.observe(ks, "free", gateway.Allowed, 700)
	}
}
