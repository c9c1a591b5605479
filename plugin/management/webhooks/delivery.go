package webhooks

import (
	"context"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// DeliveryRecord is one event's delivery to one webhook, as the API shows it.
type DeliveryRecord struct {
	ID      string `json:"id"`
	Webhook string `json:"webhook"`
	// EventID is the value of the webhook-id header. EventType and EventAt are the event's type
	// and time.
	EventID   string    `json:"event_id"`
	EventType string    `json:"event_type"`
	EventAt   time.Time `json:"event_at"`
	Tenant    *string   `json:"tenant"`
	// Status is "pending", "delivered" or "dead".
	Status DeliveryStatus `json:"status"`
	// Attempts counts the attempts since the event was published, or since the delivery was last replayed.
	Attempts int `json:"attempts"`
	// NextAttemptAt is nil unless the delivery is pending.
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	LastAttemptAt *time.Time `json:"last_attempt_at"`
	// ResponseStatus is the HTTP status of the last attempt; nil without a response.
	ResponseStatus *int      `json:"response_status"`
	Error          *string   `json:"error"`
	CreatedAt      time.Time `json:"created_at"`
}

func deliveryRecord(d *DeliveryRow) DeliveryRecord {
	r := DeliveryRecord{
		ID: d.ID, Webhook: d.Webhook, EventID: d.Event.ID, EventType: d.Event.Type, EventAt: d.Event.At.UTC(), Tenant: management.OrNull(d.Event.Tenant),
		Status: d.Status, Attempts: d.Attempts, NextAttemptAt: management.TimeOrNull(d.NextAt), LastAttemptAt: management.TimeOrNull(d.LastAt),
		Error: management.OrNull(d.Error), CreatedAt: d.CreatedAt.UTC(),
	}
	if d.Response != 0 {
		r.ResponseStatus = &d.Response
	}
	return r
}

// DeliveryFilter selects a webhook's deliveries, newest first.
type DeliveryFilter struct {
	// Status selects deliveries by their status; "" selects all.
	Status DeliveryStatus
	management.PageQuery
}

// Deliveries returns a page of a webhook's deliveries of the last 30 days.
func (reg *Registry) Deliveries(ctx context.Context, a management.Actor, keyspace, webhook string, q DeliveryFilter) (management.Page[DeliveryRecord], error) {
	cursors, err := reg.manager.Cursors(ctx)
	if err != nil {
		return management.Page[DeliveryRecord]{}, err
	}
	limit, after, err := cursors.Read(management.DeliveryCursor, q.PageQuery)
	if err != nil {
		return management.Page[DeliveryRecord]{}, err
	}
	switch q.Status {
	case "", DeliveryPending, DeliveryDone, DeliveryDead:
	default:
		return management.Page[DeliveryRecord]{}, management.BadParameter("status", "must be pending, delivered or dead")
	}
	var rows []*DeliveryRow
	err = reg.read(ctx, a, keyspace, func(c *call) error {
		w, err := c.webhook(webhook)
		if err != nil {
			return err
		}
		rows, err = c.Tx.Deliveries(DeliveryQuery{Keyspace: c.Keyspace.Name, Webhook: w.ID, Status: q.Status, Before: after.Seq, Limit: limit + 1})
		return err
	})
	if err != nil {
		return management.Page[DeliveryRecord]{}, err
	}
	page := management.PageOf(cursors, management.DeliveryCursor, rows, limit, func(d *DeliveryRow) management.Place { return management.Place{Seq: d.Seq} })
	out := management.Page[DeliveryRecord]{Data: make([]DeliveryRecord, len(page.Data)), NextCursor: page.NextCursor}
	for i, d := range page.Data {
		out.Data[i] = deliveryRecord(d)
	}
	return out, nil
}

// ReplayDelivery delivers an event again, with the same webhook-id, whatever the state of its
// delivery. It returns 409 webhook_inactive if the webhook is not active.
func (reg *Registry) ReplayDelivery(ctx context.Context, a management.Actor, keyspace, webhook, id string) (r DeliveryRecord, err error) {
	err = reg.write(ctx, a, keyspace, func(c *call) error {
		w, err := c.webhook(webhook)
		if err != nil {
			return err
		}
		if !management.HasIDForm(id, events.DeliveryIDPrefix) {
			return management.NotFound("delivery")
		}
		if _, err := c.Tx.Delivery(c.Keyspace.Name, w.ID, id); err != nil {
			return management.OrNotFound(err, "delivery")
		}
		if !w.Active {
			return management.Reject(http.StatusConflict, CodeInactive, "The webhook is not active. Make it active first.")
		}
		if err := c.Tx.ReplayDelivery(id, c.Now); err != nil {
			return err
		}
		d, err := c.Tx.Delivery(c.Keyspace.Name, w.ID, id)
		if err != nil {
			return err
		}
		c.Events.AddDelivery()
		c.Event = &audit.Event{Action: "webhook.delivery_replayed", Target: d.ID, Tenant: w.Tenant,
			After: audit.Fields{"webhook": w.ID, "event_id": d.Event.ID, "event_type": d.Event.Type}}
		r = deliveryRecord(d)
		return nil
	})
	return r, err
}
