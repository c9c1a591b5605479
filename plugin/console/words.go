package console

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// reasonText returns the title of a reason, or the name if the reason is unknown.
func reasonText(name string) string {
	if r, ok := reasonOf(name); ok {
		return r.Title()
	}
	return name
}

// reasonHelp returns the remedy for a reason, or "" if the reason is unknown.
func reasonHelp(name string) string {
	if r, ok := reasonOf(name); ok {
		return r.Help()
	}
	return ""
}

func reasonOf(name string) (gateway.Reason, bool) {
	if name == gateway.Allowed.String() {
		return gateway.Allowed, true
	}
	return gateway.ParseReason(name)
}

// actions describes the actions of audit events.
var actions = map[string]string{
	"key.created": "created the key", "key.updated": "changed the key", "key.rotated": "rotated the key's secret", "key.revoked": "revoked the key",
	"key.disabled": "disabled the key", "key.enabled": "enabled the key", "key.deleted": "deleted the key", "key.imported": "imported the key",
	"key.leaked": "reported the key as leaked", "key.limits_reset": "reset the key's limits",
	"tenant.created": "created the tenant", "tenant.updated": "changed the tenant", "tenant.suspended": "suspended the tenant",
	"tenant.activated": "activated the tenant", "tenant.deleted": "deleted the tenant", "tenant.erased": "erased the tenant",
	"tenant.credits_added": "added credits", "tenant.credits_spent": "spent credits", "tenant.limits_reset": "reset the tenant's limits",
	"token.created": "created a management token", "token.revoked": "revoked a management token",
	"webhook.created": "created a webhook", "webhook.updated": "changed a webhook", "webhook.deleted": "deleted a webhook",
	"webhook.secret_rotated": "rotated a webhook's secret",
	"session.started":        "signed in to the console", "session.ended": "ended a session at the console", "portal.link_created": "made a portal link",
}

// eventText returns the description of an audit event's action, or the action itself if it is
// unknown.
func eventText(action string) string {
	if text, ok := actions[action]; ok {
		return text
	}
	return action
}

// change is one field that an audit event changed.
type change struct{ Field, Before, After string }

// changes returns the fields that an audit event changed, sorted by name.
func changes(r audit.Record) (out []change) {
	names := map[string]bool{}
	for name := range r.Before {
		names[name] = true
	}
	for name := range r.After {
		names[name] = true
	}
	for name := range names {
		before, was := r.Before[name]
		after, is := r.After[name]
		c := change{Field: strings.ReplaceAll(name, "_", " ")}
		if was {
			c.Before = valueText(before)
		}
		if is {
			c.After = valueText(after)
		}
		if c.Before == c.After || !was && c.After == "none" {
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.Field, b.Field) })
	return out
}

// valueText returns the value of an audit event's field as people read it.
func valueText(v any) string {
	switch t := v.(type) {
	case nil:
		return "none"
	case string:
		if t == "" {
			return "none"
		}
		return t
	case bool:
		if t {
			return "yes"
		}
		return "no"
	case float64:
		return count(int64(t))
	case []any:
		if len(t) == 0 {
			return "none"
		}
		words := make([]string, len(t))
		for i, e := range t {
			words[i] = fmt.Sprint(e)
		}
		return strings.Join(words, ", ")
	case map[string]any:
		if len(t) == 0 {
			return "none"
		}
		b, _ := json.Marshal(t)
		return string(b)
	}
	return fmt.Sprint(v)
}
