package events

import "time"

// WebhookIDPrefix and DeliveryIDPrefix begin the ids of webhooks and deliveries.
const (
	WebhookIDPrefix  = "whk_"
	DeliveryIDPrefix = "dlv_"
)

// Tx reads webhooks and stores events, in a transaction of the store.
type Tx interface {
	Webhooks(q WebhookQuery) ([]*WebhookRow, error)
	// DeleteWebhook removes a webhook with its deliveries. It returns gateway.ErrNotFound where there is none.
	DeleteWebhook(keyspace, id string) error
	// InsertEvent sets Seq.
	InsertEvent(*EventRow) error
	// InsertDelivery stores the delivery of an event, by its Seq, to a webhook. It is pending and due at once.
	InsertDelivery(id string, eventSeq int64, webhook string, at time.Time) error
	// RecordOneShot records that a one-shot event is published. It returns false, and records nothing, where ref is the last
	// one recorded for this subject and condition.
	RecordOneShot(keyspace, subject, condition string, ref int64, at time.Time) (fresh bool, err error)
}

// WebhookRow is a webhook as stored.
type WebhookRow struct {
	ID       string
	Keyspace string
	// Tenant is the slug of the tenant whose events it receives; "" for every tenant's.
	Tenant string
	URL    string
	// Events are the patterns of the types that it receives: "*", "key.*" or "key.created".
	Events []string
	// Secret signs deliveries. Previous signs them too until PreviousUntil. Both are encrypted.
	Secret, Previous []byte
	PreviousUntil    time.Time
	Active           bool
	// Disabled says why Keygate made the webhook inactive; "" where a request did.
	Disabled  string
	CreatedAt time.Time
	CreatedBy string
	UpdatedAt time.Time
	Version   int64
}

// WebhookQuery selects webhooks of a keyspace, newest first.
type WebhookQuery struct {
	Keyspace string
	// Tenant selects that tenant's webhooks. OrAll adds those that receive every tenant's events; with OrAll and no Tenant,
	// only they are selected. With neither, all webhooks are selected.
	Tenant string
	OrAll  bool
	// Active leaves inactive webhooks out.
	Active bool
	Before string // id of the last one seen
	Limit  int
}

// EventRow is an event as stored.
type EventRow struct {
	Seq int64
	Event
}
