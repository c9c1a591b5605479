package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

func init() { commonPath["delivery"] = aText("The delivery's id.") }

func webhookBody() fields {
	return fields{
		"url":    aText("Where events are posted: http or https, at a public address or one of a block that the configuration's allow_private names. Never at this gateway itself."),
		"events": aListOf(aText(""), `The types it hears, such as key.created, key.* or *. Default and null: ["*"]. A token needs the scopes to read what they tell: key.* and limit.* keys:read, tenant.* and credits.* tenants:read, quota.* and * both, audit.head audit:read.`).orNull(),
		"tenant": aText("Whose events it hears; can't be changed. Default and null: all tenants', of a token of one tenant that one's.").orNull(),
		"active": aFlag("false: it hears nothing, also later; what was pending is dead, and can be replayed."),
	}
}

const onlyHereToo = "The secret is in this answer, and nowhere else."

var (
	noWebhooks = map[int][]string{http.StatusUnprocessableEntity: {management.CodeWebhooksOff}}

	_ = document("GET /v1/webhooks", doc{
		Summary: "Lists webhooks, newest first.",
		Answers: map[int]any{http.StatusOK: management.Page[management.WebhookRecord]{}},
	})
	_ = document("POST /v1/webhooks", doc{
		Summary: "Makes a webhook.", Body: webhookBody(), Required: []string{"url"}, Versioned: true,
		Description: "Deliveries are signed as the Standard Webhooks specification has it. " + onlyHereToo,
		Answers:     map[int]any{http.StatusCreated: issuedWebhook{}},
		Refusals: map[int][]string{
			http.StatusConflict: {management.CodeWebhookLimitReached}, http.StatusUnprocessableEntity: {management.CodeWebhooksOff},
		},
	})
	_ = document("GET /v1/webhooks/{id}", doc{
		Summary: "Shows a webhook, without its secret.", Versioned: true,
		Answers: map[int]any{http.StatusOK: management.WebhookRecord{}},
	})
	_ = document("PATCH /v1/webhooks/{id}", doc{
		Summary: "Changes what is stated of a webhook.", Body: webhookBody(), Versioned: true,
		Answers: map[int]any{http.StatusOK: management.WebhookRecord{}},
	})
	_ = document("DELETE /v1/webhooks/{id}", doc{
		Summary: "Deletes a webhook with its deliveries.", Versioned: true,
		Answers: map[int]any{http.StatusNoContent: nil},
	})
	_ = document("POST /v1/webhooks/{id}/rotate-secret", doc{
		Summary: "Gives a webhook a new secret.", Body: fields{}, EmptyBody: true, Versioned: true,
		Description: "For 24 hours deliveries are signed with the one before too. " + onlyHereToo,
		Answers:     map[int]any{http.StatusOK: issuedWebhook{}}, Refusals: noWebhooks,
	})
	_ = document("GET /v1/webhooks/{id}/deliveries", doc{
		Summary: "Lists a webhook's deliveries of the last 30 days, newest first.",
		Query:   map[string]schema{"status": oneOf("Only those.", "pending", "delivered", "dead")},
		Answers: map[int]any{http.StatusOK: management.Page[management.DeliveryRecord]{}},
	})
	_ = document("POST /v1/webhooks/{id}/deliveries/{delivery}/replay", doc{
		Summary: "Has an event delivered anew, under the same webhook-id.", Body: fields{}, EmptyBody: true,
		Answers:  map[int]any{http.StatusAccepted: management.DeliveryRecord{}},
		Refusals: map[int][]string{http.StatusConflict: {management.CodeWebhookInactive}},
	})
	_ = document("POST /v1/tenants/{slug}/events", doc{
		Summary: "Publishes an event of your own to the webhooks that hear the tenant's.",
		Body: fields{
			"type": aText("Words of a-z 0-9 _ with a dot between two, such as job.finished; not one of Keygate's own.").with("maxLength", 64),
			"data": anObject("What it says, at most 64 KiB. Default and null: {}.").orNull(),
		},
		Required: []string{"type"},
		Answers:  map[int]any{http.StatusAccepted: management.PostedEvent{}},
	})
)
