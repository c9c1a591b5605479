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

// The collectors belong to the process, not to a configuration: each configuration has a new
// registry, but the counters must keep their values.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "keygate",
		Name:      "requests_total",
		Help:      "Requests checked, by keyspace, plan, result (allowed, refused, observed) and reason.",
	}, []string{"keyspace", "plan", "result", "reason"})
	checkDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "keygate",
		Name:      "check_duration_seconds",
		Help:      "Duration of the check of a request.",
		// From under a microsecond for a key in memory to seconds for a slow store.
		Buckets: []float64{5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 5e-5, 2e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5},
	})
	engineStats = statsCollector{
		cached: prometheus.NewDesc("keygate_keys_cached", "Keys held in memory.", nil, nil),
		errors: prometheus.NewDesc("keygate_store_errors_total", "Calls of the store that failed.", nil, nil),
		degraded: prometheus.NewDesc("keygate_degraded",
			"1 while the store is unreachable and only keys in memory can be checked, or while Redis is unreachable and limits are not shared; else 0.", nil, nil),
		lag: prometheus.NewDesc("keygate_revocation_lag_seconds",
			"Time since this node last had every change of the store; 0 if the node shares its store with no other, and normally below 2.", nil, nil),
	}
)

// metrics counts the requests of one configuration. The counters of all possible label sets are
// created in advance, so that counting does not look up labels.
type metrics struct {
	keyspaces map[*gateway.Keyspace]*keyspaceCounters
}

// keyspaceCounters are one keyspace's counters by plan; none counts requests whose plan is
// unknown.
type keyspaceCounters struct {
	plans map[string]*planCounters
	none  *planCounters
}

type planCounters struct {
	// outcome counts allowed and rejected requests by reason.
	outcome [gateway.NumReasons]prometheus.Counter
	// observed counts, by reason, requests that passed only because of observe.
	observed [gateway.NumReasons]prometheus.Counter
}

// newMetrics registers the collectors in a configuration's registry and creates the counters of
// the view's plans.
func newMetrics(reg prometheus.Registerer, v *gateway.View) (*metrics, error) {
	for _, c := range []prometheus.Collector{requestsTotal, checkDuration, pathsReported, actualInvalid, engineStats, limitsStats, replicaStats} {
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
		actualInvalid.WithLabelValues(ks.Name)
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

// observe counts one checked request and the duration of the check. plan is "" if the plan is
// unknown. Requests of another configuration's keyspace are not counted.
func (m *metrics) observe(ks *gateway.Keyspace, plan string, reason gateway.Reason, d time.Duration) {
	if c := m.counters(ks, plan); c != nil {
		c.outcome[reason].Inc()
	}
	checkDuration.Observe(d.Seconds())
}

// observePassed counts like observe, for a request that passed although it would have been
// rejected for reason.
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

// statsCollector collects statistics of the running engines.
type statsCollector struct {
	cached, errors, degraded, lag *prometheus.Desc
}

func (s statsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.cached, s.errors, s.degraded, s.lag} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. While a reload changes the store there are two engines,
// and Collect combines their values.
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

// limitsCollector collects the state of shared limits, and nothing if there are none.
type limitsCollector struct {
	unreachable                   renamedDesc
	nodes, decided, asked, errors *prometheus.Desc
}

var limitsStats = limitsCollector{
	unreachable: newRenamedDesc("keygate_limits_unreachable", "keygate_limits_away",
		"1 while Redis is unreachable and each plan's on_redis_down applies, else 0."),
	nodes:   prometheus.NewDesc("keygate_limits_nodes", "Gateways that share limits through the same Redis.", nil, nil),
	decided: prometheus.NewDesc("keygate_limits_judged_total", "Requests decided by shared limits: after asking Redis (waited), from memory, or while Redis was unreachable (outage).", []string{"how"}, nil),
	asked:   prometheus.NewDesc("keygate_limits_asked_total", "Calls to Redis, for a request or in advance.", nil, nil),
	errors:  prometheus.NewDesc("keygate_limits_errors_total", "Calls to Redis that failed or timed out.", nil, nil),
}

func (c limitsCollector) Describe(ch chan<- *prometheus.Desc) {
	c.unreachable.describe(ch)
	for _, d := range []*prometheus.Desc{c.nodes, c.decided, c.asked, c.errors} {
		ch <- d
	}
}

func (c limitsCollector) Collect(ch chan<- prometheus.Metric) {
	var unreachable, nodes float64
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
			unreachable = 1
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
	c.unreachable.gauge(ch, unreachable)
	ch <- prometheus.MustNewConstMetric(c.nodes, prometheus.GaugeValue, nodes)
	ch <- prometheus.MustNewConstMetric(c.decided, prometheus.CounterValue, float64(l.Waited), "waited")
	ch <- prometheus.MustNewConstMetric(c.decided, prometheus.CounterValue, float64(l.Memory), "memory")
	ch <- prometheus.MustNewConstMetric(c.decided, prometheus.CounterValue, float64(l.Outage), "outage")
	ch <- prometheus.MustNewConstMetric(c.asked, prometheus.CounterValue, float64(l.Asked))
	ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(r.Errors))
}

// replicaCollector collects the state of replicas, and nothing if there are none.
type replicaCollector struct {
	unreachable, pending, published renamedDesc
}

var replicaStats = replicaCollector{
	unreachable: newRenamedDesc("keygate_store_unreachable", "keygate_store_away",
		"1 while PostgreSQL is unreachable and keys are checked against the replica, else 0."),
	pending: newRenamedDesc("keygate_revocations_pending", "keygate_refusals_pending",
		"Revocations made while PostgreSQL was unreachable that are not yet written to it."),
	published: renamedDesc{
		prometheus.NewDesc("keygate_revocations_published_total",
			"Revocations sent through Redis while PostgreSQL was unreachable, by result: published, received (including the node's own), or rejected as forged.", []string{"result"}, nil),
		prometheus.NewDesc("keygate_refusals_told_total", deprecatedFor+"keygate_revocations_published_total.", []string{"how"}, nil),
	},
}

// deprecatedFor begins the help text of a metric's old name. The old names are to be removed in
// 0.3.0.
const deprecatedFor = "Deprecated, removed in 0.3.0: use "

// renamedDesc describes a metric under its new name and, for one release, under its old name.
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

// count collects a counter with a label; old is the label's value under the old name.
func (d renamedDesc) count(ch chan<- prometheus.Metric, v int64, label, old string) {
	ch <- prometheus.MustNewConstMetric(d.now, prometheus.CounterValue, float64(v), label)
	ch <- prometheus.MustNewConstMetric(d.old, prometheus.CounterValue, float64(v), old)
}

func (c replicaCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []renamedDesc{c.unreachable, c.pending, c.published} {
		d.describe(ch)
	}
}

func (c replicaCollector) Collect(ch chan<- prometheus.Metric) {
	var unreachable, pending float64
	var total revocations.Stats
	found := false
	for e := range runningEngines() {
		r := e.Replica()
		if r == nil {
			continue
		}
		found = true
		s := r.Status()
		if s.Unreachable != nil {
			unreachable = 1
		}
		pending += float64(s.Pending)
		w := e.RevocationStats()
		total.Published += w.Published
		total.Received += w.Received
		total.Rejected += w.Rejected
	}
	if !found {
		return
	}
	c.unreachable.gauge(ch, unreachable)
	c.pending.gauge(ch, pending)
	c.published.count(ch, total.Published, "published", "told")
	c.published.count(ch, total.Received, "received", "heard")
	c.published.count(ch, total.Rejected, "rejected", "rejected")
}
