package management

import (
	"math/bits"
	"net/http"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Whoever sees one tenant only stands on that tenant's side: what the operator granted
// is not theirs to raise.

// RequireOperator refuses, with 403, what only those may do who see all of a keyspace; what says
// what that is, as in "change plans".
func (a Actor) RequireOperator(what string) error {
	if a.Tenant == "" {
		return nil
	}
	return Reject(http.StatusForbidden, CodeInsufficientScope, "A token of one tenant can't %s.", what)
}

// confineTenant refuses changes to the actor's own tenant beyond its name and metadata.
// before and after hold the fields that differ.
func (c *Call) confineTenant(before, after audit.Fields) error {
	if c.Actor.Tenant == "" {
		return nil
	}
	var fields []string
	for name := range after {
		if name != "name" && name != "metadata" {
			fields = append(fields, name)
		}
	}
	return confined(fields, "A token of one tenant may change only its name and metadata.", "only an operator may change this")
}

// confineKey refuses a change by which a key of the actor's tenant would be limited less.
//
// It does not keep the actor from deleting such a key and making another that has no limits of its
// own, nor from making that one beside it: whoever may make keys may make them without limits. That
// is no way round what the operator granted. Each key is held to the plan's limits or the tenant's
// record's, none of which a key's own can loosen; those per tenant, quotas and credits are one count for
// all keys, deleted ones included; and there are never more than the plan's max_keys active. So the tenant
// takes no more with a key's limits gone than with max_keys keys that never had any. What must bound a
// tenant stands in its plan or its record, which it can't change; a key's own limits tell the tenant's
// keys from one another.
func (c *Call) confineKey(old, k *gateway.Key) error {
	if c.Actor.Tenant == "" {
		return nil
	}
	var fields []string
	if old.CreditsLimit != nil && (k.CreditsLimit == nil || *k.CreditsLimit > *old.CreditsLimit) {
		fields = append(fields, "credits_limit")
	}
	for _, f := range []struct {
		name, old, now string
		parse          func(string) (*ratelimit.Policy, error)
	}{
		{"rate", old.Rate, k.Rate, ratelimit.ParseRate},
		{"quota", old.Quota, k.Quota, ratelimit.ParseQuota},
		{"concurrency", old.Concurrency, k.Concurrency, ratelimit.ParseConcurrency},
	} {
		if f.old != f.now && !tightens(policies(f.old, f.parse), policies(f.now, f.parse)) {
			fields = append(fields, f.name)
		}
	}
	return confined(fields, "A token of one tenant may only tighten a key's limits.", "must not allow more than it does now")
}

func confined(fields []string, detail, each string) error {
	if len(fields) == 0 {
		return nil
	}
	slices.Sort(fields)
	e := Reject(http.StatusForbidden, CodeInsufficientScope, "%s", detail)
	for _, name := range fields {
		e.Fields = append(e.Fields, FieldError{Pointer: "/" + name, Detail: each})
	}
	return e
}

// policies reads an override as it is stored. A line that can't be read is left out.
func policies(stored string, parse func(string) (*ratelimit.Policy, error)) (out []*ratelimit.Policy) {
	if stored == "" {
		return nil
	}
	for _, line := range strings.Split(stored, ", ") {
		if p, err := parse(line); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// tightens says whether whatever now lets pass old would have let pass too: every old
// line has one that is as tight.
func tightens(old, now []*ratelimit.Policy) bool {
	return !slices.ContainsFunc(old, func(o *ratelimit.Policy) bool {
		return !slices.ContainsFunc(now, func(n *ratelimit.Policy) bool { return asTight(n, o) })
	})
}

// asTight says whether n never allows what o does not. Both are of one kind.
func asTight(n, o *ratelimit.Policy) bool {
	switch n.Kind {
	case ratelimit.Rate:
		// n.Limit / n.Period <= o.Limit / o.Period, in 128 bits.
		nh, nl := bits.Mul64(uint64(n.Limit), uint64(o.Period))
		oh, ol := bits.Mul64(uint64(o.Limit), uint64(n.Period))
		return n.Burst <= o.Burst && (nh < oh || nh == oh && nl <= ol)
	case ratelimit.Quota:
		return n.Calendar == o.Calendar && n.Limit <= o.Limit
	}
	return n.Limit <= o.Limit
}
