package api

import (
	"net/http"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// tenantFields takes what may be stated of a tenant, but its slug.
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

// balance answers a movement of credits.
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
