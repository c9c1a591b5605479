// Package events is the outbox of events. It defines the types of events, finds the recipients of
// an event, and publishes events in the transaction that causes them.
//
// # Adding an event
//
// Each event needs a line in Types. If an audit event with that action exists, nothing else is
// needed. Otherwise it also needs a constant, and a call of Batch.PublishOneShot or of
// webhooks.Registry.Announce.
package events

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
)

// These are the types of events that no audit event causes. Every other type is the action of an
// audit event.
const (
	KeyExpiring      = "key.expiring"
	KeyExpired       = "key.expired"
	KeyUnused        = "key.unused"
	QuotaThreshold   = "quota.threshold"
	CreditsThreshold = "credits.threshold"
	LimitReached     = "limit.reached"
	// AuditCheckpoint publishes a checkpoint of the audit chain. It belongs to no tenant.
	AuditCheckpoint = "audit.head"
)

// KeyLeaked is the action of the audit event of a leak.
const KeyLeaked = "key.leaked"

// Types are Keygate's own types of events. A product's own types are not among them.
var Types = []string{
	"key.created", "key.updated", "key.rotated", "key.revoked", "key.disabled", "key.enabled", "key.deleted",
	KeyLeaked,
	KeyExpiring, KeyExpired, KeyUnused,
	"tenant.created", "tenant.updated", "tenant.suspended", "tenant.activated", "tenant.deleted",
	"tenant.credits_added", "tenant.credits_spent",
	QuotaThreshold, CreditsThreshold, LimitReached, AuditCheckpoint,
}

// reservedFamilies are the words that begin Keygate's own types, in this or a later version. A
// product's own types can't begin with them.
var reservedFamilies = []string{"key", "tenant", "quota", "credits", "limit", "webhook", "token", "audit", "session", "portal", "keygate"}

// IDPrefix begins an event's id.
const IDPrefix = "evt_"

// Event is something that happened. An event that an audit event causes has the id of the audit
// event.
type Event struct {
	ID       string
	Keyspace string
	Tenant   string // Tenant is the tenant's slug; "" where the event belongs to none.
	Type     string
	At       time.Time
	// Data is a JSON object. It never holds a secret.
	Data json.RawMessage
}

var customType = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)+$`)

// CheckCustomType returns the fault in the type of a product's own event, "" for none.
func CheckCustomType(t string) string {
	if len(t) > 64 || !customType.MatchString(t) {
		return "must be at most 64 of the characters a-z 0-9 _ . with a dot between two words, such as job.finished"
	}
	if family, _, _ := strings.Cut(t, "."); slices.Contains(reservedFamilies, family) {
		return "must not begin with " + family + ".: such events are Keygate's own"
	}
	return ""
}

// ValidPattern reports whether a webhook may subscribe to t: a type of Types, a type that a product may have, all types of
// a family such as "key.*", or "*".
func ValidPattern(t string) bool {
	if t == "*" {
		return true
	}
	if family, all := strings.CutSuffix(t, ".*"); all {
		if slices.Contains(reservedFamilies, family) {
			return slices.ContainsFunc(Types, func(e string) bool { return strings.HasPrefix(e, family+".") })
		}
		return CheckCustomType(family+".x") == ""
	}
	return slices.Contains(Types, t) || CheckCustomType(t) == ""
}

// Matches reports whether one of a webhook's patterns matches a type. "*" matches every type but AuditCheckpoint, to which
// a webhook must subscribe by name.
func Matches(patterns []string, eventType string) bool {
	return slices.ContainsFunc(patterns, func(t string) bool {
		if t == "*" && eventType == AuditCheckpoint {
			return false
		}
		family, all := strings.CutSuffix(t, "*")
		return t == eventType || all && strings.HasPrefix(eventType, family)
	})
}
