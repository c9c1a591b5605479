package caddymodule

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// The shipped alerts and dashboard are well-formed and use only existing metrics, labels and
// reasons.
func TestMonitoringFiles(t *testing.T) {
	view := viewOf(t, "monitoring-test", &config.PlanConfig{Name: "free"})
	reg := prometheus.NewPedanticRegistry()
	if _, err := newMetrics(reg, view); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var metrics, old []string
	labels := []string{"le", "instance"} // The label le belongs to histograms, and Prometheus itself adds the label instance.
	for _, f := range families {
		metrics = append(metrics, f.GetName())
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
		}
	}
	// Metrics of replicas and of Redis are collected only if there is a replica or Redis, so their
	// descriptions are added here.
	descs := make(chan *prometheus.Desc, 100)
	replicaStats.Describe(descs)
	limitsStats.Describe(descs)
	close(descs)
	for d := range descs {
		name := metricNames.FindString(d.String())
		if metrics = append(metrics, name); strings.Contains(d.String(), deprecatedFor) {
			old = append(old, name)
		}
	}
	if len(old) != 4 {
		t.Errorf("the old names are %q", old)
	}
	var reasons []string
	for r := gateway.Allowed; r < gateway.NumReasons; r++ {
		reasons = append(reasons, r.String())
	}

	check := func(where, expr string) {
		t.Helper()
		for _, m := range metricNames.FindAllString(expr, -1) {
			if !slices.Contains(metrics, strings.TrimSuffix(m, "_bucket")) {
				t.Errorf("%s asks for %s, which is not among %q", where, m, metrics)
			}
			if slices.Contains(old, m) {
				t.Errorf("%s asks for %s by its old name", where, m)
			}
		}
		for _, by := range byLabels.FindAllStringSubmatch(expr, -1) {
			for l := range strings.SplitSeq(by[1], ",") {
				if !slices.Contains(labels, strings.TrimSpace(l)) {
					t.Errorf("%s sums by %s, which is no label", where, l)
				}
			}
		}
		for _, r := range reasonValues.FindAllStringSubmatch(expr, -1) {
			if !slices.Contains(reasons, r[1]) {
				t.Errorf("%s asks for reason %s", where, r[1])
			}
		}
	}

	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	read := func(name string, unmarshal func([]byte, any) error, into any) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("..", "configs", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := unmarshal(b, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	read("prometheus-alerts.yaml", yaml.Unmarshal, &alerts)
	if len(alerts.Groups) == 0 || len(alerts.Groups[0].Rules) == 0 {
		t.Fatal("no alerts")
	}
	for _, r := range alerts.Groups[0].Rules {
		if r.Alert == "" || r.Expr == "" || r.For == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
			t.Errorf("an alert lacks something: %+v", r)
		}
		check(r.Alert, r.Expr)
	}

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	read("grafana-dashboard.json", json.Unmarshal, &dashboard)
	if len(dashboard.Panels) == 0 {
		t.Fatal("no panels")
	}
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			check(p.Title, target.Expr)
		}
	}
}

var (
	metricNames  = regexp.MustCompile(`keygate_[a-z_]+`)
	byLabels     = regexp.MustCompile(`by \(([^)]*)\)`)
	reasonValues = regexp.MustCompile(`reason="([^"]*)"`)
)
