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

// An actor of one tenant must not widen what the operator has granted to the tenant. The functions
// of this file enforce that.

// RequireOperator returns an *Error of status 403 for an actor of one tenant. what completes the
// sentence "A token of one tenant can't …", such as "change plans".
func (a Actor) RequireOperator(what string) error {
	if a.Tenant == "" {
		return nil
	}
	return Reject(http.StatusForbidden, CodeInsufficientScope, "A token of one tenant can't %s.", what)
}

// confineTenant rejects a change of an actor to its own tenant, unless the change is to the name
// or the metadata. before and after hold the fields that differ.
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

// confineKey rejects a change that loosens the limits of a key, if the actor is of one tenant.
//
// The actor can still delete the key and create one without limits of its own. That does not widen
// the operator's grant. Every key is subject to the limits of the plan or of the tenant's record,
// which no key can loosen. Limits per tenant are counted over all keys, deleted ones included. Limits
// per key are inherited, see takeAllowance. The plan's max_keys bounds the active keys. A key's own
// limits only divide the tenant's share between its keys.
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

// policies parses an override as it is stored. It leaves out a line that is not valid.
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

// tightens reports whether the limits in now allow nothing that the limits in old reject: for each limit in old, now has a
// limit that is at least as tight.
func tightens(old, now []*ratelimit.Policy) bool {
	return !slices.ContainsFunc(old, func(o *ratelimit.Policy) bool {
		return !slices.ContainsFunc(now, func(n *ratelimit.Policy) bool { return asTight(n, o) })
	})
}

// asTight reports whether the limit n allows nothing that the limit o rejects. Both have the same
// kind.
func asTight(n, o *ratelimit.Policy) bool {
	switch n.Kind {
	case ratelimit.Rate:
		// The comparison is n.Limit / n.Period <= o.Limit / o.Period, multiplied out in 128 bits.
		nh, nl := bits.Mul64(uint64(n.Limit), uint64(o.Period))
		oh, ol := bits.Mul64(uint64(o.Limit), uint64(n.Period))
		return n.Burst <= o.Burst && (nh < oh || nh == oh && nl <= ol)
	case ratelimit.Quota:
		return n.Calendar == o.Calendar && n.Limit <= o.Limit
	}
	return n.Limit <= o.Limit
}
