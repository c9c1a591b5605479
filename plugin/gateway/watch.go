package gateway

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Watcher is notified about limits, for events. Its methods may be called during requests, so they
// must not block.
type Watcher interface {
	// LimitReached is called when a limit rejects a request of a key. It is called at most once per key and hour, and again
	// after a restart. denied is valid only during the call.
	LimitReached(at time.Time, keyspace, tenant, key string, reason Reason, denied *ratelimit.Standing)
	// QuotaUsed is called each time that the used amount of a quota has changed and is at least
	// QuotaWatched percent. key is "" for a tenant's quota.
	QuotaUsed(at time.Time, keyspace, tenant, key string, p *ratelimit.Policy, used int64)
	// CreditsSpent is called when a tenant's balance in the store has fallen.
	CreditsSpent(keyspace, tenant string)
}

// QuotaWatched is the percentage of a quota from which a Watcher is notified.
const QuotaWatched = 80

// watcherBox is the type in Gateway.watcher.
type watcherBox struct{ Watcher }

// Watch replaces the watcher; nil for none. It is safe at any time.
func (g *Gateway) Watch(w Watcher) {
	if w == nil {
		g.watcher.Store(nil)
		return
	}
	g.watcher.Store(&watcherBox{w})
}

const watchedSeconds = 3600

// notifyLimit notifies the watcher of a denial if it is the key's first in this hour.
func (g *Gateway) notifyLimit(req *Request, d *Decision, e *keytable.Entry) {
	hour := uint32(req.Now.Unix() / watchedSeconds)
	if req.Trace != nil || e.KeyState.LimitHourClaimed(hour) {
		return
	}
	w := g.watcher.Load()
	if w == nil || !e.KeyState.ClaimLimitHour(hour) {
		return
	}
	for i := range d.Outcome.Standings[:d.Outcome.N] {
		if st := &d.Outcome.Standings[i]; st.Denied {
			w.LimitReached(req.Now, e.Keyspace(), e.Tenant.Slug, e.Key.ID, d.Reason, st)
			return
		}
	}
}

// notifyCounts notifies the watcher of the counts that a flush has stored. keys are the keys in
// the flush.
func (g *Gateway) notifyCounts(f *Flush, keys map[*keytable.KeyState]*keytable.Entry, counts map[*ratelimit.Subject][]ratelimit.Counted) {
	w := g.watcher.Load()
	if w == nil {
		return
	}
	notified := map[*ratelimit.Subject]bool{}
	for k, e := range keys {
		notify := func(s *ratelimit.Subject, key string) {
			if len(counts[s]) == 0 || notified[s] {
				return
			}
			notified[s] = true
			s.EachQuota(f.At, func(p *ratelimit.Policy, used int64) {
				if float64(used)*100 >= float64(p.Limit)*QuotaWatched {
					w.QuotaUsed(f.At, e.Keyspace(), e.Tenant.Slug, key, p, used)
				}
			})
		}
		notify(k.Subject, e.Key.ID)
		notify(e.TenantState.Subject, "")
	}
	for _, s := range f.Spends {
		if s.Amount > 0 {
			w.CreditsSpent(s.Keyspace, s.Tenant)
		}
	}
}
