package gateway

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Watcher hears where limits stand, for events. Its methods are called beside requests or
// in their course: they must not block.
type Watcher interface {
	// LimitReached says that a request of a key was refused by a limit; at most once per key and
	// hour, and again after a restart. refused is good during the call only.
	LimitReached(at time.Time, keyspace, tenant, key string, reason Reason, refused *ratelimit.Standing)
	// QuotaUsed says what is spent of a quota, of a key or, where that is "", of a tenant, each time
	// that it has moved and is at QuotaWatched percent or more.
	QuotaUsed(at time.Time, keyspace, tenant, key string, p *ratelimit.Policy, used int64)
	// CreditsSpent says that a tenant's balance in the store has fallen.
	CreditsSpent(keyspace, tenant string)
}

// QuotaWatched is the percentage of a quota from which a Watcher hears of it.
const QuotaWatched = 80

// watcherBox is the type of what Gateway.watcher holds.
type watcherBox struct{ Watcher }

// Watch lets w hear from now on, nil nobody. Safe at any time.
func (g *Gateway) Watch(w Watcher) {
	if w == nil {
		g.watcher.Store(nil)
		return
	}
	g.watcher.Store(&watcherBox{w})
}

const watchedSeconds = 3600

// notifyLimit tells of a refusal, where this is the key's first in the hour.
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

// notifyCounts tells of what a flush has stored. keys are those it was about.
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
