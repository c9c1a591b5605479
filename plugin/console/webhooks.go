package console

import (
	"crypto/rand"
	"errors"
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// webhooksPage is the page that lists webhooks.
type webhooksPage struct {
	List  []webhooks.Record
	Next  string
	First bool
}

func (c *call) listWebhooks() error {
	list, err := c.h.webhooks.Webhooks(c.ctx, c.actor, c.h.opts.Keyspace, webhooks.Filter{PageQuery: c.page()})
	if err != nil {
		return err
	}
	return c.render(http.StatusOK, "webhooks", "Webhooks", webhooksPage{list.Data, c.next(list.NextCursor), c.r.URL.Query().Get("cursor") == ""})
}

// webhookForm is the page that creates or changes a webhook.
type webhookForm struct {
	Form *form
	// Hook is the webhook to change; nil to create one.
	Hook *webhooks.Record
	Once string
}

func (c *call) showNewWebhook() error {
	f := newForm(nil)
	f.Set("events", "*")
	return c.render(http.StatusOK, "webhook-new", "Create a webhook", webhookForm{Form: f, Once: rand.Text()})
}

// shownSecret is the page that shows a webhook's secret. It is shown only once.
type shownSecret struct {
	Hook    webhooks.Issued
	Rotated bool
}

func (c *call) createWebhook() error {
	f := newForm(c.r.PostForm)
	in := webhooks.Fields{URL: f.text("url"), Events: management.Some(f.lines("events"))}
	if tenant := f.text("tenant"); tenant.Value != "" {
		in.Tenant = tenant
	}
	return c.showOnce("new webhook", func(c *call) error {
		w, err := c.h.webhooks.CreateWebhook(c.ctx, c.actor, c.h.opts.Keyspace, in)
		if err != nil {
			e, err := f.reject(err)
			if err != nil {
				return err
			}
			return c.render(e.Status, "webhook-new", "Create a webhook", webhookForm{Form: f, Once: f.Value("once")})
		}
		return c.show("webhook-shown", "The webhook's secret", shownSecret{Hook: w})
	})
}

// webhookPage is the page that shows a webhook and its deliveries.
type webhookPage struct {
	Hook       webhooks.Record
	Deliveries []webhooks.DeliveryRecord
	Next       string
	Status     string
	Statuses   []statusLink
}

func (c *call) showWebhook() error {
	p := webhookPage{Status: c.r.URL.Query().Get("status")}
	var err error
	if p.Hook, err = c.h.webhooks.Webhook(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id")); err != nil {
		return err
	}
	list, err := c.h.webhooks.Deliveries(c.ctx, c.actor, c.h.opts.Keyspace, p.Hook.ID,
		webhooks.DeliveryFilter{Status: webhooks.DeliveryStatus(p.Status), PageQuery: c.page()})
	if err != nil {
		return err
	}
	p.Deliveries, p.Next = list.Data, c.next(list.NextCursor)
	here := c.to("/webhooks/", p.Hook.ID)
	for _, s := range []string{"", "pending", "delivered", "dead"} {
		label, to := "All", here
		if s != "" {
			label, to = upperFirst(s), here+"?status="+s
		}
		p.Statuses = append(p.Statuses, statusLink{label, to, s == p.Status})
	}
	return c.render(http.StatusOK, "webhook", "Webhook", p)
}

func (c *call) showEditWebhook() error {
	w, err := c.h.webhooks.Webhook(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	f := newForm(nil)
	f.Set("url", w.URL)
	f.Set("events", joinLines(w.Events))
	if w.Active {
		f.Set("active", "yes")
	}
	return c.render(http.StatusOK, "webhook-edit", "Edit the webhook", webhookForm{Form: f, Hook: &w})
}

func joinLines(list []string) (out string) {
	for i, s := range list {
		if i > 0 {
			out += "\n"
		}
		out += s
	}
	return out
}

func (c *call) editWebhook() error {
	w, err := c.h.webhooks.Webhook(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	f := newForm(c.r.PostForm)
	in := webhooks.Fields{URL: f.text("url"), Events: management.Some(f.lines("events")), Active: management.Some(f.Value("active") != "")}
	if _, err := c.h.webhooks.UpdateWebhook(c.ctx, c.actor, c.h.opts.Keyspace, w.ID, in, nil); err != nil {
		e, err := f.reject(err)
		if err != nil {
			return err
		}
		return c.render(e.Status, "webhook-edit", "Edit the webhook", webhookForm{Form: f, Hook: &w})
	}
	return c.redirect("/webhooks/"+w.ID, "webhook-updated")
}

func (c *call) confirmWebhook() error { return c.confirmWebhookAction(http.StatusOK, "", rand.Text()) }

func (c *call) confirmWebhookAction(status int, wrong, once string) error {
	w, err := c.h.webhooks.Webhook(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	p := confirmPage{Subject: w.URL, Detail: w.ID, Cancel: c.to("/webhooks/", w.ID), Wrong: wrong, Once: once}
	switch c.r.PathValue("act") {
	case "delete":
		p.Title, p.Verb, p.Grave = "Delete this webhook?", "Delete permanently", true
		p.Effects = []string{"It receives no more events, and pending deliveries are dropped.", "Its list of deliveries is deleted with it. This can't be undone."}
	case "rotate-secret":
		p.Title, p.Verb = "Rotate this webhook's secret?", "Rotate the secret"
		p.Effects = []string{"Deliveries are signed with the new secret from now on.", "For 24 hours they also have a signature with the former secret, so that you can switch without losing any."}
	default:
		return errNoPage
	}
	p.Action = c.to("/webhooks/", w.ID, "/"+c.r.PathValue("act"))
	return c.render(status, "webhook-confirm", p.Title, p)
}

func (c *call) changeWebhook() error {
	id := c.r.PathValue("id")
	wrong := func(err error) error {
		var e *management.Error
		if errors.As(err, &e) && e.Status != http.StatusNotFound && e.Status != http.StatusUnauthorized {
			return c.confirmWebhookAction(e.Status, e.Error(), c.r.PostForm.Get("once"))
		}
		return err
	}
	switch c.r.PathValue("act") {
	case "delete":
		if err := c.h.webhooks.DeleteWebhook(c.ctx, c.actor, c.h.opts.Keyspace, id, nil); err != nil {
			return wrong(err)
		}
		return c.redirect("/webhooks", "webhook-deleted")
	case "rotate-secret":
		return c.showOnce("rotate "+id, func(c *call) error {
			w, err := c.h.webhooks.RotateWebhookSecret(c.ctx, c.actor, c.h.opts.Keyspace, id)
			if err != nil {
				return wrong(err)
			}
			return c.show("webhook-shown", "The new secret", shownSecret{w, true})
		})
	}
	return errNoPage
}

func (c *call) replayDelivery() error {
	id := c.r.PathValue("id")
	if _, err := c.h.webhooks.ReplayDelivery(c.ctx, c.actor, c.h.opts.Keyspace, id, c.r.PathValue("delivery")); err != nil {
		return err
	}
	return c.redirect("/webhooks/"+id, "replayed")
}
