package management

import (
	"context"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// DeliveryRecord is one event's delivery to one webhook, as the API shows it.
type DeliveryRecord struct {
	ID      string `json:"id"`
	Webhook string `json:"webhook"`
	// EventID is the webhook-id header; EventType and EventAt are of the event.
	EventID   string    `json:"event_id"`
	EventType string    `json:"event_type"`
	EventAt   time.Time `json:"event_at"`
	Tenant    *string   `json:"tenant"`
	// Status is "pending", "delivered" or "dead".
	Status DeliveryStatus `json:"status"`
	// Attempts counts those begun since the event, or since it was replayed.
	Attempts int `json:"attempts"`
	// NextAttemptAt is null unless it is pending.
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	LastAttemptAt *time.Time `json:"last_attempt_at"`
	// ResponseStatus is what the last attempt was answered with; null where it was not.
	ResponseStatus *int      `json:"response_status"`
	Error          *string   `json:"error"`
	CreatedAt      time.Time `json:"created_at"`
}

func deliveryRecord(d *DeliveryRow) DeliveryRecord {
	r := DeliveryRecord{
		ID: d.ID, Webhook: d.Webhook, EventID: d.Event.ID, EventType: d.Event.Type, EventAt: d.Event.At.UTC(), Tenant: OrNull(d.Event.Tenant),
		Status: d.Status, Attempts: d.Attempts, NextAttemptAt: TimeOrNull(d.NextAt), LastAttemptAt: TimeOrNull(d.LastAt),
		Error: OrNull(d.Error), CreatedAt: d.CreatedAt.UTC(),
	}
	if d.Response != 0 {
		r.ResponseStatus = &d.Response
	}
	return r
}

// DeliveryFilter selects a webhook's deliveries, newest first.
type DeliveryFilter struct {
	// Status is "" for all.
	Status DeliveryStatus
	PageQuery
}

// Deliveries lists a webhook's deliveries of the last 30 days.
func (m *Manager) Deliveries(ctx context.Context, a Actor, keyspace, webhook string, q DeliveryFilter) (Page[DeliveryRecord], error) {
	cursors, err := m.Cursors(ctx)
	if err != nil {
		return Page[DeliveryRecord]{}, err
	}
	limit, after, err := cursors.Read(deliveryCursor, q.PageQuery)
	if err != nil {
		return Page[DeliveryRecord]{}, err
	}
	switch q.Status {
	case "", DeliveryPending, DeliveryDone, DeliveryDead:
	default:
		return Page[DeliveryRecord]{}, badParameter("status", "must be pending, delivered or dead")
	}
	var rows []*DeliveryRow
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		w, err := c.webhook(webhook)
		if err != nil {
			return err
		}
		rows, err = c.Tx.Deliveries(DeliveryQuery{Keyspace: c.Keyspace.Name, Webhook: w.ID, Status: q.Status, Before: after.Seq, Limit: limit + 1})
		return err
	})
	if err != nil {
		return Page[DeliveryRecord]{}, err
	}
	page := PageOf(cursors, deliveryCursor, rows, limit, func(d *DeliveryRow) Place { return Place{Seq: d.Seq} })
	out := Page[DeliveryRecord]{Data: make([]DeliveryRecord, len(page.Data)), NextCursor: page.NextCursor}
	for i, d := range page.Data {
		out.Data[i] = deliveryRecord(d)
	}
	return out, nil
}

// ReplayDelivery has an event delivered anew, with the same webhook-id, however its delivery stood. 409
// webhook_inactive where the webhook is not active.
func (m *Manager) ReplayDelivery(ctx context.Context, a Actor, keyspace, webhook, id string) (r DeliveryRecord, err error) {
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		w, err := c.webhook(webhook)
		if err != nil {
			return err
		}
		if !HasIDForm(id, deliveryIDPrefix) {
			return NotFound("delivery")
		}
		if _, err := c.Tx.Delivery(c.Keyspace.Name, w.ID, id); err != nil {
			return OrNotFound(err, "delivery")
		}
		if !w.Active {
			return Reject(http.StatusConflict, CodeWebhookInactive, "The webhook is not active. Make it active first.")
		}
		if err := c.Tx.ReplayDelivery(id, c.Now); err != nil {
			return err
		}
		d, err := c.Tx.Delivery(c.Keyspace.Name, w.ID, id)
		if err != nil {
			return err
		}
		c.publications.deliveries = true
		c.Event = &audit.Event{Action: "webhook.delivery_replayed", Target: d.ID, Tenant: w.Tenant,
			After: audit.Fields{"webhook": w.ID, "event_id": d.Event.ID, "event_type": d.Event.Type}}
		r = deliveryRecord(d)
		return nil
	})
	return r, err
}
