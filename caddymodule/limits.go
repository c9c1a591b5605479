package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
	"github.com/keygate-dev/keygate/plugin/store/revocations"
)

// limitsWait is how long a start waits for Redis. It goes on without: what the plans'
// on_redis_down says holds then.
const limitsWait = time.Second

// redirectWait is how long a reload waits for Redis at another address.
const redirectWait = 10 * time.Second

// limitsKey is what a configuration says of limits, expanded. Its zero value is limits local.
type limitsKey struct {
	address string
	leased  bool
	timeout time.Duration
}

// limitsOf expands what the configuration says of limits, and checks it without connecting.
func (a *Config) limitsOf(repl *caddy.Replacer) (k limitsKey, err error) {
	l := a.Limits
	if l == nil || l.Type != limitsRedis {
		return limitsKey{}, nil
	}
	k = limitsKey{leased: l.Mode == modeLeased, timeout: time.Duration(l.Timeout)}
	if k.address, err = expand(repl, "limits", l.Address); err != nil {
		return limitsKey{}, err
	}
	if _, err := redis.New(redis.Options{URL: k.address}); err != nil {
		return limitsKey{}, fieldErrorf("limits", "limits redis: %w", err)
	}
	return k, nil
}

// sharedLimits are limits that are counted in Redis, while a configuration wants them.
type sharedLimits struct {
	redis  *redis.Redis
	shared *ratelimit.Shared
	stop   context.CancelFunc
	ended  chan struct{}
}

func newSharedLimits(k limitsKey, log *slog.Logger) (*sharedLimits, error) {
	r, err := redis.New(redis.Options{URL: k.address, Timeout: k.timeout, Logger: log})
	if err != nil {
		return nil, err
	}
	s := &sharedLimits{redis: r, shared: ratelimit.NewShared(r, r.Node(), k.leased), ended: make(chan struct{})}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	r.Start()
	go func() {
		s.shared.Run(ctx)
		close(s.ended)
	}()
	return s, nil
}

// close gives back what is held, and disconnects.
func (s *sharedLimits) close(ctx context.Context) {
	s.stop()
	<-s.ended
	s.redis.Close(ctx)
}

// redirectLimits has Redis reached as a configuration wants it, where requests are counted in Redis already: what
// was spent and is held stays, whatever the address is. One that can't be used is an error, and nothing has
// changed.
func (e *engine) redirectLimits(ctx context.Context, k limitsKey) error {
	s := e.sharedLimits()
	if s == nil || k == (limitsKey{}) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, redirectWait)
	defer cancel()
	if err := s.redis.Redirect(ctx, k.address, k.timeout); err != nil {
		return fmt.Errorf("the new address of limits redis can't be used, so nothing was changed: %w", err)
	}
	return nil
}

// useLimits has requests counted as a configuration wants it, after redirectLimits; limits that are no longer
// wanted are closed. A Redis that does not take a reload's password is an error. The engine is locked.
func (e *engine) useLimits(ctx context.Context, k limitsKey) error {
	switch {
	case k == limitsKey{}:
		e.countLocally()
		return nil
	case e.shared != nil:
		e.shared.shared.SetLeased(k.leased)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limitsWait)
	defer cancel()
	s, err := newSharedLimits(k, slog.New(e.log))
	if err != nil {
		return err
	}
	// What is wrong has been logged, and it is tried on; but for what somebody is there to mend.
	if err := s.redis.Wait(ctx); len(e.apps) > 0 && errors.Is(err, redis.ErrRejected) {
		go s.closeSoon()
		return fmt.Errorf("limits redis can't be used, so nothing was changed: %w", err)
	}
	e.shared = s
	e.limits.Set(s.shared)
	e.herald.Set(revocations.New(s.redis, slog.New(e.log)))
	return nil
}

// countLocally ends what is counted in Redis. The engine is locked.
func (e *engine) countLocally() {
	if e.shared == nil {
		return
	}
	e.limits.Set(ratelimit.NewLocal())
	e.herald.Set(nil)
	go e.shared.closeSoon()
	e.shared = nil
}

// settleLimits has requests counted as a configuration wants it that is running, which is not checked, and
// lets go of what others wanted. The engine is locked.
func (e *engine) settleLimits(k limitsKey) error {
	if e.shared == nil || k == (limitsKey{}) {
		return e.useLimits(context.Background(), k)
	}
	e.shared.shared.SetLeased(k.leased)
	return e.shared.redis.Adopt(k.address, k.timeout)
}

// closeSoon is close for what nobody waits for.
func (s *sharedLimits) closeSoon() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	s.close(ctx)
}

// sharedLimits returns what counts in Redis, nil where nothing does.
func (e *engine) sharedLimits() *sharedLimits {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shared
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
	engines.Range(func(_, value any) bool {
		s := value.(*engine).sharedLimits()
		if s == nil {
			return true
		}
		found = true
		rs, ls := s.redis.Stats(), s.shared.Stats()
		if rs.Unreachable {
			away = 1
		}
		nodes = max(nodes, float64(rs.Nodes))
		r.Errors += rs.Errors
		l.Asked += ls.Asked
		l.Waited += ls.Waited
		l.Memory += ls.Memory
		l.Outage += ls.Outage
		return true
	})
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

// status says how shared limits are, and what is wrong with them, "" for nothing.
func (s *sharedLimits) status() (out *management.LimitsStatus, problem string) {
	r, l := s.redis.Stats(), s.shared.Stats()
	out = &management.LimitsStatus{
		Mode: modeExact, OK: !r.Unreachable, Nodes: r.Nodes, Errors: r.Errors,
		Asked: l.Asked, Waited: l.Waited, FromMemory: l.Memory, InOutage: l.Outage,
	}
	if s.shared.Leased() {
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
