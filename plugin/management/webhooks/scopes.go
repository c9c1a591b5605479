package webhooks

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// subscriptionScopes are the scopes that a token needs to subscribe a webhook to the events of a
// family, since the events hold the data that those scopes read. A product's own events need no
// such scope.
var subscriptionScopes = map[string][]string{
	"key":     {"keys:read"},
	"limit":   {"keys:read"},
	"quota":   {"keys:read", "tenants:read"},
	"tenant":  {"tenants:read"},
	"credits": {"tenants:read"},
	"audit":   {"audit:read"},
}

// checkSubscription returns 403 if the actor's token lacks a scope to read the data of a
// subscribed event.
func (c *call) checkSubscription(types []string) error {
	issuer, err := c.Issuer()
	if issuer == nil || err != nil {
		return err
	}
	var f management.Faults
	var lacks []string
	for i, t := range types {
		family, _, _ := strings.Cut(t, ".")
		needs := subscriptionScopes[family]
		if t == "*" {
			needs = []string{"keys:read", "tenants:read"} // "*" does not match checkpoints of the audit chain: see events.Matches.
		}
		missing := slices.DeleteFunc(slices.Clone(needs), func(scope string) bool { return management.HasScope(issuer.Scopes, scope) })
		if len(missing) == 0 {
			continue
		}
		f.Add(management.CodeInsufficientScope, management.Indexed("events", i), "receiving %s needs the scope %s, which the token lacks", t, strings.Join(missing, " and "))
		for _, scope := range missing {
			if !slices.Contains(lacks, scope) {
				lacks = append(lacks, scope)
			}
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return &management.Error{
		Status: http.StatusForbidden, Code: management.CodeInsufficientScope, Fields: f.Fields(),
		Detail: "The webhook would receive data that the token may not read: the token lacks the scope " + strings.Join(lacks, " and ") + ". Name only types of events that it may read.",
	}
}
