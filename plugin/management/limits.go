package management

import (
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// A request is subject to at most ratelimit.MaxLines policies: the plan's or the
// tenant's that replace them, and its key's.
const (
	// MaxKeyLines bounds what a key's record states, its credits_limit included.
	MaxKeyLines = 5
	// MaxTenantLines bounds what a plan, and what a tenant's record, states.
	MaxTenantLines = ratelimit.MaxLines - MaxKeyLines
)

// overrideField is one of the fields rate, quota and concurrency of a request.
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

// applyOverrides writes the fields that are set into o, in their canonical form, and
// notes what is wrong with them. keyOwn says that they are a key's, which are counted
// for that key alone.
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

// checkOverride returns an override as it is stored: its lines joined with ", ".
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

func limitRecord(p *ratelimit.Policy) LimitRecord {
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
