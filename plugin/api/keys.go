package api

import (
	"context"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// issued is a new key in full. Only the response that creates it shows the full key.
type issued struct {
	management.IssuedKey
	Curl string `json:"curl"`
	secretNote
}

func (c *call) issued(status int, k management.IssuedKey) error {
	return c.record(status, k.Version, issued{IssuedKey: k, Curl: c.h.curl(c.ks, k.Key)})
}

func keyFields(o *object) management.KeyFields {
	return management.KeyFields{
		Name: o.string("name"), Description: o.string("description"), Scopes: o.strings("scopes"),
		Environment: o.string("environment"), ExpiresAt: o.time("expires_at"), AllowedIPs: o.strings("allowed_ips"),
		Rate: o.string("rate"), Quota: o.string("quota"), Concurrency: o.concurrency(),
		CreditsLimit: o.int("credits_limit"), Metadata: o.object("metadata"),
	}
}

func (c *call) createKey() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := keyFields(o)
	if err := o.done(); err != nil {
		return err
	}
	k, err := c.h.manager.CreateKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), in)
	if err != nil {
		return err
	}
	return c.issued(http.StatusCreated, k)
}

func (c *call) keyFilter() (q management.KeyFilter, err error) {
	q = management.KeyFilter{Tenant: c.query("tenant"), Status: gateway.Status(c.query("status")), Prefix: c.query("prefix")}
	q.PageQuery, err = c.page()
	return q, err
}

func (c *call) listKeys() error {
	q, err := c.keyFilter()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Keys(c.ctx, c.actor, c.keyspace, q)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) listTenantKeys() error {
	q, err := c.keyFilter()
	if err != nil {
		return err
	}
	list, err := c.h.manager.TenantKeys(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), q)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) getKey() error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, k.Version, k)
}

func (c *call) patchKey() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := keyFields(o)
	if err := o.done(); err != nil {
		return err
	}
	k, err := c.h.manager.UpdateKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), in, c.match())
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, k.Version, k)
}

func (c *call) deleteKey() error {
	if err := c.h.manager.DeleteKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), c.match()); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) rotateKey() error {
	o, err := c.body(true)
	if err != nil {
		return err
	}
	grace, err := c.grace(o)
	if err != nil {
		return err
	}
	k, err := c.h.manager.RotateKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), grace)
	if err != nil {
		return err
	}
	return c.issued(http.StatusOK, k)
}

// grace reads how long the old secret stays valid, which the body states as a duration or as a
// time.
func (c *call) grace(o *object) (time.Duration, error) {
	var d time.Duration
	if s := o.string("grace"); s.Set && !s.Null && len(o.faults) == 0 {
		var err error
		if until, notTime := time.Parse(time.RFC3339, s.Value); notTime == nil {
			if d = time.Until(until); d <= 0 {
				o.fault("grace", "must be in the future")
			}
		} else if d, err = management.ParseDuration(s.Value); err != nil {
			o.fault("grace", "must be a duration such as 24h or 30d, or a time as in RFC 3339")
		}
	}
	return d, o.done()
}

// maxWait bounds how long a request may wait until other gateways have confirmed its change.
const maxWait = time.Minute

// setState answers the requests revoke, disable and enable with a receipt. When setState returns, the change is in effect on
// this node and on the nodes that the receipt lists as confirmed.
func (c *call) setState(set func(ctx context.Context, a management.Actor, keyspace, id string) (management.Receipt, error)) error {
	o, err := c.body(true)
	if err != nil {
		return err
	}
	if s := o.string("wait"); s.Set && !s.Null && len(o.faults) == 0 {
		d, err := management.ParseDuration(s.Value)
		if err != nil || d > maxWait {
			o.fault("wait", "must be a duration of at most 1m, such as 2s")
		}
		c.ctx = management.WithWait(c.ctx, d)
	}
	if err := o.done(); err != nil {
		return err
	}
	receipt, err := set(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !receipt.Durable {
		status = http.StatusAccepted
	}
	return c.json(status, receipt)
}

func (c *call) revokeKey() error  { return c.setState(c.h.manager.RevokeKey) }
func (c *call) disableKey() error { return c.setState(c.h.manager.DisableKey) }
func (c *call) enableKey() error  { return c.setState(c.h.manager.EnableKey) }

func keyBody() fields {
	return fields{
		"name":            aText("For people.").with("minLength", 1).with("maxLength", management.MaxKeyName),
		"description":     aText("What the key is for.").orNull(),
		"scopes":          aListOf(aText(""), "The key's scopes, within those of the tenant's plan. Default and null: all of these.").orNull(),
		"environment":     aText("One of the configured environments; can't be changed. Default and null: the first.").orNull(),
		"expires_at":      aTime("Default and null: never.").orNull(),
		"allowed_ips":     aListOf(aText(""), "Addresses or CIDR blocks from which the key is accepted. Default, null and empty: all.").orNull(),
		"rate":            rateField(),
		"quota":           quotaField(),
		"concurrency":     concurrencyField(),
		"concurrency_per": concurrencyPerField(),
		"credits_limit":   aNumber("The most that the key may ever spend of its tenant's balance. Null: no bound.").with("minimum", 0).orNull(),
		"metadata":        metadataField(),
	}
}

// waitBody describes the body of changes that can wait for other nodes.
func waitBody() fields {
	return fields{"wait": aText("How long to wait for every node to confirm, at most 1m. Default: 2s.").orNull()}
}

const secretShownOnce = "The full key is only in this response."

var (
	keyFilters = map[string]schema{
		"status": oneOf("Only keys with this status.", "active", "disabled", "revoked", "expired"),
		"prefix": aText("Only keys whose key_prefix begins with this."),
	}
	keyErrors = map[int][]string{
		http.StatusConflict:            {management.CodeKeyRevoked, management.CodeKeyLimitReached},
		http.StatusUnprocessableEntity: {management.CodeScopeNotAllowed, management.CodePlanUnknown},
	}

	_ = document("GET /v1/keys", doc{
		Summary: "Lists keys, newest first.", Query: keyFilters,
		Answers: map[int]any{http.StatusOK: management.Page[management.KeyRecord]{}},
	})
	_ = document("GET /v1/tenants/{slug}/keys", doc{
		Summary: "Lists a tenant's keys, newest first.", Query: keyFilters,
		Answers: map[int]any{http.StatusOK: management.Page[management.KeyRecord]{}},
	})
	_ = document("POST /v1/tenants/{slug}/keys", doc{
		Summary: "Creates a key.", Description: secretShownOnce, Body: keyBody(), Required: []string{"name"}, Versioned: true,
		Answers: map[int]any{http.StatusCreated: issued{}}, Errors: keyErrors,
	})
	_ = document("GET /v1/keys/{id}", doc{
		Summary: "Shows a key, without its secret.", Versioned: true,
		Answers: map[int]any{http.StatusOK: management.KeyRecord{}},
	})
	_ = document("PATCH /v1/keys/{id}", doc{
		Summary: "Changes the stated fields of a key.", Body: keyBody(), Versioned: true,
		Description: "A token of one tenant may only tighten its limits: rate, quota, concurrency, credits_limit.",
		Answers:     map[int]any{http.StatusOK: management.KeyRecord{}}, Errors: keyErrors,
	})
	_ = document("DELETE /v1/keys/{id}", doc{
		Summary: "Deletes a key. Requests with it are rejected like those with an unknown key.", Versioned: true,
		Answers: map[int]any{http.StatusNoContent: nil, http.StatusAccepted: management.Receipt{}},
	})
	_ = document("POST /v1/keys/{id}/rotate", doc{
		Summary: "Gives a key a new secret.", Description: secretShownOnce + " The key keeps its id, limits, scopes, audit records and usage.",
		Body:      fields{"grace": aText("How long the old secret stays valid: a duration such as 24h, or a time. Default and null: not at all.").orNull()},
		EmptyBody: true, Versioned: true,
		Answers: map[int]any{http.StatusOK: issued{}}, Errors: keyErrors,
	})
	_ = document("POST /v1/keys/{id}/revoke", doc{
		Summary: "Revokes a key permanently.", Body: waitBody(), EmptyBody: true,
		Answers: map[int]any{http.StatusOK: management.Receipt{}, http.StatusAccepted: management.Receipt{}},
	})
	_ = document("POST /v1/keys/{id}/disable", doc{
		Summary: "Rejects a key until it is enabled.", Body: waitBody(), EmptyBody: true,
		Answers: map[int]any{http.StatusOK: management.Receipt{}, http.StatusAccepted: management.Receipt{}}, Errors: keyErrors,
	})
	_ = document("POST /v1/keys/{id}/enable", doc{
		Summary: "Enables a disabled key.", Body: waitBody(), EmptyBody: true,
		Answers: map[int]any{http.StatusOK: management.Receipt{}}, Errors: keyErrors,
	})
)
