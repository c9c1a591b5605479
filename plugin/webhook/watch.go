package webhook

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

var _ gateway.Watcher = (*Service)(nil)

const (
	// announceInterval is how often collected events are published.
	announceInterval = time.Second
	// maxPending bounds the events that are collected between two announcements. Further events are dropped; most of them come
	// again with later requests. These events report load, so they must not add to the load.
	maxPending = 4096
	// maxAnnounced bounds how many published events are remembered in memory. The store remembers
	// all of them.
	maxAnnounced = 1 << 16
)

// watch collects what the gateway reports about limits until the next announcement.
type watch struct {
	mu        sync.Mutex
	pending   []events.OneShot
	credits   map[[2]string]bool // credits is a set of keyspaces and tenants whose balances must be checked.
	announced map[announcedID]int64
}

// announcedID identifies a one-shot event that may come several times, each time with another Ref.
type announcedID struct{ keyspace, subject, condition string }

func newWatch() watch {
	return watch{credits: map[[2]string]bool{}, announced: map[announcedID]int64{}}
}

// add collects an event that was not published before.
func (w *watch) add(o events.OneShot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := announcedID{o.Keyspace, o.Subject, o.Condition}
	if ref, ok := w.announced[id]; ok && ref == o.Ref || len(w.pending) >= maxPending {
		return
	}
	if len(w.announced) >= maxAnnounced {
		clear(w.announced)
	}
	w.announced[id] = o.Ref
	w.pending = append(w.pending, o)
}

// take returns the collected events, and forgets them.
func (w *watch) take() (list []events.OneShot, credits map[[2]string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list, w.pending = w.pending, nil
	if len(w.credits) > 0 {
		credits, w.credits = w.credits, map[[2]string]bool{}
	}
	return list, credits
}

// retry removes the events from the remembered ones, so that they are collected again, because they could not be published.
func (w *watch) retry(list []events.OneShot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range list {
		delete(w.announced, announcedID{o.Keyspace, o.Subject, o.Condition})
	}
}

// LimitReached implements gateway.Watcher.
func (s *Service) LimitReached(at time.Time, keyspace, tenant, key string, reason gateway.Reason, reached *ratelimit.Standing) {
	p := reached.Policy
	hour := at.UTC().Truncate(time.Hour)
	s.watch.add(events.OneShot{
		Type: events.LimitReached, Keyspace: keyspace, Tenant: tenant, At: at,
		Data:    map[string]any{"key_id": key, "reason": reason.String(), "policy": p.Name, "limit": reached.Limit},
		Subject: "key:" + key, Condition: "limit", Ref: hour.Unix(),
	})
	if p.Kind == ratelimit.Quota && p.Calendar != ratelimit.Total {
		// A request is also rejected if it costs more than remains. So a part of the quota may remain when the quota denies a request.
		owner := key
		if p.Per == ratelimit.PerTenant {
			owner = ""
		}
		if p.Per != ratelimit.PerAddress {
			s.quota(at, keyspace, tenant, owner, p, reached.Limit-reached.Remaining, 100)
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
	o := events.OneShot{
		Type: events.QuotaThreshold, Keyspace: keyspace, Tenant: tenant, At: at,
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
	s.watch.add(o)
}

// CreditsSpent implements gateway.Watcher.
func (s *Service) CreditsSpent(keyspace, tenant string) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if len(s.watch.credits) < maxPending {
		s.watch.credits[[2]string{keyspace, tenant}] = true
	}
}

// watchLoop publishes the collected events until ctx ends.
func (s *Service) watchLoop(ctx context.Context) {
	for pause(ctx, announceInterval) {
		s.announce(ctx)
	}
}

// announce publishes the events about limits that were collected since the last call.
func (s *Service) announce(ctx context.Context) {
	list, credits := s.watch.take()
	slices.SortStableFunc(list, func(a, b events.OneShot) int { return strings.Compare(a.Keyspace, b.Keyspace) })
	if err := s.registry.Announce(ctx, list); err != nil {
		s.watch.retry(list)
		s.logFailure(ctx, "publishing events of limits", err)
	}
	tenants := map[string][]string{}
	for c := range credits {
		tenants[c[0]] = append(tenants[c[0]], c[1])
	}
	for keyspace, list := range tenants {
		s.logFailure(ctx, "checking balances", s.registry.CheckCredits(ctx, keyspace, list))
	}
}
