package gateway

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Watcher is notified about limits, for events. Its methods may be called during requests: they must
// not block.
type Watcher interface {
	// LimitReached is called when a limit denied a request of a key: at most once per key and hour,
	// and again after a restart. refused is valid only during the call.
	LimitReached(at time.Time, keyspace, tenant, key string, reason Reason, refused *ratelimit.Standing)
	// QuotaUsed is called with the amount spent of a quota of a key or, where key is "", of a tenant,
	// each time that it has changed and is QuotaWatched percent or more.
	QuotaUsed(at time.Time, keyspace, tenant, key string, p *ratelimit.Policy, used int64)
	// CreditsSpent is called when a tenant's balance in the store has fallen.
	CreditsSpent(keyspace, tenant string)
}

// QuotaWatched is the percentage of a quota from which a Watcher is notified.
const QuotaWatched = 80

// watcherBox is the type of what Gateway.watcher holds.
type watcherBox struct{ Watcher }

// Watch replaces the watcher; nil for none. Safe at any time.
func (g *Gateway) Watch(w Watcher) {
	if w == nil {
		g.watcher.Store(nil)
		return
	}
	g.watcher.Store(&watcherBox{w})
}

const watchedSeconds = 3600

// notifyLimit notifies the watcher of a denial if it is the key's first in the hour.
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

// notifyCounts notifies the watcher of what a flush has stored. keys are its keys.
func (g *Gateway) notifyCounts(f *Flush, keys map[*keytable.KeyState]*keytable.Entry, counts map[*ratelimit.Subject][]ratelimit.Counted) {
	w := g.watcher.Load()
	if w == nil {
		return
	}
	told := map[*ratelimit.Subject]bool{}
	for k, e := range keys {
		tell := func(s *ratelimit.Subject, key string) {
			if len(counts[s]) == 0 || told[s] {
				return
			}
			told[s] = true
			s.EachQuota(f.At, func(p *ratelimit.Policy, used int64) {
				if float64(used)*100 >= float64(p.Limit)*QuotaWatched {
					w.QuotaUsed(f.At, e.Keyspace(), e.Tenant.Slug, key, p, used)
				}
			})
		}
		tell(k.Subject, e.Key.ID)
		tell(e.TenantState.Subject, "")
	}
	for _, s := range f.Spends {
		if s.Amount > 0 {
			w.CreditsSpent(s.Keyspace, s.Tenant)
		}
	}
}
