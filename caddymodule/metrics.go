package caddymodule

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// The collectors are this process's, not a configuration's: each configuration brings a
// new registry, and counters must go on where they stood.
var (
	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "keygate",
		Name:      "requests_total",
		Help:      "Requests judged, by keyspace, plan, result (allowed, refused, observed) and reason.",
	}, []string{"keyspace", "plan", "result", "reason"})
	checkDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "keygate",
		Name:      "check_duration_seconds",
		Help:      "How long it took to judge a request.",
		// From under a microsecond, a hit, to seconds, a store that is slow to answer.
		Buckets: []float64{5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 5e-5, 2e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5},
	})
	engineStats = statsCollector{
		cached: prometheus.NewDesc("keygate_keys_cached", "Keys held in memory.", nil, nil),
		errors: prometheus.NewDesc("keygate_store_errors_total", "Times that the store did not answer.", nil, nil),
		degraded: prometheus.NewDesc("keygate_degraded",
			"1 while the store does not answer and only keys in memory can be judged, or Redis does not and limits are not shared; else 0.", nil, nil),
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

// observe counts one judged request and how long judging took. plan is "" where none
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
