package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// CheckPeppers returns an error if the configured peppers, the secrets mixed into key digests, are not
// those of the store's keys. With a wrong pepper every key would look unknown. Keys created with the
// wrong pepper would be lost when an operator corrects the pepper.
func CheckPeppers(ctx context.Context, s gateway.Store, h *apikey.Hasher) error {
	known, err := s.Peppers(ctx)
	if err != nil {
		return fmt.Errorf("reading the check values of the peppers: %w", err)
	}
	_, primary, _ := strings.Cut(string(h.PrimaryAlgorithm()), ":")
	return matchPeppers(known, h.Checks(), primary)
}

// matchPeppers compares the stored check values of peppers with the configured ones. Both maps are by
// pepper id. A store without check values accepts any peppers. Otherwise only the primary pepper may be
// new, and the store must know at least one other configured pepper.
func matchPeppers(known, configured map[string]string, primary string) error {
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

// checkPlans returns an error if a configuration lacks a plan that tenants in the store hold.
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
