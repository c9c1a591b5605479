package api

import (
	"net/http"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// tenantFields takes the fields of a tenant from a body, except the slug.
func tenantFields(o *object) management.TenantFields {
	return management.TenantFields{
		Name: o.string("name"), Plan: o.string("plan"), Active: o.bool("active"), Credits: o.int("credits"),
		Rate: o.string("rate"), Quota: o.string("quota"), Concurrency: o.concurrency(),
		Metadata: o.object("metadata"),
	}
}

func (c *call) listTenants() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Tenants(c.ctx, c.actor, c.keyspace, management.TenantFilter{Plan: c.query("plan"), PageQuery: page})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) createTenant() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	slug, in := o.string("slug"), tenantFields(o)
	if err := o.done(); err != nil {
		return err
	}
	t, err := c.h.manager.CreateTenant(c.ctx, c.actor, c.keyspace, slug.Value, in)
	if err != nil {
		return err
	}
	return c.record(http.StatusCreated, t.Version, t)
}

func (c *call) getTenant() error {
	t, err := c.h.manager.Tenant(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, t.Version, t)
}

// changedTenant reads the body of a PUT or PATCH, which may repeat the slug.
func (c *call) changedTenant() (in management.TenantFields, err error) {
	o, err := c.body(c.r.Method == http.MethodPut)
	if err != nil {
		return in, err
	}
	if slug := o.string("slug"); slug.Set && !strings.EqualFold(slug.Value, c.r.PathValue("slug")) {
		o.fault("slug", "can't be changed: it must be the one in the path")
	}
	in = tenantFields(o)
	return in, o.done()
}

func (c *call) putTenant() error {
	in, err := c.changedTenant()
	if err != nil {
		return err
	}
	t, created, err := c.h.manager.PutTenant(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), in, c.match())
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return c.record(status, t.Version, t)
}

func (c *call) patchTenant() error {
	in, err := c.changedTenant()
	if err != nil {
		return err
	}
	t, err := c.h.manager.UpdateTenant(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), in, c.match())
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, t.Version, t)
}

func (c *call) deleteTenant() error {
	force, err := c.flag("force")
	if err != nil {
		return err
	}
	erase, err := c.flag("erase")
	if err != nil {
		return err
	}
	remove := c.h.manager.DeleteTenant
	if erase {
		remove = c.h.manager.EraseTenant
	}
	if err := remove(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), force, c.match()); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) getCredits() error {
	page, err := c.page()
	if err != nil {
		return err
	}
	credits, err := c.h.manager.Credits(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), page)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, credits)
}

// balance is the response to a change of a tenant's credits.
type balance struct {
	Balance int64 `json:"balance"`
}

func (c *call) postCredits() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	add, spend, reference := o.int("add"), o.int("spend"), o.string("reference")
	if add.Set == spend.Set || add.Null || spend.Null {
		o.fault("add", "either add or spend must be stated")
	}
	if err := o.done(); err != nil {
		return err
	}
	move, amount := c.h.manager.AddCredits, add.Value
	if spend.Set {
		move, amount = c.h.manager.SpendCredits, spend.Value
	}
	n, err := move(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), amount, reference.Value)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, balance{n})
}

// These functions return the schemas of fields that both tenants and keys have.
func rateField() schema {
	return aText("Rate limits such as 300/m or 500/m burst 50, several joined by commas. Null clears.").orNull()
}
func quotaField() schema {
	return aText("Quotas such as 100000/month, several joined by commas. Null clears.").orNull()
}
func concurrencyField() schema {
	return aNumber("The most requests at the same time. Null clears.").with("minimum", 1).orNull()
}

// concurrencyPers are the accepted values of concurrency_per.
var concurrencyPers = []string{"key", "tenant", "address"}

func concurrencyPerField() schema {
	return oneOf("For what concurrency is counted; valid only together with concurrency. Default and null: key.", concurrencyPers...).orNull()
}
func metadataField() schema {
	return anObject("Any object, at most 8 KiB; a change replaces all of it.").orNull()
}

func tenantBody() fields {
	return fields{
		"slug":            aText("1 to 255 of A-Z a-z 0-9 _ . -; can't be changed, and is never used again.").with("maxLength", management.MaxSlug),
		"name":            aText("For people. Default and null: the slug.").orNull(),
		"plan":            aText("One of the configured plans. Default and null: the default plan.").orNull(),
		"active":          aFlag("false rejects all keys of the tenant, until it is true again."),
		"credits":         aNumber("The new balance; the ledger records the difference. A change needs the scope credits:write too.").with("minimum", 0),
		"rate":            rateField(),
		"quota":           quotaField(),
		"concurrency":     concurrencyField(),
		"concurrency_per": concurrencyPerField(),
		"metadata":        metadataField(),
	}
}

const ofOneTenant = " A token of one tenant may change only name and metadata."

var (
	_ = document("GET /v1/tenants", doc{
		Summary: "Lists tenants, by slug.",
		Query:   map[string]schema{"plan": aText("Only tenants on this plan.")},
		Answers: map[int]any{http.StatusOK: management.Page[management.TenantRecord]{}},
	})
	_ = document("POST /v1/tenants", doc{
		Summary: "Creates a tenant.", Body: tenantBody(), Required: []string{"slug"}, Versioned: true,
		Answers: map[int]any{http.StatusCreated: management.TenantRecord{}},
		Errors: map[int][]string{
			http.StatusConflict: {management.CodeSlugTaken}, http.StatusUnprocessableEntity: {management.CodePlanUnknown},
		},
	})
	_ = document("GET /v1/tenants/{slug}", doc{
		Summary: "Shows a tenant.", Versioned: true,
		Answers: map[int]any{http.StatusOK: management.TenantRecord{}},
	})
	_ = document("PUT /v1/tenants/{slug}", doc{
		Summary: "Creates or changes a tenant.", Description: "Fields that are not stated stay." + ofOneTenant,
		Body: tenantBody(), EmptyBody: true, Versioned: true,
		Answers: map[int]any{http.StatusOK: management.TenantRecord{}, http.StatusCreated: management.TenantRecord{}},
		Errors: map[int][]string{
			http.StatusPaymentRequired: {management.CodeCreditsExhausted}, http.StatusConflict: {management.CodeSlugTaken},
			http.StatusUnprocessableEntity: {management.CodePlanUnknown},
		},
	})
	_ = document("PATCH /v1/tenants/{slug}", doc{
		Summary: "Changes the stated fields of a tenant.", Description: "Null clears an override." + ofOneTenant,
		Body: tenantBody(), Versioned: true,
		Answers: map[int]any{http.StatusOK: management.TenantRecord{}, http.StatusAccepted: management.Receipt{}},
		Errors: map[int][]string{
			http.StatusPaymentRequired: {management.CodeCreditsExhausted}, http.StatusUnprocessableEntity: {management.CodePlanUnknown},
		},
	})
	_ = document("DELETE /v1/tenants/{slug}", doc{
		Summary: "Deletes a tenant. Its slug is never used again.", Versioned: true,
		Query: map[string]schema{
			"force": aFlag("Deletes its keys too. Without it, the request fails while the tenant has keys that are not revoked."),
			"erase": aFlag("Erases personal data: actors and addresses in the audit log, names and other free text, last requests. Counts remain, and the audit chain still verifies. Also works for a deleted tenant."),
		},
		Answers: map[int]any{http.StatusNoContent: nil, http.StatusAccepted: management.Receipt{}},
		Errors:  map[int][]string{http.StatusConflict: {management.CodeTenantHasKeys}},
	})
	_ = document("GET /v1/tenants/{slug}/credits", doc{
		Summary: "Shows a tenant's balance and its ledger, newest first.",
		Answers: map[int]any{http.StatusOK: management.CreditsRecord{}},
	})
	_ = document("POST /v1/tenants/{slug}/credits", doc{
		Summary: "Adds to a tenant's balance, or spends from it.", Description: "State either add or spend. Spending more than the balance fails and spends nothing.",
		Body: fields{
			"add": aNumber("").with("minimum", 1), "spend": aNumber("").with("minimum", 1),
			"reference": aText("The purpose, for the ledger.").with("maxLength", management.MaxReference).orNull(),
		},
		Answers: map[int]any{http.StatusOK: balance{}},
		Errors:  map[int][]string{http.StatusPaymentRequired: {management.CodeCreditsExhausted}},
	})
)
