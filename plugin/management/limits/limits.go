// Package limits shows how much of the limits of a key or a tenant is left, and resets them.
package limits

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Record is the current state of one limit.
type Record struct {
	// Name is the policy's name, as in the RateLimit headers.
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Per is "key", "tenant" or "address", for each of which the limit is counted.
	Per string `json:"per"`
	// Limit is the size of the bucket, the quota, or the number of concurrent requests; nil for
	// credits.
	Limit *int64 `json:"limit"`
	// Remaining is what can be spent now; for credits, the balance. It is nil for limits per
	// address, since each address has its own count.
	Remaining *int64 `json:"remaining"`
	// Used is what was spent, or the number of running requests; nil for credits and limits per
	// address.
	Used *int64 `json:"used"`
	// ResetAt is when Remaining reaches Limit again; nil if it already has, or if the time is not
	// known.
	ResetAt *time.Time `json:"reset_at"`
}

// subject is the tenant or key that limits are counted for.
type subject struct {
	view   *gateway.View
	tenant *gateway.Tenant
	key    *gateway.Key
	plan   *gateway.Plan
}

// readSubject reads a tenant or, if id is not empty, a key.
func readSubject(c *management.Call, slug, id string) (s subject, err error) {
	s.view = c.View
	if id != "" {
		if s.key, s.tenant, err = c.FindKey(id, false); err != nil {
			return s, err
		}
	} else if s.tenant, err = c.FindTenant(slug, false); err != nil {
		return s, err
	}
	s.plan, err = c.FindPlan(s.tenant)
	return s, err
}

// Key returns the state of every limit that a key's requests are subject to, including its
// tenant's limits.
func Key(ctx context.Context, m *management.Manager, a management.Actor, keyspace, id string) (management.Page[Record], error) {
	return status(ctx, m, a, keyspace, "", id)
}

// Tenant returns the state of every limit that is counted for a tenant as a whole.
func Tenant(ctx context.Context, m *management.Manager, a management.Actor, keyspace, slug string) (management.Page[Record], error) {
	return status(ctx, m, a, keyspace, slug, "")
}

func status(ctx context.Context, m *management.Manager, a management.Actor, keyspace, slug, id string) (page management.Page[Record], err error) {
	var s subject
	if err := m.Read(ctx, a, keyspace, func(c *management.Call) (err error) {
		s, err = readSubject(c, slug, id)
		return err
	}); err != nil {
		return page, err
	}
	now := m.Clock()
	all, err := m.Engine().Limits(ctx, s.view, s.tenant, s.key, now)
	if err != nil {
		return page, err
	}
	page.Data = make([]Record, 0, len(all))
	for i := range all {
		page.Data = append(page.Data, newRecord(&all[i], s.tenant, now))
	}
	limits, err := gateway.TenantLimits(s.plan, s.tenant)
	if err != nil {
		return page, err
	}
	for _, p := range limits {
		if p.Per == ratelimit.PerAddress {
			r := management.NewLimitRecord(p)
			page.Data = append(page.Data, Record{Name: r.Name, Kind: r.Kind, Per: r.Per, Limit: r.Limit})
		}
	}
	return page, nil
}

func newRecord(st *ratelimit.Standing, t *gateway.Tenant, now time.Time) Record {
	l := management.NewLimitRecord(st.Policy)
	r := Record{Name: l.Name, Kind: l.Kind, Per: l.Per, Remaining: &st.Remaining}
	if st.Policy.Kind == ratelimit.Credits {
		// The balance may still include what requests spent within the last second.
		r.Remaining = &t.Credits
		return r
	}
	used := max(0, st.Limit-st.Remaining)
	r.Limit, r.Used = &st.Limit, &used
	if st.Reset > 0 {
		at := now.Add(st.Reset).UTC().Truncate(time.Second)
		if at.Before(now.Add(st.Reset)) {
			at = at.Add(time.Second)
		}
		r.ResetAt = &at
	}
	return r
}

// ResetKey resets limits that are counted for a key, and returns the state of all its limits.
// policies are the names of the limits to reset; all if it is empty.
func ResetKey(ctx context.Context, m *management.Manager, a management.Actor, keyspace, id string, policies []string) (management.Page[Record], error) {
	return reset(ctx, m, a, keyspace, "", id, policies)
}

// ResetTenant resets limits that are counted for a tenant as a whole, and returns the state of all these limits. policies are
// the names of the limits to reset; all limits are reset if it is empty.
func ResetTenant(ctx context.Context, m *management.Manager, a management.Actor, keyspace, slug string, policies []string) (management.Page[Record], error) {
	return reset(ctx, m, a, keyspace, slug, "", policies)
}

func reset(ctx context.Context, m *management.Manager, a management.Actor, keyspace, slug, id string, policies []string) (page management.Page[Record], err error) {
	if a.Tenant != "" {
		return page, management.Reject(http.StatusForbidden, management.CodeInsufficientScope, "A token of one tenant can't reset limits.")
	}
	now := m.Clock()
	var s subject
	// The audit event is stored before the reset, so that no reset is without an event.
	err = m.Write(ctx, a, keyspace, func(c *management.Call) (err error) {
		if s, err = readSubject(c, slug, id); err != nil {
			return err
		}
		can, err := s.resettable()
		if err != nil {
			return err
		}
		var f management.Faults
		for i, name := range policies {
			if !slices.Contains(can, name) {
				f.Invalid("policies/"+strconv.Itoa(i), "is not a limit that can be reset here; those are %s", management.OrNone(can))
			}
		}
		if err := f.Err(); err != nil {
			return err
		}
		names := policies
		if len(names) == 0 {
			names = can
		}
		c.Event = &audit.Event{Action: "tenant.limits_reset", Target: s.tenant.Slug, Tenant: s.tenant.Slug, After: audit.Fields{"policies": management.OrEmpty(names)}}
		if s.key != nil {
			c.Event.Action, c.Event.Target, c.Event.Key = "key.limits_reset", s.key.ID, s.key.ID
		}
		return nil
	})
	if err != nil {
		return page, err
	}
	if err := m.Engine().ResetLimits(ctx, s.view, s.tenant, s.key, now, policies...); err != nil {
		return page, err
	}
	return status(ctx, m, a, keyspace, slug, id)
}

// resettable returns the names of the subject's own rates and quotas. Concurrency falls when
// requests end, and credits can be added, so neither is reset.
func (s *subject) resettable() ([]string, error) {
	limits, err := gateway.TenantLimits(s.plan, s.tenant)
	if err != nil {
		return nil, err
	}
	per := ratelimit.PerTenant
	if s.key != nil {
		own, err := s.key.Limits()
		if err != nil {
			return nil, err
		}
		per, limits = ratelimit.PerKey, slices.Concat(limits, own)
	}
	names := []string{}
	for _, p := range limits {
		if p.Per == per && (p.Kind == ratelimit.Rate || p.Kind == ratelimit.Quota) && !slices.Contains(names, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names, nil
}
