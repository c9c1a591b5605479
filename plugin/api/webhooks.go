package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// issuedWebhook is a webhook with its secret. Only the response that creates or rotates the secret
// shows it.
type issuedWebhook struct {
	webhooks.Issued
	secretNote
}

func init() {
	reproduce["POST /v1/webhooks"] = func(c *call, d idempotency.Effect) error { return c.replayWebhook(http.StatusCreated, d) }
	reproduce["POST /v1/webhooks/{id}/rotate-secret"] = func(c *call, d idempotency.Effect) error { return c.replayWebhook(http.StatusOK, d) }
}

func (c *call) replayWebhook(status int, d idempotency.Effect) error {
	w, err := c.h.webhooks.Webhook(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.record(status, w.Version, issuedWebhook{Issued: webhooks.Issued{Record: w}})
}

func webhookFields(o *object) webhooks.Fields {
	return webhooks.Fields{URL: o.string("url"), Events: o.strings("events"), Tenant: o.string("tenant"), Active: o.bool("active")}
}

func (c *call) listWebhooks() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.webhooks.Webhooks(c.ctx, c.actor, c.keyspace, webhooks.Filter{Tenant: c.query("tenant"), PageQuery: page})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) createWebhook() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := webhookFields(o)
	if err := o.done(); err != nil {
		return err
	}
	w, err := c.h.webhooks.CreateWebhook(c.ctx, c.actor, c.keyspace, in)
	if err != nil {
		return err
	}
	return c.record(http.StatusCreated, w.Version, issuedWebhook{Issued: w})
}

func (c *call) getWebhook() error {
	w, err := c.h.webhooks.Webhook(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, w.Version, w)
}

func (c *call) patchWebhook() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := webhookFields(o)
	if err := o.done(); err != nil {
		return err
	}
	w, err := c.h.webhooks.UpdateWebhook(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), in, c.match())
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, w.Version, w)
}

func (c *call) deleteWebhook() error {
	if err := c.h.webhooks.DeleteWebhook(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), c.match()); err != nil {
		return err
	}
	return c.noContent()
}

// emptyBody rejects a request whose body has fields. A missing body is allowed.
func (c *call) emptyBody() error {
	o, err := c.body(true)
	if err != nil {
		return err
	}
	return o.done()
}

func (c *call) rotateWebhookSecret() error {
	if err := c.emptyBody(); err != nil {
		return err
	}
	w, err := c.h.webhooks.RotateWebhookSecret(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, w.Version, issuedWebhook{Issued: w})
}

func (c *call) listDeliveries() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.webhooks.Deliveries(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"),
		webhooks.DeliveryFilter{Status: webhooks.DeliveryStatus(c.query("status")), PageQuery: page})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) replayDelivery() error {
	if err := c.emptyBody(); err != nil {
		return err
	}
	d, err := c.h.webhooks.ReplayDelivery(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), c.r.PathValue("delivery"))
	if err != nil {
		return err
	}
	return c.json(http.StatusAccepted, d)
}

func (c *call) postEvent() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	eventType, data := o.string("type"), o.object("data")
	if err := o.done(); err != nil {
		return err
	}
	e, err := c.h.webhooks.PostEvent(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), eventType.Value, data.Value)
	if err != nil {
		return err
	}
	return c.json(http.StatusAccepted, e)
}

func init() { commonPath["delivery"] = aText("The delivery's id.") }

func webhookBody() fields {
	return fields{
		"url":    aText("The URL to which events are posted: http or https, at a public address or in a block that the configuration's allow_private names. It can't be a URL of this gateway."),
		"events": aListOf(aText(""), `The event types to deliver, such as key.created, key.* or *. Default and null: ["*"]. A token needs the scopes to read the events: keys:read for key.* and limit.*, tenants:read for tenant.* and credits.*, both for quota.* and *, audit:read for audit.head.`).orNull(),
		"tenant": aText("The slug of the only tenant whose events are delivered; can't be changed. Default and null: all tenants, or the tenant of a token that is bound to one.").orNull(),
		"active": aFlag("false stops deliveries. Events that happen meanwhile are never delivered. Pending deliveries become dead, and can be replayed."),
	}
}

const secretOnlyHere = "The secret is only in this response."

var (
	noWebhooks = map[int][]string{http.StatusUnprocessableEntity: {webhooks.CodeOff}}

	_ = document("GET /v1/webhooks", doc{
		Summary: "Lists webhooks, newest first.",
		Answers: map[int]any{http.StatusOK: management.Page[webhooks.Record]{}},
	})
	_ = document("POST /v1/webhooks", doc{
		Summary: "Creates a webhook.", Body: webhookBody(), Required: []string{"url"}, Versioned: true,
		Description: "Deliveries are signed as the Standard Webhooks specification defines. " + secretOnlyHere,
		Answers:     map[int]any{http.StatusCreated: issuedWebhook{}},
		Errors: map[int][]string{
			http.StatusConflict: {webhooks.CodeLimitReached}, http.StatusUnprocessableEntity: {webhooks.CodeOff},
		},
	})
	_ = document("GET /v1/webhooks/{id}", doc{
		Summary: "Shows a webhook, without its secret.", Versioned: true,
		Answers: map[int]any{http.StatusOK: webhooks.Record{}},
	})
	_ = document("PATCH /v1/webhooks/{id}", doc{
		Summary: "Changes the stated fields of a webhook.", Body: webhookBody(), Versioned: true,
		Answers: map[int]any{http.StatusOK: webhooks.Record{}},
	})
	_ = document("DELETE /v1/webhooks/{id}", doc{
		Summary: "Deletes a webhook with its deliveries.", Versioned: true,
		Answers: map[int]any{http.StatusNoContent: nil},
	})
	_ = document("POST /v1/webhooks/{id}/rotate-secret", doc{
		Summary: "Gives a webhook a new secret.", Body: fields{}, EmptyBody: true, Versioned: true,
		Description: "For 24 hours deliveries are signed with the previous secret too. " + secretOnlyHere,
		Answers:     map[int]any{http.StatusOK: issuedWebhook{}}, Errors: noWebhooks,
	})
	_ = document("GET /v1/webhooks/{id}/deliveries", doc{
		Summary: "Lists a webhook's deliveries of the last 30 days, newest first.",
		Query:   map[string]schema{"status": oneOf("Only deliveries with this status.", "pending", "delivered", "dead")},
		Answers: map[int]any{http.StatusOK: management.Page[webhooks.DeliveryRecord]{}},
	})
	_ = document("POST /v1/webhooks/{id}/deliveries/{delivery}/replay", doc{
		Summary: "Delivers an event again, with the same webhook-id.", Body: fields{}, EmptyBody: true,
		Answers: map[int]any{http.StatusAccepted: webhooks.DeliveryRecord{}},
		Errors:  map[int][]string{http.StatusConflict: {webhooks.CodeInactive}},
	})
	_ = document("POST /v1/tenants/{slug}/events", doc{
		Summary: "Publishes a custom event to the webhooks that receive the tenant's events.",
		Body: fields{
			"type": aText("Words of a-z 0-9 _ joined by dots, such as job.finished; not a type of Keygate.").with("maxLength", 64),
			"data": anObject("The content of the event, at most 64 KiB. Default and null: {}.").orNull(),
		},
		Required: []string{"type"},
		Answers:  map[int]any{http.StatusAccepted: webhooks.PostedEvent{}},
	})
)
