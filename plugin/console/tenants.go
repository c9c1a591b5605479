package console

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/limits"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// tenantsPage is the page that lists tenants.
type tenantsPage struct {
	List  []management.TenantRecord
	Next  string
	Plan  string
	Plans []management.PlanRecord
	First bool
	// Typed and Wrong are the value and the fault of the field that opens a tenant by its slug.
	Typed, Wrong string
}

func (c *call) listTenants() error {
	q := c.r.URL.Query()
	p := tenantsPage{Plan: q.Get("plan"), First: q.Get("cursor") == "", Typed: strings.TrimSpace(q.Get("slug"))}
	if p.Typed != "" {
		t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, p.Typed)
		if err == nil {
			c.w.Header().Set("Location", c.to("/tenants/", t.Slug))
			c.w.WriteHeader(http.StatusSeeOther)
			return nil
		}
		var e *management.Error
		if !errors.As(err, &e) {
			return err
		}
		p.Wrong = "There is no tenant of that name."
	}
	list, err := c.h.manager.Tenants(c.ctx, c.actor, c.h.opts.Keyspace, management.TenantFilter{Plan: p.Plan, PageQuery: c.page()})
	if err != nil {
		return err
	}
	plans, err := c.h.manager.Plans(c.h.opts.Keyspace)
	if err != nil {
		return err
	}
	p.List, p.Plans, p.Next = list.Data, plans.Data, c.next(list.NextCursor)
	return c.render(http.StatusOK, "tenants", "Tenants", p)
}

// tenantForm is the page that creates or changes a tenant.
type tenantForm struct {
	Form  *form
	Plans []management.PlanRecord
	// Tenant is the tenant to change; nil to create one.
	Tenant *management.TenantRecord
}

func (c *call) showTenantForm(status int, f *form, t *management.TenantRecord) error {
	plans, err := c.h.manager.Plans(c.h.opts.Keyspace)
	if err != nil {
		return err
	}
	page, title := "tenant-new", "Create a tenant"
	if t != nil {
		page, title = "tenant-edit", "Edit "+t.Name
	}
	return c.render(status, page, title, tenantForm{f, plans.Data, t})
}

func (c *call) showNewTenant() error {
	f := newForm(nil)
	ks, err := c.h.manager.Keyspace(c.h.opts.Keyspace)
	if err != nil {
		return err
	}
	f.Set("plan", ks.DefaultPlan)
	return c.showTenantForm(http.StatusOK, f, nil)
}

// tenantFields reads the fields of a tenant from the form.
func (f *form) tenantFields() management.TenantFields {
	in := management.TenantFields{Name: f.orNull("name"), Rate: f.orNull("rate"), Quota: f.orNull("quota"), Concurrency: f.orNull("concurrency")}
	if _, ok := f.values["plan"]; ok {
		in.Plan = f.text("plan")
	}
	if text := strings.TrimSpace(f.Value("metadata")); text != "" && text != "{}" {
		in.Metadata = management.Some(json.RawMessage(text))
	} else if _, ok := f.values["metadata"]; ok {
		in.Metadata = management.Null[json.RawMessage]()
	}
	return in
}

func (c *call) createTenant() error {
	f := newForm(c.r.PostForm)
	in := f.tenantFields()
	if n := f.number("credits"); !n.Null {
		in.Credits = n
	}
	if f.Failed() {
		return c.showTenantForm(http.StatusUnprocessableEntity, f, nil)
	}
	t, err := c.h.manager.CreateTenant(c.ctx, c.actor, c.h.opts.Keyspace, strings.TrimSpace(f.Value("slug")), in)
	if err != nil {
		e, err := f.reject(err)
		if err != nil {
			return err
		}
		if e.Code == management.CodeSlugTaken {
			delete(f.errors, "")
			f.fault("slug", e.Detail)
		}
		return c.showTenantForm(e.Status, f, nil)
	}
	return c.redirect("/tenants/"+t.Slug, "tenant-created")
}

// tenantPage is the page that shows one tenant.
type tenantPage struct {
	Tenant management.TenantRecord
	Plan   *management.PlanRecord
	Keys   []management.KeyRecord
	More   bool
	Limits []limits.Record
	Usage  *usageView
	Audit  []audit.Record
	// HasMetadata is true if the tenant's metadata is not empty.
	HasMetadata bool
}

func (c *call) showTenant() error {
	slug := c.r.PathValue("slug")
	p := tenantPage{}
	var err error
	if p.Tenant, err = c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, slug); err != nil {
		return err
	}
	p.HasMetadata = len(p.Tenant.Metadata) > len("{}")
	if p.Plan, err = c.plan(p.Tenant.Plan); err != nil {
		return err
	}
	if c.grant.Allows("keys:read") {
		list, err := c.h.manager.TenantKeys(c.ctx, c.actor, c.h.opts.Keyspace, slug, management.KeyFilter{PageQuery: management.PageQuery{Limit: 10}})
		if err != nil {
			return err
		}
		p.Keys, p.More = list.Data, list.NextCursor != nil
	}
	if p.Limits, err = c.tenantLimitStatus(slug); err != nil {
		return err
	}
	if c.grant.Allows("usage:read") && c.h.opts.Usage != nil {
		if p.Usage, err = c.usage(func(r usage.Range) (usage.Report, error) {
			return c.h.opts.Usage.OfTenant(c.ctx, c.actor, c.h.opts.Keyspace, slug, r)
		}); err != nil {
			return err
		}
	}
	if c.grant.Allows("audit:read") {
		list, err := c.h.manager.Audit(c.ctx, c.actor, c.h.opts.Keyspace, management.AuditFilter{Tenant: p.Tenant.Slug, PageQuery: management.PageQuery{Limit: 10}})
		if err != nil {
			return err
		}
		p.Audit = list.Data
	}
	return c.render(http.StatusOK, "tenant", p.Tenant.Name, p)
}

func (c *call) showEditTenant() error {
	t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("slug"))
	if err != nil {
		return err
	}
	f := newForm(nil)
	for name, v := range map[string]string{
		"name": t.Name, "plan": t.Plan, "rate": deref(t.Rate), "quota": deref(t.Quota), "concurrency": t.ConcurrencyText(), "metadata": string(t.Metadata),
	} {
		f.Set(name, v)
	}
	return c.showTenantForm(http.StatusOK, f, &t)
}

func (c *call) editTenant() error {
	t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("slug"))
	if err != nil {
		return err
	}
	f := newForm(c.r.PostForm)
	if _, err := c.h.manager.UpdateTenant(c.ctx, c.actor, c.h.opts.Keyspace, t.Slug, f.tenantFields(), nil); err != nil {
		e, err := f.reject(err)
		if err != nil {
			return err
		}
		return c.showTenantForm(e.Status, f, &t)
	}
	return c.redirect("/tenants/"+t.Slug, "tenant-updated")
}

// creditsPage is the page that shows a tenant's balance and ledger.
type creditsPage struct {
	Tenant  management.TenantRecord
	Credits management.CreditsRecord
	Form    *form
	Next    string
}

func (c *call) showCredits() error { return c.showCreditsForm(http.StatusOK, newForm(nil)) }

func (c *call) showCreditsForm(status int, f *form) error {
	p := creditsPage{Form: f}
	var err error
	if p.Tenant, err = c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("slug")); err != nil {
		return err
	}
	if p.Credits, err = c.h.manager.Credits(c.ctx, c.actor, c.h.opts.Keyspace, p.Tenant.Slug, c.page()); err != nil {
		return err
	}
	p.Next = c.next(p.Credits.NextCursor)
	return c.render(status, "tenant-credits", "Credits of "+p.Tenant.Name, p)
}

func (c *call) moveCredits() error {
	slug := c.r.PathValue("slug")
	f := newForm(c.r.PostForm)
	amount := f.number("amount")
	if amount.Null {
		f.fault("amount", "must be a whole number, such as 500")
	}
	if f.Failed() {
		return c.showCreditsForm(http.StatusUnprocessableEntity, f)
	}
	move := c.h.manager.AddCredits
	if f.Value("direction") == "spend" {
		move = c.h.manager.SpendCredits
	}
	if _, err := move(c.ctx, c.actor, c.h.opts.Keyspace, slug, amount.Value, strings.TrimSpace(f.Value("reference"))); err != nil {
		e, err := f.reject(err)
		if err != nil {
			return err
		}
		for _, name := range []string{"add", "spend"} {
			if wrong := f.errors[name]; wrong != "" {
				f.fault("amount", wrong)
			}
		}
		return c.showCreditsForm(e.Status, f)
	}
	return c.redirect("/tenants/"+slug+"/credits", "credits")
}

// tenantAction is an action on a tenant that a person has to confirm.
type tenantAction struct {
	verb, title string
	effects     []string
	grave       bool
	check       string
	notice      string
	do          func(c *call, slug string) error
}

var tenantActions = map[string]tenantAction{
	"suspend": {
		verb: "Suspend the tenant", title: "Suspend",
		effects: []string{
			"All its keys are rejected from the next request on, and running requests are ended.",
			"Nothing is lost: keys, credits, usage and webhooks stay as they are until the tenant is activated.",
		},
		notice: "suspended", do: func(c *call, slug string) error {
			return errorOf(c.h.manager.SuspendTenant(c.ctx, c.actor, c.h.opts.Keyspace, slug))
		},
	},
	"activate": {
		verb: "Activate the tenant", title: "Activate",
		effects: []string{"Every key is unchanged: active keys pass again from the next request on."},
		notice:  "activated", do: func(c *call, slug string) error {
			return errorOf(c.h.manager.ActivateTenant(c.ctx, c.actor, c.h.opts.Keyspace, slug))
		},
	},
	"delete": {
		verb: "Delete permanently", title: "Delete", grave: true, check: "Also delete its keys that are not revoked",
		effects: []string{
			"Its people can no longer sign in, and its webhooks are deleted.",
			"Its slug is never used again, because upstreams keep data under it.",
			"Its usage and its audit log are kept. This can't be undone.",
		},
		notice: "tenant-deleted", do: func(c *call, slug string) error {
			return c.h.manager.DeleteTenant(c.ctx, c.actor, c.h.opts.Keyspace, slug, c.r.PostForm.Get("force") != "", nil)
		},
	},
	"reset-limits": {
		verb: "Reset the limits", title: "Reset the limits of",
		effects: []string{"The limits that all its keys share are reset: nothing counts as used. Credits stay as they are."},
		notice:  "limits-reset", do: func(c *call, slug string) error {
			return errorOf(limits.ResetTenant(c.ctx, c.h.manager, c.actor, c.h.opts.Keyspace, slug, nil))
		},
	},
}

func (c *call) tenantAction() (tenantAction, management.TenantRecord, error) {
	a, ok := tenantActions[c.r.PathValue("act")]
	if !ok {
		return a, management.TenantRecord{}, errNoPage
	}
	t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("slug"))
	return a, t, err
}

func (c *call) confirmTenant() error {
	a, t, err := c.tenantAction()
	if err != nil {
		return err
	}
	return c.confirmTenantAction(http.StatusOK, a, t, "")
}

func (c *call) confirmTenantAction(status int, a tenantAction, t management.TenantRecord, wrong string) error {
	effects := a.effects
	if t.KeysActive > 0 && a.title == "Suspend" {
		effects = append([]string{"It has " + plural(t.KeysActive, "active key") + "."}, effects...)
	}
	return c.render(status, "tenant-confirm", a.title+" "+t.Name, confirmPage{
		Title: a.title + " “" + t.Name + "”?", Subject: t.Name, Detail: t.Slug, Verb: a.verb, Effects: effects, Grave: a.grave,
		Action: c.to("/tenants/", t.Slug, "/"+c.r.PathValue("act")), Cancel: c.to("/tenants/", t.Slug), Wrong: wrong, Check: a.check, CheckName: "force",
	})
}

func (c *call) changeTenant() error {
	a, t, err := c.tenantAction()
	if err != nil {
		return err
	}
	if err := a.do(c, t.Slug); err != nil {
		var e *management.Error
		if errors.As(err, &e) && e.Status != http.StatusNotFound && e.Status != http.StatusUnauthorized {
			return c.confirmTenantAction(e.Status, a, t, e.Error())
		}
		return err
	}
	if a.notice == "tenant-deleted" {
		return c.redirect("/tenants", a.notice)
	}
	return c.redirect("/tenants/"+t.Slug, a.notice)
}

func (c *call) listPlans() error {
	plans, err := c.h.manager.Plans(c.h.opts.Keyspace)
	if err != nil {
		return err
	}
	return c.render(http.StatusOK, "plans", "Plans", plans.Data)
}
