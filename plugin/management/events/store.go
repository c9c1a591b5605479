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
	// RecordOneShot records that a one-shot event is published. If ref is the last one recorded
	// for this subject and condition, it returns false and records nothing.
	RecordOneShot(keyspace, subject, condition string, ref int64, at time.Time) (fresh bool, err error)
}

// WebhookRow is a webhook as stored.
type WebhookRow struct {
	ID       string
	Keyspace string
	// Tenant is the slug of the tenant whose events the webhook receives; "" for the events of all
	// tenants.
	Tenant string
	URL    string
	// Events are the patterns of the types that the webhook receives: "*", "key.*" or
	// "key.created".
	Events []string
	// Secret signs deliveries. Previous signs them too until PreviousUntil. Both are encrypted.
	Secret, Previous []byte
	PreviousUntil    time.Time
	Active           bool
	// Disabled is the reason why Keygate made the webhook inactive; "" if a request did.
	Disabled  string
	CreatedAt time.Time
	CreatedBy string
	UpdatedAt time.Time
	Version   int64
}

// WebhookQuery selects webhooks of a keyspace, newest first.
type WebhookQuery struct {
	Keyspace string
	// Tenant selects the webhooks of that tenant. OrAll adds the webhooks that receive the events of all tenants. With OrAll and
	// without a Tenant, only the webhooks for all tenants are selected. Without both, all webhooks of the keyspace are selected.
	Tenant string
	OrAll  bool
	// Active leaves inactive webhooks out.
	Active bool
	Before string // Before is the last id of the page before.
	Limit  int
}

// EventRow is an event as stored.
type EventRow struct {
	Seq int64
	Event
}
