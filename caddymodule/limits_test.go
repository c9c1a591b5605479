package caddymodule

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/sites"
	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/limits"
)

// limitsHarness is a running app with shared limits, and a key on each of its plans.
type limitsHarness struct {
	t    *testing.T
	app  *App
	keys map[string]string
	ids  map[string]string
}

func newLimitsHarness(t *testing.T, limits *config.LimitsConfig, more ...*config.PlanConfig) *limitsHarness {
	t.Helper()
	app := onSQLite(filepath.Join(t.TempDir(), "keygate.db"), more...)
	for _, down := range []string{"local", "open", "closed"} {
		app.Keyspaces["shop"].Plans = append(app.Keyspaces["shop"].Plans, &config.PlanConfig{Name: down, OnRedisDown: down, Limits: []string{"rate 5/d"}})
	}
	app.Limits = limits
	g := &limitsHarness{t: t, app: app, keys: map[string]string{}, ids: map[string]string{}}
	g.load()
	actor := management.Actor{Name: "test", Via: "cli"}
	m := current(t).engine.Manager()
	for _, p := range app.Keyspaces["shop"].Plans {
		if _, err := m.CreateTenant(context.Background(), actor, "shop", p.Name, management.TenantFields{Plan: management.Some(p.Name)}); err != nil {
			t.Fatal(err)
		}
		k, err := m.CreateKey(context.Background(), actor, "shop", p.Name, management.KeyFields{Name: management.Some("ci")})
		if err != nil {
			t.Fatal(err)
		}
		g.keys[p.Name], g.ids[p.Name] = k.Key, k.ID
	}
	return g
}

func (g *limitsHarness) load() {
	g.t.Helper()
	if err := load(g.t, g.app, nil); err != nil {
		g.t.Fatal(err)
	}
}

// check checks one request with the key of a plan; the request ends at once.
func (g *limitsHarness) check(plan string) gateway.Decision {
	g.t.Helper()
	d := g.begin(plan)
	d.Done()
	return *d
}

// begin checks a request that stays in progress until the caller calls Done on its decision.
func (g *limitsHarness) begin(plan string) *gateway.Decision {
	g.t.Helper()
	a := current(g.t)
	d := new(gateway.Decision)
	a.gateway.Check(context.Background(), &gateway.Request{
		Now: time.Now(), View: a.compiled.View, Keyspace: a.compiled.View.Keyspaces["shop"], Credential: g.keys[plan], Addr: gateway.Addr("192.0.2.1"), Cost: 1,
	}, d)
	return d
}

func (g *limitsHarness) wantLeft(plan string, left int64) {
	g.t.Helper()
	d := g.check(plan)
	if !d.Allowed() || d.Outcome.N != 1 || d.Outcome.Standings[0].Remaining != left {
		g.t.Fatalf("plan %s: %s, %d policies, %d left, want %d", plan, d.Reason, d.Outcome.N, d.Outcome.Standings[0].Remaining, left)
	}
}

// metric returns the value of a metric without labels, or -1 if the metric is not collected.
func metric(t *testing.T, name string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(limitsStats, engineStats, replicaStats)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

// A reload that moves limits to Redis keeps their counts, and a further reload that changes the
// mode does too. The status and the metrics show shared limits only while there are any.
func TestLimitsRedisOverReloads(t *testing.T) {
	g := newLimitsHarness(t, nil)
	g.wantLeft("local", 4)
	g.wantLeft("local", 3)
	if s := sites.Status(context.Background(), current(t)); s.SharedLimits != nil || metric(t, "keygate_limits_unreachable") != -1 {
		t.Errorf("local limits are shown as shared: %+v", s.SharedLimits)
	}
	g.app.Limits = &config.LimitsConfig{Type: config.LimitsRedis, Address: testserver.RedisURL(t), Timeout: caddy.Duration(10 * time.Second)}
	g.load()
	g.wantLeft("local", 2)
	s := sites.Status(context.Background(), current(t))
	if s.Limits != config.LimitsRedis || s.SharedLimits == nil || !s.SharedLimits.OK || s.SharedLimits.Mode != config.ModeExact || s.SharedLimits.Waited == 0 || s.Degraded {
		t.Errorf("status %+v %+v", s, s.SharedLimits)
	}
	shared := current(t).engine.Limits()
	g.load()
	if current(t).engine.Limits() != shared {
		t.Error("a reload without changes opened new connections")
	}
	g.app.Limits.Mode = config.ModeLeased
	g.load()
	g.wantLeft("local", 1)
	if mode := sites.Status(context.Background(), current(t)).SharedLimits.Mode; mode != config.ModeLeased {
		t.Errorf("mode %s", mode)
	}
	g.app.Limits = nil
	g.load()
	if d := g.check("local"); !d.Allowed() {
		t.Errorf("back with local limits: %s", d.Reason)
	}
}

// While Redis is unreachable, each plan's on_redis_down applies, and the status, the metrics and
// the API report the outage.
func TestOnRedisDown(t *testing.T) {
	server := testserver.NewRedis(t)
	g := newLimitsHarness(t, &config.LimitsConfig{Type: config.LimitsRedis, Address: server.URL(), Timeout: caddy.Duration(time.Second)})
	g.wantLeft("local", 4)
	server.Kill()
	testkit.Eventually(t, "the gateway notices the outage", func() bool { g.check("open"); return current(t).engine.Limits().Unreachable() })
	if d := g.check("closed"); d.Reason != gateway.Unavailable || d.RetryAfter < time.Second {
		t.Errorf("closed: %s, retry after %s", d.Reason, d.RetryAfter)
	}
	for range 20 {
		if d := g.check("open"); !d.Allowed() || d.Outcome.N != 0 {
			t.Errorf("open: %s, with %d policies in its headers", d.Reason, d.Outcome.N)
		}
	}
	for range 4 {
		if d := g.check("local"); !d.Allowed() {
			t.Errorf("local: %s", d.Reason)
		}
	}
	if d := g.check("local"); d.Reason != gateway.RateLimited {
		t.Errorf("local, the share being used up: %s", d.Reason)
	}
	s := sites.Status(context.Background(), current(t))
	if !s.Degraded || s.SharedLimits.OK || s.SharedLimits.Error == "" || !strings.Contains(strings.Join(s.Problems, "\n"), "on_redis_down") {
		t.Errorf("status %+v %+v", s, s.SharedLimits)
	}
	if metric(t, "keygate_degraded") != 1 || metric(t, "keygate_limits_unreachable") != 1 || metric(t, "keygate_limits_away") != 1 {
		t.Error("the metrics do not report the outage")
	}
	// The API returns no guessed state of limits, and can't reset limits while Redis is
	// unreachable.
	m, actor := current(t).engine.Manager(), management.Actor{Name: "test", Via: "cli"}
	if page, err := limits.Key(context.Background(), m, actor, "shop", g.ids["local"]); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("limits are shown: %+v, error %v", page, err)
	}
	if _, err := limits.ResetKey(context.Background(), m, actor, "shop", g.ids["local"], nil); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("limits are reset: %v", err)
	}
	server.Start()
	testkit.Eventually(t, "the gateway uses Redis again", func() bool { return g.check("closed").Reason == gateway.Allowed })
	if metric(t, "keygate_degraded") != 0 {
		t.Error("still degraded")
	}
	if page, err := limits.ResetKey(context.Background(), m, actor, "shop", g.ids["local"], nil); err != nil || *page.Data[0].Remaining != 5 {
		t.Errorf("after the reset: %+v, error %v", page, err)
	}
}
