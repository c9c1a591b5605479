package caddymodule

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
)

// limitsOf expands what the configuration says of limits, and checks it without connecting.
func (a *Config) limitsOf(repl *caddy.Replacer) (k engine.Limits, err error) {
	l := a.Limits
	if l == nil || l.Type != limitsRedis {
		return engine.Limits{}, nil
	}
	k = engine.Limits{Leased: l.Mode == modeLeased, Timeout: time.Duration(l.Timeout)}
	if k.Redis, err = expand(repl, "limits", l.Address); err != nil {
		return engine.Limits{}, err
	}
	if _, err := redis.New(redis.Options{URL: k.Redis}); err != nil {
		return engine.Limits{}, fieldErrorf("limits", "limits redis: %w", err)
	}
	return k, nil
}

// limitsCollector reads how shared limits are, when it is asked. Without any it collects nothing.
type limitsCollector struct {
	unreachable                  renamedDesc
	nodes, judged, asked, errors *prometheus.Desc
}

var limitsStats = limitsCollector{
	unreachable: newRenamedDesc("keygate_limits_unreachable", "keygate_limits_away",
		"1 while Redis does not answer and each plan's on_redis_down decides, else 0."),
	nodes:  prometheus.NewDesc("keygate_limits_nodes", "Gateways that share limits through the same Redis.", nil, nil),
	judged: prometheus.NewDesc("keygate_limits_judged_total", "Requests judged by shared limits: waited for Redis, from memory, or while Redis was away (outage).", []string{"how"}, nil),
	asked:  prometheus.NewDesc("keygate_limits_asked_total", "Calls that asked Redis, for a request or ahead of need.", nil, nil),
	errors: prometheus.NewDesc("keygate_limits_errors_total", "Calls to Redis that failed or came too late.", nil, nil),
}

// Describe implements prometheus.Collector.
func (c limitsCollector) Describe(ch chan<- *prometheus.Desc) {
	c.unreachable.describe(ch)
	for _, d := range []*prometheus.Desc{c.nodes, c.judged, c.asked, c.errors} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c limitsCollector) Collect(ch chan<- prometheus.Metric) {
	var away, nodes float64
	var r redis.Stats
	var l ratelimit.SharedStats
	found := false
	for e := range runningEngines() {
		s := e.Limits()
		if s == nil {
			continue
		}
		found = true
		rs, ls := s.Stats()
		if rs.Unreachable {
			away = 1
		}
		nodes = max(nodes, float64(rs.Nodes))
		r.Errors += rs.Errors
		l.Asked += ls.Asked
		l.Waited += ls.Waited
		l.Memory += ls.Memory
		l.Outage += ls.Outage
	}
	if !found {
		return
	}
	c.unreachable.gauge(ch, away)
	ch <- prometheus.MustNewConstMetric(c.nodes, prometheus.GaugeValue, nodes)
	ch <- prometheus.MustNewConstMetric(c.judged, prometheus.CounterValue, float64(l.Waited), "waited")
	ch <- prometheus.MustNewConstMetric(c.judged, prometheus.CounterValue, float64(l.Memory), "memory")
	ch <- prometheus.MustNewConstMetric(c.judged, prometheus.CounterValue, float64(l.Outage), "outage")
	ch <- prometheus.MustNewConstMetric(c.asked, prometheus.CounterValue, float64(l.Asked))
	ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(r.Errors))
}

// limitsStatus returns how shared limits are, and what is wrong with them, "" for nothing.
func limitsStatus(s *engine.SharedLimits) (out *management.LimitsStatus, problem string) {
	r, l := s.Stats()
	out = &management.LimitsStatus{
		Mode: modeExact, OK: !r.Unreachable, Nodes: r.Nodes, Errors: r.Errors,
		Asked: l.Asked, Waited: l.Waited, FromMemory: l.Memory, InOutage: l.Outage,
	}
	if s.Leased() {
		out.Mode = modeLeased
	}
	if r.Unreachable {
		out.Error = r.Problem
		if !r.Since.IsZero() {
			since := r.Since.UTC().Truncate(time.Second)
			out.Since = &since
		}
		problem = "Redis does not answer: what each plan's on_redis_down says holds until it does (" + r.Problem + ")"
	}
	return out, problem
}
