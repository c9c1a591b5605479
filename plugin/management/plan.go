package management

import (
	"cmp"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// PlanRecord is a plan as the API shows it.
type PlanRecord struct {
	Name    string `json:"name"`
	Default bool   `json:"default"`
	// Deny says that the plan gives no access; Observe that its refusals only count.
	Deny    bool `json:"deny"`
	Observe bool `json:"observe"`
	// MaxKeys caps active keys; null: no cap.
	MaxKeys *int `json:"max_keys"`
	// Scopes as written; null: no cap. AllowedScopes spells out what they include.
	Scopes        []string      `json:"scopes"`
	AllowedScopes []string      `json:"allowed_scopes"`
	Limits        []LimitRecord `json:"limits"`
	// OnLeak is what is done with a key that is reported leaked: "revoke", "disable" or "report".
	OnLeak string `json:"on_leak"`
	// OnRedisDown is what holds while shared limits can't be asked: "local", "open" or "closed".
	OnRedisDown string `json:"on_redis_down"`
	// Was names former plans whose tenants this one took over.
	Was []string `json:"was"`
}

// LimitRecord is one limit of a plan.
type LimitRecord struct {
	// Kind is "rate", "quota", "concurrency" or "credits", Per "key", "tenant" or "address".
	Kind string `json:"kind"`
	Name string `json:"name"`
	Per  string `json:"per"`
	// Limit is requests a period, units a calendar period, or requests at once; null for credits.
	Limit *int64 `json:"limit"`
	// Period and Burst of a rate, in seconds and requests.
	Period *float64 `json:"period_seconds"`
	Burst  *int64   `json:"burst"`
}

// Plans returns the keyspace's plans as configured, in the order written.
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
		r.Limits = append(r.Limits, limitRecord(l))
	}
	return r
}
