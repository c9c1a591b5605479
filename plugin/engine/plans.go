package engine

import "time"

// activePoll is how often migratePlans asks whether its configuration is active.
const activePoll = 100 * time.Millisecond

// migratePlans moves the tenants of former plans to the plans that replace them. It waits until the configuration is
// active: if another part of the program fails to start, the former configuration continues, and that one knows only the
// former plans. Until the tenants are moved, the new plan's limits apply to them under the former plan's name.
func (e *Engine) migratePlans(a *adopted) {
	former := false
	for _, ks := range a.View.Keyspaces {
		for _, p := range ks.Plans {
			former = former || len(p.Was) > 0
		}
	}
	if !former {
		return
	}
	tick := time.NewTicker(activePoll)
	defer tick.Stop()
	for !a.active() {
		select {
		case <-tick.C:
		case <-a.life.Done():
			return
		}
	}
	for name, ks := range a.View.Keyspaces {
		for _, plan := range ks.PlanOrder {
			for _, old := range ks.Plans[plan].Was {
				n, err := e.Store().RenamePlan(a.life, name, old, plan)
				if err != nil {
					a.Log.Error("tenants could not be moved from a former plan to the one that replaces it: the new plan's limits apply to them already, and the next start moves them",
						"keyspace", name, "from", old, "to", plan, "error", err)
				} else if n > 0 {
					a.Log.Info("tenants were moved from a former plan to the one that replaces it", "keyspace", name, "from", old, "to", plan, "tenants", n)
				}
			}
		}
	}
}
