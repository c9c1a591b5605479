package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// maxPlanLimits is the number of limits that a plan may have. Of the ratelimit.MaxLines limits of
// one request, four are reserved for the key's own: a rate, a quota, a concurrency limit and a
// bound on credits.
const maxPlanLimits = ratelimit.MaxLines - 4

// Values of on_redis_down: what a plan's limits do while Redis is unreachable.
const (
	redisDownLocal  = "local"
	redisDownOpen   = "open"
	redisDownClosed = "closed"
)

// plans compiles the plans into gk, whose scopes must be set before. The name of a former plan maps to the plan that replaces
// it. So tenants whose record still holds the former name are checked by the new plan at once.
func (c *KeyspaceConfig) plans(gk *gateway.Keyspace) error {
	configs := c.Plans
	if len(configs) == 0 {
		configs = []*PlanConfig{{Name: defaultPlanName}}
	}
	gk.Plans = make(map[string]*gateway.Plan, len(configs))
	for i, pc := range configs {
		path := fmt.Sprintf("plans[%d]", i)
		if pc == nil {
			return Errorf(path, "the plan is null")
		}
		p, err := pc.compile(gk)
		if err != nil {
			return within(path, err)
		}
		if _, ok := gk.Plans[p.Name]; ok {
			return Errorf(path, "plan '%s' is stated twice", p.Name)
		}
		gk.Plans[p.Name] = p
		gk.PlanOrder = append(gk.PlanOrder, p.Name)
	}
	for i, pc := range configs {
		for _, old := range pc.Was {
			path := fmt.Sprintf("plans[%d].was", i)
			if heir, ok := gk.Plans[old]; ok {
				if heir.Name == old {
					return Errorf(path, "plan '%s' was '%s', but a plan with that name exists", pc.Name, old)
				}
				return Errorf(path, "plan '%s' was '%s', but so was plan '%s'", pc.Name, old, heir.Name)
			}
			gk.Plans[old] = gk.Plans[pc.Name]
		}
	}
	gk.DefaultPlan = c.DefaultPlan
	switch {
	case c.DefaultPlan == "":
		if len(gk.PlanOrder) == 1 {
			gk.DefaultPlan = gk.PlanOrder[0]
		}
	case !slices.Contains(gk.PlanOrder, c.DefaultPlan):
		return Errorf("default_plan", "default_plan '%s': no such plan exists (available: %s)", c.DefaultPlan, strings.Join(gk.PlanOrder, ", "))
	}
	return nil
}

// compile checks one plan and builds it.
func (c *PlanConfig) compile(gk *gateway.Keyspace) (*gateway.Plan, error) {
	if !planName.MatchString(c.Name) {
		return nil, Errorf("name", "'%s' is not a plan name, which is 1 to 63 of letters, digits, '_', '.' and '-' and begins with a letter or digit", c.Name)
	}
	p := &gateway.Plan{
		Name: c.Name, Deny: c.Deny, Observe: c.Observe, MaxKeys: c.MaxKeys,
		Scopes: c.Scopes, Cap: gk.Scopes.All(), OnRedisDown: c.OnRedisDown, OnLeak: c.OnLeak, Was: c.Was,
	}
	if c.MaxKeys < 0 {
		return nil, Errorf("max_keys", "plan '%s': max_keys must be at least 1; remove it for no limit", c.Name)
	}
	if c.Deny && len(c.Limits) > 0 {
		return nil, Errorf("deny", "plan '%s' gives no access (deny), so its limits have no effect: remove deny or the limits", c.Name)
	}
	for i, s := range c.Scopes {
		if _, ok := gk.Scopes.Bit(s); !ok {
			return nil, Errorf("scopes", "plan '%s': unknown scope '%s' (%s)", c.Name, s, describeScopes(gk.Scopes))
		}
		if slices.Contains(c.Scopes[:i], s) {
			return nil, Errorf("scopes", "plan '%s': scope '%s' is stated twice", c.Name, s)
		}
	}
	if c.Scopes != nil {
		if len(c.Scopes) == 0 {
			return nil, Errorf("scopes", "plan '%s': scopes is empty; remove it for no restriction", c.Name)
		}
		p.Cap = gk.Scopes.Closure(c.Scopes)
	}
	switch c.OnRedisDown {
	case "":
		p.OnRedisDown = redisDownLocal
	case redisDownLocal, redisDownOpen, redisDownClosed:
	default:
		return nil, Errorf("on_redis_down", "plan '%s': on_redis_down is local, open or closed, not '%s'", c.Name, c.OnRedisDown)
	}
	switch c.OnLeak {
	case "":
		p.OnLeak = leaks.ReportOnly
	case leaks.Revoke, leaks.Disable, leaks.ReportOnly:
	default:
		return nil, Errorf("on_leak", "plan '%s': on_leak is revoke, disable or report, not '%s'", c.Name, c.OnLeak)
	}
	if len(c.Limits) > maxPlanLimits {
		return nil, Errorf("limits", "plan '%s' has %d limits: the maximum is %d, which leaves room for the limits of a key", c.Name, len(c.Limits), maxPlanLimits)
	}
	for i, text := range c.Limits {
		path := fmt.Sprintf("limits[%d]", i)
		limit, err := parseLimit(text)
		if err != nil {
			return nil, Errorf(path, "plan '%s': %w", c.Name, err)
		}
		for j, other := range p.Limits {
			if clashes(limit, other) {
				return nil, Errorf(path, "plan '%s': '%s' and '%s' limit the same thing twice", c.Name, c.Limits[j], text)
			}
		}
		p.Limits = append(p.Limits, limit)
	}
	for i, old := range c.Was {
		if !planName.MatchString(old) {
			return nil, Errorf("was", "plan '%s' was '%s', which is not a plan name", c.Name, old)
		}
		if slices.Contains(c.Was[:i], old) {
			return nil, Errorf("was", "plan '%s': was names '%s' twice", c.Name, old)
		}
	}
	return p, nil
}

// parseLimit parses one limit, such as "rate 300/m burst 60".
func parseLimit(text string) (*ratelimit.Policy, error) {
	kind, rest, _ := strings.Cut(text, " ")
	switch kind {
	case "rate":
		return ratelimit.ParseRate(rest)
	case "quota":
		return ratelimit.ParseQuota(rest)
	case "concurrency":
		return ratelimit.ParseConcurrency(rest)
	case "credits":
		if rest != "" {
			return nil, errors.New("credits takes no argument: the balance is the tenant's")
		}
		return ratelimit.NewCredits(), nil
	}
	return nil, fmt.Errorf("'%s' is not a limit: a limit begins with rate, quota, concurrency or credits", text)
}

// clashes reports whether one of two limits of a plan makes the other useless or has the same
// name. Two rates over the same period are useful together only if one allows more and the other
// has the larger burst.
func clashes(a, b *ratelimit.Policy) bool {
	if a.Kind != b.Kind || a.Per != b.Per {
		return a.Name == b.Name
	}
	switch a.Kind {
	case ratelimit.Rate:
		sameReach := a.Limit <= b.Limit && a.Burst <= b.Burst || a.Limit >= b.Limit && a.Burst >= b.Burst
		return a.Name == b.Name || a.Period == b.Period && sameReach
	case ratelimit.Quota:
		return a.Calendar == b.Calendar
	}
	return true
}

// describeScopes returns the list of a keyspace's scopes for an error message.
func describeScopes(s gateway.Scopes) string {
	if len(s.Names) == 0 {
		return "the keyspace names no scopes"
	}
	return "available: " + strings.Join(s.Names, ", ")
}
