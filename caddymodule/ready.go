package caddymodule

import (
	"maps"
	"slices"

	"github.com/keygate-dev/keygate/caddymodule/version"
)

// logReady logs that the keys of this configuration are checked from now on, with the program
// and the store that do so. The path of an SQLite file is absolute.
func (a *App) logReady() {
	store := a.path
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
	a.log.Info("keygate is ready", "version", version.String(), "store", store, "limits", a.limitsKind(), "keyspaces", names, "plans", plans)
}

// limitsKind returns where rates, quotas and concurrency are counted.
func (c *Config) limitsKind() string {
	if c.Limits != nil && c.Limits.Type != "" {
		return c.Limits.Type
	}
	return limitsLocal
}
