package events

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// Listener receives events of this process after their transaction was committed. Its methods must not block, and may be
// called by many goroutines.
type Listener interface {
	// Wants reports whether an event of a type would be received.
	Wants(eventType string) bool
	Receive(Event)
}

// Outbox publishes events. Safe for concurrent use.
type Outbox struct {
	listener Listener
	due      chan struct{}
}

// New returns an Outbox that passes events on to listener; nil for none.
func New(listener Listener) *Outbox { return &Outbox{listener, make(chan struct{}, 1)} }

// Due returns a channel that receives a value after this process has stored deliveries that are
// due.
func (o *Outbox) Due() <-chan struct{} { return o.due }

// Batch holds the events that one transaction publishes. Not for concurrent use.
type Batch struct {
	// Tx is the transaction, and Keyspace the keyspace of the events.
	Tx       Tx
	Keyspace string
	// Now is the time of the transaction.
	Now time.Time
	// NewID returns a new id that begins with prefix.
	NewID func(prefix string) string

	outbox     *Outbox
	events     []Event
	deliveries bool
}

// Begin returns an empty Batch for a transaction.
func (o *Outbox) Begin(tx Tx, keyspace string, now time.Time, newID func(prefix string) string) *Batch {
	return &Batch{Tx: tx, Keyspace: keyspace, Now: now, NewID: newID, outbox: o}
}

// Committed passes the events on to the listener. Call it after the transaction was committed. A
// nil Batch has no events.
func (b *Batch) Committed() {
	if b == nil {
		return
	}
	for _, e := range b.events {
		b.outbox.listener.Receive(e)
	}
	if b.deliveries {
		select {
		case b.outbox.due <- struct{}{}:
		default:
		}
	}
}

// AddDelivery records that the transaction has made a delivery due.
func (b *Batch) AddDelivery() { b.deliveries = true }

// Recipients are the webhooks and the listener that receive an event.
type Recipients struct {
	Webhooks []*WebhookRow
	listener bool
}

// Empty reports whether there is no recipient.
func (r Recipients) Empty() bool { return len(r.Webhooks) == 0 && !r.listener }

// Recipients returns the recipients of an event of a type. tenant is the slug of the event's
// tenant; "" for none.
func (b *Batch) Recipients(tenant, eventType string) (r Recipients, err error) {
	r.listener = b.outbox.listener != nil && b.outbox.listener.Wants(eventType)
	hooks, err := b.Tx.Webhooks(WebhookQuery{Keyspace: b.Keyspace, Tenant: tenant, OrAll: true, Active: true})
	for _, h := range hooks {
		if Matches(h.Events, eventType) {
			r.Webhooks = append(r.Webhooks, h)
		}
	}
	return r, err
}

// AnyRecipient reports whether an event of one of the types, of any tenant of the keyspace, has a recipient.
func (b *Batch) AnyRecipient(types ...string) (bool, error) {
	if l := b.outbox.listener; l != nil && slices.ContainsFunc(types, l.Wants) {
		return true, nil
	}
	hooks, err := b.Tx.Webhooks(WebhookQuery{Keyspace: b.Keyspace, Active: true})
	return slices.ContainsFunc(hooks, func(h *WebhookRow) bool {
		return slices.ContainsFunc(types, func(t string) bool { return Matches(h.Events, t) })
	}), err
}

// Publish stores an event for its recipients.
func (b *Batch) Publish(r Recipients, e Event) error {
	if r.listener {
		b.events = append(b.events, e)
	}
	if len(r.Webhooks) == 0 {
		return nil
	}
	row := &EventRow{Event: e}
	if err := b.Tx.InsertEvent(row); err != nil {
		return err
	}
	for _, h := range r.Webhooks {
		if err := b.Tx.InsertDelivery(b.NewID(DeliveryIDPrefix), row.Seq, h.ID, b.Now); err != nil {
			return err
		}
	}
	b.deliveries = true
	return nil
}

// PublishAudit publishes an audit event whose action is one of Types. The data is the audit record without the actor's
// address.
func (b *Batch) PublishAudit(row *audit.Row) error {
	if !slices.Contains(Types, row.Action) {
		return nil
	}
	to, err := b.Recipients(row.Tenant, row.Action)
	if err != nil || to.Empty() {
		return err
	}
	r := audit.NewRecord(row)
	if row.Action == "tenant.deleted" {
		// The tenant's personal data may be erased with it, but the event is delivered later.
		r.Before = row.ChainedBefore()
	}
	return b.PublishData(to, Event{ID: row.ID, Tenant: row.Tenant, Type: row.Action, At: row.At}, map[string]any{
		"keyspace": b.Keyspace, "tenant": r.Tenant, "key_id": r.Key, "actor": r.Actor, "via": r.Via,
		"before": r.Before, "after": r.After,
	})
}

// PublishData does what Publish does for an event whose Data is the JSON of data. It sets the Keyspace of the event, and its
// ID if the ID is "".
func (b *Batch) PublishData(to Recipients, e Event, data any) (err error) {
	if e.Data, err = json.Marshal(data); err != nil {
		return err
	}
	if e.Keyspace = b.Keyspace; e.ID == "" {
		e.ID = b.NewID(IDPrefix)
	}
	return b.Publish(to, e)
}

// OneShot is an event that no management request causes, because a date passed or a limit was reached. It is published once.
type OneShot struct {
	Type     string
	Keyspace string
	Tenant   string // Tenant is the slug of the tenant that the event belongs to.
	At       time.Time
	// Data is the event's data, without the keyspace and the tenant.
	Data map[string]any
	// Subject names a record, and Condition what happens to it. An event is not published again
	// while its Ref is the one that was published last for the same Subject and Condition. See
	// Tx.RecordOneShot.
	Subject, Condition string
	Ref                int64
	// Since excludes webhooks that were created after it. The zero time excludes none.
	Since time.Time
}

// OneShotRecipients returns the recipients of o.
func (b *Batch) OneShotRecipients(o OneShot) (Recipients, error) {
	r, err := b.Recipients(o.Tenant, o.Type)
	if !o.Since.IsZero() {
		r.Webhooks = slices.DeleteFunc(r.Webhooks, func(h *WebhookRow) bool { return h.CreatedAt.After(o.Since) })
	}
	return r, err
}

// PublishOneShot publishes o if it has recipients and was not published before. An event without
// recipients does not count as published.
func (b *Batch) PublishOneShot(o OneShot) error {
	to, err := b.OneShotRecipients(o)
	if err != nil || to.Empty() {
		return err
	}
	fresh, err := b.Tx.RecordOneShot(b.Keyspace, o.Subject, o.Condition, o.Ref, b.Now)
	if err != nil || !fresh {
		return err
	}
	data := map[string]any{"keyspace": b.Keyspace, "tenant": o.Tenant}
	for k, v := range o.Data {
		data[k] = v
	}
	return b.PublishData(to, Event{Tenant: o.Tenant, Type: o.Type, At: o.At.UTC().Truncate(time.Microsecond)}, data)
}
