package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

// issuedWebhook is a webhook with its secret: shown in this answer, and never again.
type issuedWebhook struct {
	management.IssuedWebhook
	secretNote
}

func init() {
	rebuilds["POST /v1/webhooks"] = func(c *call, d management.Effect) error { return c.webhookBefore(http.StatusCreated, d) }
	rebuilds["POST /v1/webhooks/{id}/rotate-secret"] = func(c *call, d management.Effect) error { return c.webhookBefore(http.StatusOK, d) }
}

func (c *call) webhookBefore(status int, d management.Effect) error {
	w, err := c.h.manager.Webhook(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.record(status, w.Version, issuedWebhook{IssuedWebhook: management.IssuedWebhook{WebhookRecord: w}})
}

func webhookFields(o *object) management.WebhookFields {
	return management.WebhookFields{URL: o.string("url"), Events: o.strings("events"), Tenant: o.string("tenant"), Active: o.bool("active")}
}

func (c *call) listWebhooks() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Webhooks(c.ctx, c.actor, c.keyspace, management.WebhookFilter{Tenant: c.query("tenant"), PageQuery: page})
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
	w, err := c.h.manager.CreateWebhook(c.ctx, c.actor, c.keyspace, in)
	if err != nil {
		return err
	}
	return c.record(http.StatusCreated, w.Version, issuedWebhook{IssuedWebhook: w})
}

func (c *call) getWebhook() error {
	w, err := c.h.manager.Webhook(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
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
	w, err := c.h.manager.UpdateWebhook(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), in, c.match())
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, w.Version, w)
}

func (c *call) deleteWebhook() error {
	if err := c.h.manager.DeleteWebhook(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), c.match()); err != nil {
		return err
	}
	return c.noContent()
}

// emptyBody reads a body that holds nothing, if there is one.
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
	w, err := c.h.manager.RotateWebhookSecret(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, w.Version, issuedWebhook{IssuedWebhook: w})
}

func (c *call) listDeliveries() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Deliveries(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"),
		management.DeliveryFilter{Status: management.DeliveryStatus(c.query("status")), PageQuery: page})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) replayDelivery() error {
	if err := c.emptyBody(); err != nil {
		return err
	}
	d, err := c.h.manager.ReplayDelivery(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), c.r.PathValue("delivery"))
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
	e, err := c.h.manager.PostEvent(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), eventType.Value, data.Value)
	if err != nil {
		return err
	}
	return c.json(http.StatusAccepted, e)
}
