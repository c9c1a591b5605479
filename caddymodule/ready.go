package caddymodule

import (
	"maps"
	"slices"
)

// logReady logs that the keys of this configuration are checked from now on, with the program
// and the store that do so. The path of an SQLite file is absolute.
func (a *App) logReady() {
	_, store, _ := a.identity(a.secrets) // build has refused what has none
	if a.Store != nil && a.Store.Type == storePostgres {
		store = storePostgres + " " + store
	} else {
		store = storeSQLite + " " + store
	}
	names := slices.Sorted(maps.Keys(a.keyspaces))
	var plans []string
	for _, name := range names {
		for _, plan := range a.keyspaces[name].PlanOrder {
			plans = append(plans, name+"/"+plan)
		}
	}
	a.log.Info("keygate is ready", "version", Version(), "store", store, "limits", a.limitsKind(), "keyspaces", names, "plans", plans)
}

// limitsKind returns where rates, quotas and concurrency are counted.
func (a *App) limitsKind() string {
	if a.Limits != nil && a.Limits.Type != "" {
		return a.Limits.Type
	}
	return limitsLocal
}
