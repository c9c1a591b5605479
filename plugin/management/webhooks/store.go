package webhooks

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// Tx reads and writes webhooks and their deliveries, in a transaction of the store.
type Tx interface {
	Webhook(keyspace, id string) (*events.WebhookRow, error)
	InsertWebhook(*events.WebhookRow) error
	// UpdateWebhook writes every field but Tenant and Created*, and sets Version to the stored
	// Version + 1.
	UpdateWebhook(*events.WebhookRow) error

	Delivery(keyspace, webhook, id string) (*DeliveryRow, error)
	Deliveries(q DeliveryQuery) ([]*DeliveryRow, error)
	// ReplayDelivery makes a delivery pending again, due at a time, with no attempts.
	ReplayDelivery(id string, at time.Time) error
	// EndDeliveries makes all pending deliveries of a webhook dead, for that reason.
	EndDeliveries(webhook, reason string) error

	// NextDelivery returns when the next delivery is due; the zero time where none is pending.
	NextDelivery() (time.Time, error)
	// DueWebhooks returns the webhooks that have deliveries due at now.
	DueWebhooks(now time.Time) ([]*events.WebhookRow, error)
	// ClaimDeliveries assigns up to n deliveries of a webhook that are due at now to a node, which attempts them before
	// until. Then they are due again.
	ClaimDeliveries(node, webhook string, now, until time.Time, n int) ([]*DeliveryRow, error)
	// FinishDelivery writes Status, NextAt, LastAt, Response and Error of a delivery that the node claimed. It writes nothing
	// where the claim is over.
	FinishDelivery(node string, d *DeliveryRow) error
	// ReleaseDeliveries makes the deliveries that a node has claimed due at now.
	ReleaseDeliveries(node string, now time.Time) error

	// ExpiringKeys returns keys that are not revoked, disabled or deleted, and whose expiry is after from and not after to, by
	// expiry. after is the last key of the page before; nil for the first page.
	ExpiringKeys(keyspace string, from, to time.Time, after *gateway.Key, limit int) ([]*gateway.Key, error)
	// UnusedKeys returns keys that are active at now and were neither created nor used after since, in the order of their
	// creation. next is the argument from of the next call, and 0 at the end. Each call reads a bounded number of keys, so a call
	// may return no keys before the end.
	UnusedKeys(keyspace string, since, now time.Time, from int64) (keys []*gateway.Key, next int64, err error)

	// PruneEvents removes up to limit events that happened before a time, with their deliveries, and returns how many.
	PruneEvents(before time.Time, limit int) (int64, error)
	// PruneOneShots removes up to limit records of one-shot events that were made before a time, and returns how many.
	PruneOneShots(before time.Time, limit int) (int64, error)
}

// DeliveryStatus is the state of a delivery.
type DeliveryStatus string

const (
	DeliveryPending DeliveryStatus = "pending"
	DeliveryDone    DeliveryStatus = "delivered"
	DeliveryDead    DeliveryStatus = "dead"
)

// DeliveryRow is one event's delivery to one webhook.
type DeliveryRow struct {
	Seq      int64
	ID       string
	Webhook  string
	Event    events.Event
	Status   DeliveryStatus
	Attempts int
	// NextAt is when the delivery is attempted next; zero unless it is pending.
	NextAt    time.Time
	CreatedAt time.Time
	// LastAt, Response and Error describe the last attempt that ended. Response is the HTTP status, 0 without a response.
	LastAt   time.Time
	Response int
	Error    string
}

// DeliveryQuery selects a webhook's deliveries, newest first.
type DeliveryQuery struct {
	Keyspace, Webhook string
	Status            DeliveryStatus // Status selects deliveries by their status; "" selects all.
	Before            int64
	Limit             int
}
