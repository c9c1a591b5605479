package webhook

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

var _ gateway.Watcher = (*Service)(nil)

const (
	// watchEvery is how often what was heard of is announced.
	watchEvery = time.Second
	// mostHeard bounds what is heard of in that time; what comes beyond is heard of another time, or
	// not: these events tell of load, they must not add to it.
	mostHeard = 4096
	// mostTold bounds what is remembered as announced. The store remembers all of it.
	mostTold = 1 << 16
)

// watch collects what the gateway says of limits, between one announcement and the next.
type watch struct {
	mu        sync.Mutex
	occasions []management.OneShot
	credits   map[[2]string]bool // keyspace, tenant
	told      map[toldID]int64
}

// toldID tells what was announced before, apart from its occasion.
type toldID struct{ keyspace, subject, what string }

func newWatch() watch { return watch{credits: map[[2]string]bool{}, told: map[toldID]int64{}} }

// hear notes an occasion that was not announced before.
func (w *watch) hear(o management.OneShot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := toldID{o.Keyspace, o.Subject, o.Condition}
	if ref, ok := w.told[id]; ok && ref == o.Ref || len(w.occasions) >= mostHeard {
		return
	}
	if len(w.told) >= mostTold {
		clear(w.told)
	}
	w.told[id] = o.Ref
	w.occasions = append(w.occasions, o)
}

// take returns what was heard, and forgets it.
func (w *watch) take() (list []management.OneShot, credits map[[2]string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list, w.occasions = w.occasions, nil
	if len(w.credits) > 0 {
		credits, w.credits = w.credits, map[[2]string]bool{}
	}
	return list, credits
}

// forget has occasions told again, that could not be.
func (w *watch) forget(list []management.OneShot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range list {
		delete(w.told, toldID{o.Keyspace, o.Subject, o.Condition})
	}
}

// LimitReached implements gateway.Watcher.
func (s *Service) LimitReached(at time.Time, keyspace, tenant, key string, reason gateway.Reason, refused *ratelimit.Standing) {
	p := refused.Policy
	hour := at.UTC().Truncate(time.Hour)
	s.watch.hear(management.OneShot{
		Type: management.EventLimitReached, Keyspace: keyspace, Tenant: tenant, At: at,
		Data:    map[string]any{"key_id": key, "reason": reason.String(), "policy": p.Name, "limit": refused.Limit},
		Subject: "key:" + key, Condition: "limit", Ref: hour.Unix(),
	})
	if p.Kind == ratelimit.Quota && p.Calendar != ratelimit.Total {
		// A request that costs more than is left is refused although something is left.
		owner := key
		if p.Per == ratelimit.PerTenant {
			owner = ""
		}
		if p.Per != ratelimit.PerAddress {
			s.quota(at, keyspace, tenant, owner, p, refused.Limit-refused.Remaining, 100)
		}
	}
}

// QuotaUsed implements gateway.Watcher.
func (s *Service) QuotaUsed(at time.Time, keyspace, tenant, key string, p *ratelimit.Policy, used int64) {
	percent := gateway.QuotaWatched
	if used >= p.Limit {
		percent = 100
	}
	s.quota(at, keyspace, tenant, key, p, used, percent)
}

func (s *Service) quota(at time.Time, keyspace, tenant, key string, p *ratelimit.Policy, used int64, percent int) {
	o := management.OneShot{
		Type: management.EventQuotaThreshold, Keyspace: keyspace, Tenant: tenant, At: at,
		Data: map[string]any{"key_id": nil, "policy": p.Name, "percent": percent, "used": used, "limit": p.Limit,
			"resets_at": p.Calendar.End(at)},
		Subject: "tenant:" + tenant, Condition: "quota:low:" + p.Name, Ref: p.Calendar.Start(at).Unix(),
	}
	if key != "" {
		o.Data["key_id"], o.Subject = key, "key:"+key
	}
	if percent == 100 {
		o.Condition = "quota:empty:" + p.Name
	}
	s.watch.hear(o)
}

// CreditsSpent implements gateway.Watcher.
func (s *Service) CreditsSpent(keyspace, tenant string) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if len(s.watch.credits) < mostHeard {
		s.watch.credits[[2]string{keyspace, tenant}] = true
	}
}

// watchLoop announces what was heard of, until ctx ends.
func (s *Service) watchLoop(ctx context.Context) {
	for pause(ctx, watchEvery) {
		s.announce(ctx)
	}
}

// announce tells what was heard of limits since the last time.
func (s *Service) announce(ctx context.Context) {
	list, credits := s.watch.take()
	slices.SortStableFunc(list, func(a, b management.OneShot) int { return strings.Compare(a.Keyspace, b.Keyspace) })
	if err := s.Manager.Announce(ctx, list); err != nil {
		s.watch.forget(list)
		s.failed(ctx, "announcing limits", err)
	}
	tenants := map[string][]string{}
	for c := range credits {
		tenants[c[0]] = append(tenants[c[0]], c[1])
	}
	for keyspace, list := range tenants {
		s.failed(ctx, "looking at balances", s.Manager.CheckCredits(ctx, keyspace, list))
	}
}
