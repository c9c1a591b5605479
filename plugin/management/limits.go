package management

import (
	"cmp"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// A request is subject to at most ratelimit.MaxLines policies: those of its key, and those of the
// plan or of the tenant's record, which replace them.
const (
	// MaxKeyLines bounds the limits in a key's record, its credits_limit included.
	MaxKeyLines = 5
	// MaxTenantLines bounds the limits of a plan, and those in a tenant's record.
	MaxTenantLines = ratelimit.MaxLines - MaxKeyLines
)

// overrideField is one of the fields rate, quota and concurrency of a request, and the place where
// its value is stored.
type overrideField struct {
	name  string
	value Optional[string]
	into  *string
	parse func(string) (*ratelimit.Policy, error)
}

func overrideFields(o *gateway.Overrides, rate, quota, concurrency Optional[string]) []overrideField {
	return []overrideField{
		{"rate", rate, &o.Rate, ratelimit.ParseRate},
		{"quota", quota, &o.Quota, ratelimit.ParseQuota},
		{"concurrency", concurrency, &o.Concurrency, ratelimit.ParseConcurrency},
	}
}

// applyOverrides writes the present fields to o in their canonical form, and records their faults.
// keyOwn is true for the limits of a key, which are counted for that key alone.
func applyOverrides(f *Faults, o *gateway.Overrides, rate, quota, concurrency Optional[string], keyOwn bool) {
	lines, most := 0, MaxTenantLines
	if keyOwn {
		most = MaxKeyLines - 1
	}
	last := ""
	for _, field := range overrideFields(o, rate, quota, concurrency) {
		if field.value.Set {
			last = field.name
			*field.into = ""
			if !field.value.Null {
				*field.into = checkOverride(f, field, keyOwn)
			}
		}
		if *field.into != "" {
			lines += strings.Count(*field.into, ",") + 1
		}
	}
	if lines > most && last != "" {
		f.Invalid(last, "together with the other limits of this record there are %d, at most %d are possible", lines, most)
	}
}

// checkOverride returns an override in its stored form, which is its limits joined with ", ".
func checkOverride(f *Faults, field overrideField, keyOwn bool) string {
	if len(field.value.Value) > 500 {
		f.Invalid(field.name, "is too long")
		return ""
	}
	parts := strings.Split(field.value.Value, ",")
	seen := map[string]bool{}
	for i, part := range parts {
		part = strings.Join(strings.Fields(part), " ")
		parts[i] = part
		p, err := field.parse(part)
		switch {
		case err != nil:
			f.Invalid(field.name, "%s", err)
			return ""
		case keyOwn && (strings.HasSuffix(p.Name, ";tenant") || strings.HasSuffix(p.Name, ";address")):
			f.Invalid(field.name, "a key's own limit is counted for that key, not %q", p.Name)
			return ""
		case field.name == "concurrency" && len(parts) > 1:
			f.Invalid(field.name, "must be one limit: several can stand in a plan")
			return ""
		case seen[p.Name]:
			f.Invalid(field.name, "states %q twice", p.Name)
			return ""
		}
		seen[p.Name] = true
	}
	return strings.Join(parts, ", ")
}

var (
	kindNames = map[ratelimit.Kind]string{
		ratelimit.Rate: "rate", ratelimit.Quota: "quota", ratelimit.Concurrency: "concurrency", ratelimit.Credits: "credits",
	}
	perNames = map[ratelimit.Per]string{
		ratelimit.PerKey: "key", ratelimit.PerTenant: "tenant", ratelimit.PerAddress: "address",
	}
)

func NewLimitRecord(p *ratelimit.Policy) LimitRecord {
	r := LimitRecord{Kind: kindNames[p.Kind], Name: p.Name, Per: perNames[p.Per]}
	if p.Kind != ratelimit.Credits {
		r.Limit = &p.Limit
	}
	if p.Kind == ratelimit.Rate {
		seconds := p.Period.Seconds()
		r.Period, r.Burst = &seconds, &p.Burst
	}
	return r
}

// PlanRecord is a plan as the API shows it.
type PlanRecord struct {
	Name    string `json:"name"`
	Default bool   `json:"default"`
	// Deny reports whether the plan gives no access. Observe reports whether exceeded limits are
	// only counted and reject no request.
	Deny    bool `json:"deny"`
	Observe bool `json:"observe"`
	// MaxKeys is the largest number of active keys; nil for no bound.
	MaxKeys *int `json:"max_keys"`
	// Scopes are the scopes as configured; nil for all. AllowedScopes also lists the scopes that
	// they include.
	Scopes        []string      `json:"scopes"`
	AllowedScopes []string      `json:"allowed_scopes"`
	Limits        []LimitRecord `json:"limits"`
	// OnLeak is the action for a key that is reported leaked: "revoke", "disable" or "report".
	OnLeak string `json:"on_leak"`
	// OnRedisDown is the behaviour of shared limits while Redis is unreachable: "local", "open" or
	// "closed".
	OnRedisDown string `json:"on_redis_down"`
	// Was holds the names of former plans whose tenants now have this plan.
	Was []string `json:"was"`
}

// LimitRecord is one limit of a plan.
type LimitRecord struct {
	// Kind is "rate", "quota", "concurrency" or "credits". Per is "key", "tenant" or "address".
	Kind string `json:"kind"`
	Name string `json:"name"`
	Per  string `json:"per"`
	// Limit is the number of requests per period, of units per calendar period, or of concurrent
	// requests; nil for credits.
	Limit *int64 `json:"limit"`
	// Period, in seconds, and Burst, in requests, belong to a rate; nil for other kinds.
	Period *float64 `json:"period_seconds"`
	Burst  *int64   `json:"burst"`
}

// Plans returns the plans of a keyspace in the order of the configuration.
func (m *Manager) Plans(keyspace string) (Page[PlanRecord], error) {
	ks, err := m.Keyspace(keyspace)
	if err != nil {
		return Page[PlanRecord]{}, err
	}
	page := Page[PlanRecord]{Data: make([]PlanRecord, 0, len(ks.PlanOrder))}
	for _, name := range ks.PlanOrder {
		if p := ks.Plans[name]; p != nil {
			page.Data = append(page.Data, planRecord(ks, p))
		}
	}
	return page, nil
}

func planRecord(ks *gateway.Keyspace, p *gateway.Plan) PlanRecord {
	r := PlanRecord{
		Name: p.Name, Default: p.Name == ks.DefaultPlan, Deny: p.Deny, Observe: p.Observe,
		Scopes: p.Scopes, AllowedScopes: OrEmpty(ks.Scopes.List(p.Cap)), Limits: make([]LimitRecord, 0, len(p.Limits)),
		OnLeak: cmp.Or(p.OnLeak, "report"), OnRedisDown: cmp.Or(p.OnRedisDown, "local"), Was: OrEmpty(p.Was),
	}
	if p.MaxKeys > 0 {
		r.MaxKeys = &p.MaxKeys
	}
	for _, l := range p.Limits {
		r.Limits = append(r.Limits, NewLimitRecord(l))
	}
	return r
}
