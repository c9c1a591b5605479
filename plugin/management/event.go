package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// The types of events that happen by themselves; all others are the actions of audit events.
const (
	EventKeyExpiring      = "key.expiring"
	EventKeyExpired       = "key.expired"
	EventKeyUnused        = "key.unused"
	EventQuotaThreshold   = "quota.threshold"
	EventCreditsThreshold = "credits.threshold"
	EventLimitReached     = "limit.reached"
)

// EventKeyLeaked is the action of the audit event of a leak.
const EventKeyLeaked = "key.leaked"

// eventTypes are all types of ours, without the product's own.
var eventTypes = []string{
	"key.created", "key.updated", "key.rotated", "key.revoked", "key.disabled", "key.enabled", "key.deleted",
	EventKeyLeaked,
	EventKeyExpiring, EventKeyExpired, EventKeyUnused,
	"tenant.created", "tenant.updated", "tenant.suspended", "tenant.activated", "tenant.deleted",
	"tenant.credits_added", "tenant.credits_spent",
	EventQuotaThreshold, EventCreditsThreshold, EventLimitReached, EventAuditCheckpoint,
}

// reservedFamilies are what types of ours begin with, now or later: a product's own event
// can't be mistaken for one.
var reservedFamilies = []string{"key", "tenant", "quota", "credits", "limit", "webhook", "token", "audit", "session", "portal", "keygate"}

const (
	eventIDPrefix = auditIDPrefix
	// MaxEventData bounds what a product's own event carries, in bytes.
	MaxEventData = 64 << 10
)

// Event is something that happened. An event that a change of management's made has the id
// of the change's audit event.
type Event struct {
	ID       string
	Keyspace string
	Tenant   string // slug; "" where it is no tenant's
	Type     string
	At       time.Time
	// Data is a JSON object. It never holds a secret.
	Data json.RawMessage
}

// EventListener hears events of this process when they are committed. Its methods must not
// block, and may be called from many goroutines.
type EventListener interface {
	// Wants says whether anybody would hear events of a type.
	Wants(eventType string) bool
	Receive(Event)
}

// publications is what a transaction published.
type publications struct {
	events []Event
	// deliveries reports whether deliveries were written.
	deliveries bool
}

// notify tells of what was committed.
func (m *Manager) notify(p publications) {
	for _, e := range p.events {
		m.listener.Receive(e)
	}
	if p.deliveries {
		select {
		case m.outbox <- struct{}{}:
		default:
		}
	}
}

// Outbox receives when this process has written deliveries that are due.
func (m *Manager) Outbox() <-chan struct{} { return m.outbox }

// Recipients is who hears an event.
type recipients struct {
	webhooks []*WebhookRow
	listener bool
}

func (a recipients) empty() bool { return len(a.webhooks) == 0 && !a.listener }

// Recipients finds who hears an event of a type, of a tenant or, with "", of none.
func (c *Call) Recipients(tenant, eventType string) (a recipients, err error) {
	a.listener = c.Manager.listener != nil && c.Manager.listener.Wants(eventType)
	hooks, err := c.Webhooks(WebhookQuery{Keyspace: c.Keyspace.Name, Tenant: tenant, OrAll: true, Active: true})
	for _, h := range hooks {
		if matchesType(h.Events, eventType) {
			a.webhooks = append(a.webhooks, h)
		}
	}
	return a, err
}

// matchesType reports whether a webhook's types include one. "*" is all that happens to tenants and keys: heads
// of the audit chain are no news to whoever wants that, and must be asked for by name.
func matchesType(types []string, eventType string) bool {
	return slices.ContainsFunc(types, func(t string) bool {
		if t == "*" && eventType == EventAuditCheckpoint {
			return false
		}
		family, all := strings.CutSuffix(t, "*")
		return t == eventType || all && strings.HasPrefix(eventType, family)
	})
}

// Publish writes an event for its audience, in the transaction that makes it happen.
func (c *Call) Publish(a recipients, e Event) error {
	if a.listener {
		c.publications.events = append(c.publications.events, e)
	}
	if len(a.webhooks) == 0 {
		return nil
	}
	row := &EventRow{Event: e}
	if err := c.InsertEvent(row); err != nil {
		return err
	}
	for _, h := range a.webhooks {
		if err := c.InsertDelivery(c.Manager.ids.next(deliveryIDPrefix, c.Now), row.Seq, h.ID, c.Now); err != nil {
			return err
		}
	}
	c.publications.deliveries = true
	return nil
}

// publishAudit publishes an audit event, where it is an event of ours. The data is what the
// audit shows, but for the actor's address.
func (c *Call) publishAudit(row *audit.Row) error {
	if !slices.Contains(eventTypes, row.Action) {
		return nil
	}
	a, err := c.Recipients(row.Tenant, row.Action)
	if err != nil || a.empty() {
		return err
	}
	r := audit.NewRecord(row)
	if row.Action == "tenant.deleted" {
		// The person may be forgotten with it, and this is still to be delivered then.
		r.Before = row.ChainedBefore()
	}
	data, err := json.Marshal(map[string]any{
		"keyspace": c.Keyspace.Name, "tenant": r.Tenant, "key_id": r.Key, "actor": r.Actor, "via": r.Via,
		"before": r.Before, "after": r.After,
	})
	if err != nil {
		return err
	}
	return c.Publish(a, Event{ID: row.ID, Keyspace: c.Keyspace.Name, Tenant: row.Tenant, Type: row.Action, At: row.At, Data: data})
}

// PostedEvent is an event that was taken.
type PostedEvent struct {
	ID   string    `json:"id"`
	Type string    `json:"type"`
	At   time.Time `json:"at"`
	// Deliveries is how many webhooks are told.
	Deliveries int `json:"deliveries"`
}

var customType = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)+$`)

// checkCustomType returns the fault in the type of a product's own event, "" for none.
func checkCustomType(t string) string {
	if len(t) > 64 || !customType.MatchString(t) {
		return "must be at most 64 of the characters a-z 0-9 _ . with a dot between two words, such as job.finished"
	}
	if family, _, _ := strings.Cut(t, "."); slices.Contains(reservedFamilies, family) {
		return "must not begin with " + family + ".: such events are Keygate's own"
	}
	return ""
}

// PostEvent publishes a product's own event of a tenant. data is a JSON object of at most
// MaxEventData bytes; none is {}. There is no audit event: nothing of ours changed.
func (m *Manager) PostEvent(ctx context.Context, a Actor, keyspace, slug, eventType string, data json.RawMessage) (r PostedEvent, err error) {
	var f Faults
	if wrong := checkCustomType(eventType); wrong != "" {
		f.Invalid("type", "%s", wrong)
	}
	data = CompactObject(&f, "data", data, MaxEventData)
	if err := f.Err(); err != nil {
		return r, err
	}
	err = m.publishOnly(ctx, a, keyspace, func(c *Call) error {
		t, err := c.FindTenant(slug, false)
		if err != nil {
			return err
		}
		var f Faults
		if c.CheckSecret(&f, "data", string(data)); len(f.fields) > 0 {
			return f.Err()
		}
		to, err := c.Recipients(t.Slug, eventType)
		if err != nil {
			return err
		}
		e := Event{ID: m.ids.next(eventIDPrefix, c.Now), Keyspace: c.Keyspace.Name, Tenant: t.Slug, Type: eventType, At: c.Now, Data: data}
		r = PostedEvent{ID: e.ID, Type: e.Type, At: e.At, Deliveries: len(to.webhooks)}
		if err := c.Publish(to, e); err != nil {
			return err
		}
		// Not for the audit, but so that a request sent twice publishes once.
		c.Event = &audit.Event{Action: e.Type, Target: e.ID}
		return c.recordEffect(ctx)
	})
	return r, err
}

// publishOnly runs f, which publishes and changes nothing else, in a transaction.
func (m *Manager) publishOnly(ctx context.Context, a Actor, keyspace string, f func(*Call) error) error {
	ks, v, err := m.keyspace(keyspace)
	if err != nil {
		return err
	}
	var told publications
	err = m.store.Update(ctx, func(tx Tx) error {
		c := &Call{Tx: tx, Manager: m, Keyspace: ks, View: v, Now: m.Clock(), Actor: a}
		err := f(c)
		told = c.publications
		return err
	})
	if err == nil {
		m.notify(told)
	}
	return err
}

// OneShot is something that happened by itself: time passed, a limit was reached.
type OneShot struct {
	Type     string
	Keyspace string
	Tenant   string // slug
	At       time.Time
	// Data is what the event says, beside the keyspace and the tenant.
	Data map[string]any
	// Subject, What and Ref tell occasions apart: one that was told already is not told again. Ref tells
	// it from the last of the same subject and what; see WebhookTx.Mark.
	Subject, Condition string
	Ref                int64
	// Since leaves webhooks out that were made later: what is long past is no news to them. Zero
	// leaves none out.
	Since time.Time
}

// Announce publishes occasions, each once. Those that nobody hears of are not taken as
// told. Keyspaces that are not configured are left out.
func (m *Manager) Announce(ctx context.Context, list []OneShot) error {
	for len(list) > 0 {
		keyspace, n := list[0].Keyspace, 1
		for n < len(list) && list[n].Keyspace == keyspace {
			n++
		}
		part := list[:n]
		list = list[n:]
		if v := m.view(); v == nil || v.Keyspaces[keyspace] == nil {
			continue
		}
		// Looked at first without holding up writers: mostly nobody hears.
		wanted := false
		if err := m.Read(ctx, System, keyspace, func(c *Call) error {
			for _, o := range part {
				if a, err := c.oneShotRecipients(o); err != nil || !a.empty() {
					wanted = true
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if !wanted {
			continue
		}
		if err := m.publishOnly(ctx, System, keyspace, func(c *Call) error {
			for _, o := range part {
				if err := c.publishOneShot(o); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// System is who does what happens by itself.
var System = Actor{Name: "system", Via: "system"}

func (c *Call) oneShotRecipients(o OneShot) (recipients, error) {
	a, err := c.Recipients(o.Tenant, o.Type)
	if !o.Since.IsZero() {
		a.webhooks = slices.DeleteFunc(a.webhooks, func(h *WebhookRow) bool { return h.CreatedAt.After(o.Since) })
	}
	return a, err
}

func (c *Call) publishOneShot(o OneShot) error {
	a, err := c.oneShotRecipients(o)
	if err != nil || a.empty() {
		return err
	}
	fresh, err := c.RecordOneShot(c.Keyspace.Name, o.Subject, o.Condition, o.Ref, c.Now)
	if err != nil || !fresh {
		return err
	}
	data := map[string]any{"keyspace": c.Keyspace.Name, "tenant": o.Tenant}
	for k, v := range o.Data {
		data[k] = v
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return c.Publish(a, Event{ID: c.Manager.ids.next(eventIDPrefix, c.Now), Keyspace: c.Keyspace.Name, Tenant: o.Tenant, Type: o.Type,
		At: o.At.UTC().Truncate(time.Microsecond), Data: raw})
}

// lowCreditsPercent is the share of what a balance was after its last top-up below which it is low.
const lowCreditsPercent = 20

// creditsOneShot reports whether a balance has become low, or empty, since its last top-up.
func (c *Call) creditsOneShot(t *gateway.Tenant) (o OneShot, low bool, err error) {
	top, err := c.TopUp(c.Keyspace.Name, t.Slug)
	if errors.Is(err, gateway.ErrNotFound) {
		return o, false, nil
	}
	if err != nil {
		return o, false, err
	}
	percent, what := lowCreditsPercent, "credits:low"
	switch {
	case t.Credits <= 0:
		percent, what = 0, "credits:empty"
	case float64(t.Credits)*100 >= float64(top.Balance)*lowCreditsPercent:
		return o, false, nil
	}
	return OneShot{
		Type: EventCreditsThreshold, Keyspace: c.Keyspace.Name, Tenant: t.Slug, At: c.Now, Subject: "tenant:" + t.Slug, Condition: what, Ref: top.Seq,
		Data: map[string]any{"percent": percent, "balance": t.Credits, "of": top.Balance, "topped_up_at": top.At.UTC()},
	}, true, nil
}

// CheckCredits announces tenants' balances that have become low or empty.
func (m *Manager) CheckCredits(ctx context.Context, keyspace string, tenants []string) error {
	if v := m.view(); v == nil || v.Keyspaces[keyspace] == nil {
		return nil
	}
	var list []OneShot
	err := m.Read(ctx, System, keyspace, func(c *Call) error {
		list = nil
		for _, slug := range tenants {
			a, err := c.Recipients(slug, EventCreditsThreshold)
			if err != nil {
				return err
			}
			if a.empty() {
				continue
			}
			t, err := c.FindTenant(slug, false)
			if IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			o, ok, err := c.creditsOneShot(t)
			if err != nil {
				return err
			}
			if ok {
				list = append(list, o)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.Announce(ctx, list)
}

// CompactObject returns a JSON object as it is stored; {} for none.
func CompactObject(f *Faults, field string, raw json.RawMessage, most int) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil || b.Bytes()[0] != '{' {
		f.Invalid(field, "must be a JSON object")
	} else if b.Len() > most {
		f.Invalid(field, "must be at most %d bytes, is %d", most, b.Len())
	}
	return b.Bytes()
}

// checkBalance announces that a balance was brought low, or to nothing, in the transaction that did.
func (c *Call) checkBalance(t *gateway.Tenant) error {
	o, low, err := c.creditsOneShot(t)
	if err != nil || !low {
		return err
	}
	return c.publishOneShot(o)
}
