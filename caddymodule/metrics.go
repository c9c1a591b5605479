package caddymodule

import (
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/store/revocations"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// The collectors are this process's, not a configuration's: each configuration brings a
// new registry, and counters must go on where they stood.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "keygate",
		Name:      "requests_total",
		Help:      "Requests checked, by keyspace, plan, result (allowed, refused, observed) and reason.",
	}, []string{"keyspace", "plan", "result", "reason"})
	checkDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "keygate",
		Name:      "check_duration_seconds",
		Help:      "How long it took to check a request.",
		// From under a microsecond, a hit, to seconds, a store that is slow to answer.
		Buckets: []float64{5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 5e-5, 2e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5},
	})
	engineStats = statsCollector{
		cached: prometheus.NewDesc("keygate_keys_cached", "Keys held in memory.", nil, nil),
		errors: prometheus.NewDesc("keygate_store_errors_total", "Times that the store did not answer.", nil, nil),
		degraded: prometheus.NewDesc("keygate_degraded",
			"1 while the store does not answer and only keys in memory can be checked, or Redis does not and limits are not shared; else 0.", nil, nil),
		lag: prometheus.NewDesc("keygate_revocation_lag_seconds",
			"How long ago this node acted by every change there was; 0 where the store is its own, and under 2 while it follows a shared one.", nil, nil),
	}
)

// metrics counts the requests of one configuration. Every label set that can occur is
// resolved beforehand, so counting builds no labels.
type metrics struct {
	keyspaces map[*gateway.Keyspace]*keyspaceCounters
}

// keyspaceCounters are one keyspace's counters by plan; "" for requests that no plan
// was known of.
type keyspaceCounters struct {
	plans map[string]*planCounters
	none  *planCounters
}

type planCounters struct {
	// outcome by reason: allowed, or refused.
	outcome [gateway.NumReasons]prometheus.Counter
	// observed by reason: would have been refused, but was let pass.
	observed [gateway.NumReasons]prometheus.Counter
}

// newMetrics registers the collectors in a configuration's registry, and resolves the
// counters of the view's plans.
func newMetrics(reg prometheus.Registerer, v *gateway.View) (*metrics, error) {
	for _, c := range []prometheus.Collector{requestsTotal, checkDuration, pathsReported, engineStats, limitsStats, replicaStats} {
		var already prometheus.AlreadyRegisteredError
		if err := reg.Register(c); err != nil && !errors.As(err, &already) {
			return nil, err
		}
	}
	m := &metrics{keyspaces: make(map[*gateway.Keyspace]*keyspaceCounters, len(v.Keyspaces))}
	for _, ks := range v.Keyspaces {
		c := &keyspaceCounters{plans: make(map[string]*planCounters, len(ks.PlanOrder)), none: newPlanCounters(ks.Name, "")}
		for _, plan := range ks.PlanOrder {
			c.plans[plan] = newPlanCounters(ks.Name, plan)
		}
		m.keyspaces[ks] = c
		for _, result := range []string{reportedRejected, reportedChanged} {
			pathsReported.WithLabelValues(ks.Name, result)
		}
	}
	return m, nil
}

func newPlanCounters(keyspace, plan string) *planCounters {
	c := new(planCounters)
	c.outcome[gateway.Allowed] = requestsTotal.WithLabelValues(keyspace, plan, "allowed", gateway.Allowed.String())
	c.observed[gateway.Allowed] = c.outcome[gateway.Allowed]
	for r := gateway.MissingKey; r < gateway.NumReasons; r++ {
		c.outcome[r] = requestsTotal.WithLabelValues(keyspace, plan, "refused", r.String())
		c.observed[r] = requestsTotal.WithLabelValues(keyspace, plan, "observed", r.String())
	}
	return c
}

// observe counts one checked request and how long the check took. plan is "" where none
// was known. A keyspace of another configuration is not counted.
func (m *metrics) observe(ks *gateway.Keyspace, plan string, reason gateway.Reason, d time.Duration) {
	if c := m.counters(ks, plan); c != nil {
		c.outcome[reason].Inc()
	}
	checkDuration.Observe(d.Seconds())
}

// observePassed is observe for a request that was let pass although reason speaks
// against it.
func (m *metrics) observePassed(ks *gateway.Keyspace, plan string, reason gateway.Reason, d time.Duration) {
	if c := m.counters(ks, plan); c != nil {
		c.observed[reason].Inc()
	}
	checkDuration.Observe(d.Seconds())
}

func (m *metrics) counters(ks *gateway.Keyspace, plan string) *planCounters {
	k := m.keyspaces[ks]
	if k == nil {
		return nil
	}
	if c := k.plans[plan]; c != nil {
		return c
	}
	return k.none
}

// statsCollector reads what the running engines say of themselves when it is asked.
type statsCollector struct {
	cached, errors, degraded, lag *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (s statsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.cached, s.errors, s.degraded, s.lag} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Two engines run only while a reload changes
// the store; their values are then taken together.
func (s statsCollector) Collect(ch chan<- prometheus.Metric) {
	var cached, failed, degraded, lag float64
	for e := range runningEngines() {
		stats := e.Gateway().Stats()
		cached += float64(stats.KeysCached)
		failed += float64(stats.StoreErrors)
		lag = max(lag, stats.Lag.Seconds())
		if shared := e.Limits(); stats.Degraded || shared != nil && shared.Unreachable() {
			degraded = 1
		}
	}
	ch <- prometheus.MustNewConstMetric(s.cached, prometheus.GaugeValue, cached)
	ch <- prometheus.MustNewConstMetric(s.errors, prometheus.CounterValue, failed)
	ch <- prometheus.MustNewConstMetric(s.degraded, prometheus.GaugeValue, degraded)
	ch <- prometheus.MustNewConstMetric(s.lag, prometheus.GaugeValue, lag)
}

// limitsCollector reads how shared limits are, when it is asked. Without any it collects nothing.
type limitsCollector struct {
	unreachable                   renamedDesc
	nodes, decided, asked, errors *prometheus.Desc
}

var limitsStats = limitsCollector{
	unreachable: newRenamedDesc("keygate_limits_unreachable", "keygate_limits_away",
		"1 while Redis does not answer and each plan's on_redis_down decides, else 0."),
	nodes:   prometheus.NewDesc("keygate_limits_nodes", "Gateways that share limits through the same Redis.", nil, nil),
	decided: prometheus.NewDesc("keygate_limits_judged_total", "Requests decided by shared limits: waited for Redis, from memory, or while Redis was away (outage).", []string{"how"}, nil),
	asked:   prometheus.NewDesc("keygate_limits_asked_total", "Calls that asked Redis, for a request or ahead of need.", nil, nil),
	errors:  prometheus.NewDesc("keygate_limits_errors_total", "Calls to Redis that failed or came too late.", nil, nil),
}

// Describe implements prometheus.Collector.
func (c limitsCollector) Describe(ch chan<- *prometheus.Desc) {
	c.unreachable.describe(ch)
	for _, d := range []*prometheus.Desc{c.nodes, c.decided, c.asked, c.errors} {
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
	ch <- prometheus.MustNewConstMetric(c.decided, prometheus.CounterValue, float64(l.Waited), "waited")
	ch <- prometheus.MustNewConstMetric(c.decided, prometheus.CounterValue, float64(l.Memory), "memory")
	ch <- prometheus.MustNewConstMetric(c.decided, prometheus.CounterValue, float64(l.Outage), "outage")
	ch <- prometheus.MustNewConstMetric(c.asked, prometheus.CounterValue, float64(l.Asked))
	ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(r.Errors))
}

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
