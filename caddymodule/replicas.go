package caddymodule

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/herald"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// askReplica says how a gateway's own copy of the store is, where it has one, and what is wrong
// with it or with the store. ready says that keys are judged.
func (e *engine) askReplica(s *management.StoreStatus, ready bool) (problems []string) {
	own, ok := e.opened().(*replica.Replica)
	if !ok {
		return nil
	}
	r := own.Status()
	s.Replica = &management.ReplicaStatus{Used: !r.Through, Rows: max(r.Copied, 0), Pending: r.Pending}
	if !r.Heard.IsZero() {
		heard := r.Heard.UTC().Truncate(time.Millisecond)
		s.Replica.HeardAt = &heard
	}
	if r.Away != nil && s.OK {
		// What answered is the copy.
		s.OK, s.Error = false, r.Away.Error()
		problem := "the store does not answer: keys are judged by the replica, changes are refused but for what refuses keys"
		if !ready {
			problem = "the store does not answer, and nobody has waited for this gateway for as long as its replica is old, since it was stopped in good order or cut off for too long: keys are answered with 503"
		}
		problems = append(problems, problem)
	}
	if r.Pending > 0 {
		problems = append(problems, "what was refused while the store did not answer is to be written to it yet: "+strconv.FormatInt(r.Pending, 10))
	}
	return problems
}

// replicaCollector reads how replicas are, when it is asked. Without any it collects nothing.
type replicaCollector struct {
	away, pending, words *prometheus.Desc
}

var replicaStats = replicaCollector{
	away: prometheus.NewDesc("keygate_store_away", "1 while PostgreSQL does not answer and keys are judged by the replica, else 0.", nil, nil),
	pending: prometheus.NewDesc("keygate_refusals_pending",
		"Keys and tenants that were refused while PostgreSQL did not answer, and are to be written to it yet.", nil, nil),
	words: prometheus.NewDesc("keygate_refusals_told_total",
		"What gateways told each other through Redis while PostgreSQL did not answer: told, heard (the own ones too), or rejected as not theirs.", []string{"how"}, nil),
}

// Describe implements prometheus.Collector.
func (c replicaCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.away, c.pending, c.words} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c replicaCollector) Collect(ch chan<- prometheus.Metric) {
	var away, pending float64
	var words herald.Stats
	found := false
	engines.Range(func(_, value any) bool {
		e := value.(*engine)
		r, ok := e.opened().(*replica.Replica)
		if !ok {
			return true
		}
		found = true
		s := r.Status()
		if s.Away != nil {
			away = 1
		}
		pending += float64(s.Pending)
		w := e.herald.Stats()
		words.Told += w.Told
		words.Heard += w.Heard
		words.Rejected += w.Rejected
		return true
	})
	if !found {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.away, prometheus.GaugeValue, away)
	ch <- prometheus.MustNewConstMetric(c.pending, prometheus.GaugeValue, pending)
	ch <- prometheus.MustNewConstMetric(c.words, prometheus.CounterValue, float64(words.Told), "told")
	ch <- prometheus.MustNewConstMetric(c.words, prometheus.CounterValue, float64(words.Heard), "heard")
	ch <- prometheus.MustNewConstMetric(c.words, prometheus.CounterValue, float64(words.Rejected), "rejected")
}
