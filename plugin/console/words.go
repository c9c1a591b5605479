package console

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// reasons say what each outcome of a request means, and what helps.
var reasons = map[string]struct{ text, help string }{
	"allowed":              {"Allowed", "The request passed."},
	"missing_key":          {"No key", "Send the key in the place that the curl example shows."},
	"malformed_key":        {"Malformed key", "What was sent has not the shape of a key. It was probably cut or changed when it was copied: copy it anew, or rotate the key."},
	"invalid_key":          {"Unknown key", "No key like this exists. It may have been deleted, rotated without grace, or be of another environment or product."},
	"revoked_key":          {"Revoked key", "The key was revoked, which can't be undone. Create another one."},
	"disabled_key":         {"Disabled key", "Enable the key to let its requests pass again."},
	"expired_key":          {"Expired key", "Give the key a later expiry, or create another one."},
	"ambiguous_key":        {"Two keys", "The request held two different keys. Send one."},
	"ambiguous_path":       {"Ambiguous path", "The path can be read in more than one way. Send it without %2F, ';', a backslash, or a dot at the end of a segment."},
	"tenant_inactive":      {"Tenant suspended", "The tenant is suspended. An operator can let it return."},
	"plan_not_allowed":     {"Not in the plan", "The tenant's plan has no API access. Another plan is needed."},
	"insufficient_scope":   {"Scope missing", "The key lacks a scope that this path asks for. Edit the key's scopes, as far as the plan allows them."},
	"ip_not_allowed":       {"Address not allowed", "The request came from an address that the key does not allow. Edit the key's allowed addresses."},
	"credits_exhausted":    {"Credits used up", "The balance, or the key's own limit of credits, does not cover the request's cost."},
	"rate_limited":         {"Rate limited", "More requests came than the rate allows. Wait as long as Retry-After says, or spread requests out."},
	"quota_exceeded":       {"Quota used up", "The quota of this day or month is spent. It begins anew at midnight UTC or on the first of the month."},
	"concurrency_exceeded": {"Too many at once", "Too many requests ran at the same time. Wait for some to end."},
	"too_many_failures":    {"Too many failures", "The address showed too many unknown keys."},
	"unavailable":          {"Unavailable", "Keys could not be judged for a moment. Try again; the overview says what is wrong with the gateway."},
}

// reasonText names a reason for people.
func reasonText(reason string) string {
	if r, ok := reasons[reason]; ok {
		return r.text
	}
	return reason
}

// reasonHelp says what helps against a reason.
func reasonHelp(reason string) string { return reasons[reason].help }

// actions are what audit events tell, in words.
var actions = map[string]string{
	"key.created": "created the key", "key.updated": "changed the key", "key.rotated": "rotated the key's secret", "key.revoked": "revoked the key",
	"key.disabled": "disabled the key", "key.enabled": "enabled the key", "key.deleted": "deleted the key", "key.imported": "imported the key",
	"key.leaked": "reported the key as leaked", "key.limits_reset": "reset the key's limits",
	"tenant.created": "created the tenant", "tenant.updated": "changed the tenant", "tenant.suspended": "suspended the tenant",
	"tenant.activated": "let the tenant return", "tenant.deleted": "deleted the tenant", "tenant.erased": "erased the tenant",
	"tenant.credits_added": "added credits", "tenant.credits_spent": "spent credits", "tenant.limits_reset": "reset the tenant's limits",
	"token.created": "created a management token", "token.revoked": "revoked a management token",
	"webhook.created": "created a webhook", "webhook.updated": "changed a webhook", "webhook.deleted": "deleted a webhook",
	"webhook.secret_rotated": "rotated a webhook's secret",
	"session.started":        "signed in to the console", "session.ended": "ended a session at the console", "portal.link_created": "made a portal link",
}

// eventText says what an audit event tells.
func eventText(action string) string {
	if text, ok := actions[action]; ok {
		return text
	}
	return action
}

// change is one field of an audit event.
type change struct{ Field, Before, After string }

// changes returns an audit event's fields, in the order of their names.
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

// valueText writes a field's value for people.
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
