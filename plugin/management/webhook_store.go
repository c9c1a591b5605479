package management

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// WebhookTx reads and writes events and who is told of them, as a part of Tx.
type WebhookTx interface {
	Webhook(keyspace, id string) (*WebhookRow, error)
	Webhooks(q WebhookQuery) ([]*WebhookRow, error)
	InsertWebhook(*WebhookRow) error
	// UpdateWebhook writes every field but Tenant and Created*, and sets Version to the stored one + 1.
	UpdateWebhook(*WebhookRow) error
	// DeleteWebhook removes a webhook with its deliveries. ErrNotFound where there is none.
	DeleteWebhook(keyspace, id string) error

	// InsertEvent sets Seq.
	InsertEvent(*EventRow) error
	// InsertDelivery makes the delivery of an event, by its Seq, to a webhook, pending and
	// due at once.
	InsertDelivery(id string, eventSeq int64, webhook string, at time.Time) error
	Delivery(keyspace, webhook, id string) (*DeliveryRow, error)
	Deliveries(q DeliveryQuery) ([]*DeliveryRow, error)
	// ReplayDelivery makes a delivery pending, due at, its attempts counted anew.
	ReplayDelivery(id string, at time.Time) error
	// EndDeliveries makes all pending deliveries of a webhook dead, for that reason.
	EndDeliveries(webhook, reason string) error

	// NextDelivery returns when the next delivery is due; the zero time where none is pending.
	NextDelivery() (time.Time, error)
	// DueWebhooks returns the webhooks that have deliveries due at now.
	DueWebhooks(now time.Time) ([]*WebhookRow, error)
	// ClaimDeliveries gives up to n deliveries of a webhook that are due at now to a node, which is to
	// attempt them before until: then they are due again.
	ClaimDeliveries(node, webhook string, now, until time.Time, n int) ([]*DeliveryRow, error)
	// FinishDelivery writes Status, NextAt, LastAt, Response and Error of a delivery that the
	// node claimed; nothing where its claim is over.
	FinishDelivery(node string, d *DeliveryRow) error
	// ReleaseDeliveries makes what a node has claimed due at now: its attempts did not end.
	ReleaseDeliveries(node string, now time.Time) error

	// RecordOneShot notes an occasion of what happens to a subject by itself. It reports false where that
	// occasion, by ref, was the last one noted.
	RecordOneShot(keyspace, subject, what string, ref int64, at time.Time) (fresh bool, err error)
	// ExpiringKeys returns keys, neither revoked, disabled nor deleted, whose expiry is after from
	// and not after to, by expiry; after is the last one seen.
	ExpiringKeys(keyspace string, from, to time.Time, after *gateway.Key, limit int) ([]*gateway.Key, error)
	// UnusedKeys returns, in the order of creation, keys that were active at now and neither made nor
	// used after since. next is where to go on, 0 at the end: it looks at a bounded number of
	// keys, so that it may return none and not be at the end.
	UnusedKeys(keyspace string, since, now time.Time, from int64) (keys []*gateway.Key, next int64, err error)
	// TopUp returns a tenant's newest movement that raised its balance other than by a refund.
	TopUp(keyspace, tenant string) (LedgerEntry, error)

	// PruneEvents removes up to limit events that happened before a time, with their
	// deliveries, and returns how many.
	PruneEvents(before time.Time, limit int) (int64, error)
	// PruneOneShots removes up to limit occasions that were noted before a time, and returns how many.
	PruneOneShots(before time.Time, limit int) (int64, error)
}

// WebhookRow is a webhook as stored.
type WebhookRow struct {
	ID       string
	Keyspace string
	// Tenant is the slug of the one whose events it hears; "" for all of the keyspace's.
	Tenant string
	URL    string
	// Events are the types it hears: "*", "key.*" or "key.created".
	Events []string
	// Secret is encrypted, as is Previous, which signs too until PreviousUntil.
	Secret, Previous []byte
	PreviousUntil    time.Time
	Active           bool
	// Disabled says why it is not active; "" where someone wanted it so.
	Disabled  string
	CreatedAt time.Time
	CreatedBy string
	UpdatedAt time.Time
	Version   int64
}

// WebhookQuery selects webhooks of a keyspace, newest first.
type WebhookQuery struct {
	Keyspace string
	// Tenant selects those of that tenant alone; with OrAll those of all tenants too. Without
	// either all are selected; with OrAll alone those of all tenants.
	Tenant string
	OrAll  bool
	// Active leaves inactive ones out.
	Active bool
	Before string // id of the last one seen
	Limit  int
}

// EventRow is an event as stored.
type EventRow struct {
	Seq int64
	Event
}

// DeliveryStatus is where a delivery stands.
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
	Event    Event
	Status   DeliveryStatus
	Attempts int
	// NextAt is when it is attempted next; zero unless pending.
	NextAt    time.Time
	CreatedAt time.Time
	// LastAt, Response and Error are of the last attempt that ended. Response is the HTTP status,
	// 0 where none came.
	LastAt   time.Time
	Response int
	Error    string
}

// DeliveryQuery selects a webhook's deliveries, newest first.
type DeliveryQuery struct {
	Keyspace, Webhook string
	Status            DeliveryStatus // "" for all
	Before            int64
	Limit             int
}
