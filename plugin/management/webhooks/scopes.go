package webhooks

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// subscriptionScopes is what a token must be allowed to read to have events told to a webhook, by the family of
// their types: what it can't ask for must not be sent to it either. A product's own events need nothing
// more: whoever may make webhooks is meant to hear of them.
var subscriptionScopes = map[string][]string{
	"key":     {"keys:read"},
	"limit":   {"keys:read"},
	"quota":   {"keys:read", "tenants:read"},
	"tenant":  {"tenants:read"},
	"credits": {"tenants:read"},
	"audit":   {"audit:read"},
}

// checkSubscription refuses, with 403, types of events of which the token by which the actor acts could not read
// otherwise.
func (c *call) checkSubscription(types []string) error {
	maker, err := c.Issuer()
	if maker == nil || err != nil {
		return err
	}
	var f management.Faults
	var lacks []string
	for i, t := range types {
		family, _, _ := strings.Cut(t, ".")
		needs := subscriptionScopes[family]
		if t == "*" {
			needs = []string{"keys:read", "tenants:read"} // heads of the audit are not in it: see hears
		}
		missing := slices.DeleteFunc(slices.Clone(needs), func(scope string) bool { return management.HasScope(maker.Scopes, scope) })
		if len(missing) == 0 {
			continue
		}
		f.Add(management.CodeInsufficientScope, management.Indexed("events", i), "hearing of %s needs the scope %s, which the token lacks", t, strings.Join(missing, " and "))
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
		Detail: "The token may not read what the webhook would be told: it lacks the scope " + strings.Join(lacks, " and ") + ". Name only types of events that it may read.",
	}
}
