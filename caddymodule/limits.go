package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
)

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
