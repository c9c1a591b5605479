package keytable

import "github.com/keygate-dev/keygate/plugin/ratelimit"

// Policies parses the limits.
func (o Overrides) Policies() ([]*ratelimit.Policy, error) {
	var out []*ratelimit.Policy
	for _, part := range []struct {
		text  string
		parse func(string) ([]*ratelimit.Policy, error)
	}{
		{o.Rate, ratelimit.ParseRates}, {o.Quota, ratelimit.ParseQuotas}, {o.Concurrency, ratelimit.ParseConcurrencies},
	} {
		if part.text == "" {
			continue
		}
		ps, err := part.parse(part.text)
		if err != nil {
			return nil, err
		}
		out = append(out, ps...)
	}
	return out, nil
}

// Limits parses the limits of the key itself, which apply in addition to the limits of its plan.
// Each of them counts this key's requests alone, even if a plan would count such a limit for the
// whole tenant.
func (k *Key) Limits() ([]*ratelimit.Policy, error) {
	return (&ownLimits{k.Overrides, k.CreditsLimit}).policies()
}

// ownLimits are a key's own limits.
type ownLimits struct {
	Overrides
	credits *int64
}

// policies returns the limits; none for nil.
func (l *ownLimits) policies() ([]*ratelimit.Policy, error) {
	if l == nil {
		return nil, nil
	}
	out, err := l.Overrides.Policies()
	if err != nil {
		return nil, err
	}
	for i, p := range out {
		if p.Per != ratelimit.PerKey {
			own := *p
			own.Per = ratelimit.PerKey
			out[i] = &own
		}
	}
	if l.credits != nil {
		out = append(out, ratelimit.CreditsLimit(*l.credits))
	}
	return out, nil
}
