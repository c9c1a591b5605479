package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// This file holds what must be true of a store and a configuration together.

// checkPeppers refuses a configuration whose peppers are not those of the store: under
// a wrong one every key would look unknown, and new keys would be lost with it.
func checkPeppers(ctx context.Context, s gateway.Store, h *apikey.Hasher) error {
	known, err := s.Peppers(ctx)
	if err != nil {
		return fmt.Errorf("reading the check values of the peppers: %w", err)
	}
	_, primary, _ := strings.Cut(string(h.PrimaryAlgorithm()), ":")
	return fitPeppers(known, h.Checks(), primary)
}

// fitPeppers compares the check values that a store knows with the configured ones,
// both by the peppers' ids. A store that has seen no pepper takes any. Otherwise only the
// current one, primary, may be new, and then one that was in use stands behind it.
func fitPeppers(known, configured map[string]string, primary string) error {
	if len(known) == 0 {
		return nil
	}
	if len(configured) == 0 {
		return errors.New("the store's keys are hashed with a pepper, and the configuration has none: state the pepper they were made with")
	}
	familiar := 0
	for id, check := range configured {
		stored, ok := known[id]
		if ok && stored != check {
			return fmt.Errorf("the pepper with the id %s is not the one that the store's keys were made with", id)
		}
		if ok {
			familiar++
		}
	}
	if familiar == 0 {
		return errors.New("the pepper is not one that the store's keys were made with: a new pepper goes in front of the former one, which stays until its keys are rehashed")
	}
	for id := range configured {
		if _, ok := known[id]; !ok && id != primary {
			return fmt.Errorf("the previous pepper with the id %s was never used with this store: only the first pepper may be new", id)
		}
	}
	return nil
}

// checkPlans refuses a configuration that lacks a plan which tenants hold.
func checkPlans(ctx context.Context, s gateway.Store, v *gateway.View) error {
	for _, name := range slices.Sorted(maps.Keys(v.Keyspaces)) {
		ks := v.Keyspaces[name]
		held, err := s.TenantsByPlan(ctx, name)
		if err != nil {
			return fmt.Errorf("counting the tenants of each plan: %w", err)
		}
		for _, plan := range slices.Sorted(maps.Keys(held)) {
			if _, ok := ks.Plans[plan]; ok || held[plan] == 0 {
				continue
			}
			noun := "tenants are"
			if held[plan] == 1 {
				noun = "tenant is"
			}
			return fmt.Errorf("keyspace %s: %d %s on plan '%s', which is not in the configuration: keep the plan, or write 'was %s' into the plan that takes them over",
				name, held[plan], noun, plan, plan)
		}
	}
	return nil
}

// activePoll is how often inherit looks whether its configuration has come up.
const activePoll = 100 * time.Millisecond

// inherit moves the tenants of former plans to the plans that took them over. It waits
// until the configuration has come up as a whole: another app may still refuse to start, and the
// configuration before, which goes on then, knows only the former plans. Until they are moved,
// such tenants are judged by the new plan under its former name.
func (a *App) inherit(s gateway.Store) {
	former := false
	for _, ks := range a.view.Keyspaces {
		for _, p := range ks.Plans {
			former = former || len(p.Was) > 0
		}
	}
	if !former {
		return
	}
	tick := time.NewTicker(activePoll)
	defer tick.Stop()
	for {
		if app, err := caddy.ActiveContext().AppIfConfigured(appName); err == nil && app == caddy.App(a) {
			break
		}
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
	}
	for name, ks := range a.view.Keyspaces {
		for _, plan := range ks.PlanOrder {
			for _, old := range ks.Plans[plan].Was {
				n, err := s.RenamePlan(a.ctx, name, old, plan)
				if err != nil {
					a.log.Error("tenants of a former plan could not be moved; they are judged by the new one nevertheless, and moved at the next start",
						"keyspace", name, "from", old, "to", plan, "error", err)
				} else if n > 0 {
					a.log.Info("tenants of a former plan were moved", "keyspace", name, "from", old, "to", plan, "tenants", n)
				}
			}
		}
	}
}
