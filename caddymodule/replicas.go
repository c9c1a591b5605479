package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/store/revocations"
)

// replicaCollector reads how replicas are, when it is asked. Without any it collects nothing.
type replicaCollector struct {
	unreachable, pending, published renamedDesc
}

var replicaStats = replicaCollector{
	unreachable: newRenamedDesc("keygate_store_unreachable", "keygate_store_away",
		"1 while PostgreSQL does not answer and keys are checked against the replica, else 0."),
	pending: newRenamedDesc("keygate_revocations_pending", "keygate_refusals_pending",
		"Revocations made while PostgreSQL did not answer that are not written to it yet."),
	published: renamedDesc{
		prometheus.NewDesc("keygate_revocations_published_total",
			"Revocations sent through Redis while PostgreSQL did not answer, by result: published, received (the own ones too), or rejected as forged.", []string{"result"}, nil),
		prometheus.NewDesc("keygate_refusals_told_total", deprecatedFor+"keygate_revocations_published_total.", []string{"how"}, nil),
	},
}

// deprecatedFor begins the help of a metric that has a new name. Remove these with 0.3.0.
const deprecatedFor = "Deprecated, removed in 0.3.0: use "

// renamedDesc describes a metric under its new name and, for one release, its old name.
type renamedDesc struct{ now, old *prometheus.Desc }

func newRenamedDesc(name, old, help string) renamedDesc {
	return renamedDesc{prometheus.NewDesc(name, help, nil, nil), prometheus.NewDesc(old, deprecatedFor+name+".", nil, nil)}
}

func (d renamedDesc) describe(ch chan<- *prometheus.Desc) {
	ch <- d.now
	ch <- d.old
}

func (d renamedDesc) gauge(ch chan<- prometheus.Metric, v float64) {
	ch <- prometheus.MustNewConstMetric(d.now, prometheus.GaugeValue, v)
	ch <- prometheus.MustNewConstMetric(d.old, prometheus.GaugeValue, v)
}

// count collects a counter whose label's value was renamed too.
func (d renamedDesc) count(ch chan<- prometheus.Metric, v int64, label, old string) {
	ch <- prometheus.MustNewConstMetric(d.now, prometheus.CounterValue, float64(v), label)
	ch <- prometheus.MustNewConstMetric(d.old, prometheus.CounterValue, float64(v), old)
}

// Describe implements prometheus.Collector.
func (c replicaCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []renamedDesc{c.unreachable, c.pending, c.published} {
		d.describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c replicaCollector) Collect(ch chan<- prometheus.Metric) {
	var away, pending float64
	var words revocations.Stats
	found := false
	for e := range runningEngines() {
		r := e.Replica()
		if r == nil {
			continue
		}
		found = true
		s := r.Status()
		if s.Unreachable != nil {
			away = 1
		}
		pending += float64(s.Pending)
		w := e.RevocationStats()
		words.Published += w.Published
		words.Received += w.Received
		words.Rejected += w.Rejected
	}
	if !found {
		return
	}
	c.unreachable.gauge(ch, away)
	c.pending.gauge(ch, pending)
	c.published.count(ch, words.Published, "published", "told")
	c.published.count(ch, words.Received, "received", "heard")
	c.published.count(ch, words.Rejected, "rejected", "rejected")
}
