package caddymodule

import (
	"maps"
	"slices"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/version"
)

// logReady logs that the keys of this configuration are checked from now on, with the program
// and the store that do so. The path of an SQLite file is absolute.
func (a *App) logReady() {
	store := a.compiled.Path
	if a.Store != nil && a.Store.Type == config.StorePostgres {
		store = config.StorePostgres + " " + store
	} else {
		store = config.StoreSQLite + " " + store
	}
	names := slices.Sorted(maps.Keys(a.compiled.Keyspaces))
	var plans []string
	for _, name := range names {
		for _, plan := range a.compiled.Keyspaces[name].PlanOrder {
			plans = append(plans, name+"/"+plan)
		}
	}
	a.log.Info("keygate is ready", "version", version.String(), "store", store, "limits", a.LimitsKind(), "keyspaces", names, "plans", plans)
}
