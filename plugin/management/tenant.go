package management

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// FindTenant returns a tenant that exists for the actor. With lock it locks the tenant until the
// transaction ends.
func (c *Call) FindTenant(slug string, lock bool) (*gateway.Tenant, error) {
	const what = "tenant"
	if !ValidSlug(slug) {
		return nil, NotFound(what)
	}
	read := c.Tx.Tenant
	if lock {
		read = c.Tx.LockTenant
	}
	t, err := read(c.Keyspace.Name, slug)
	if err != nil {
		return nil, OrNotFound(err, what)
	}
	if !t.DeletedAt.IsZero() || !c.Actor.Sees(t.Slug) {
		return nil, NotFound(what)
	}
	copied := *t
	return &copied, nil
}

// tenantFields returns the fields of a tenant that audit events show.
func tenantFields(t *gateway.Tenant) audit.Fields {
	concurrency := concurrencyRecord(t.Concurrency)
	return audit.Fields{
		"slug": t.Slug, "name": t.Name, "plan": t.Plan, "active": t.Active, "credits": t.Credits,
		"rate": OrNull(t.Rate), "quota": OrNull(t.Quota), "concurrency": concurrency.Concurrency, "concurrency_per": concurrency.ConcurrencyPer,
		"metadata": objectOf(t.Metadata),
	}
}

// CreateTenant creates a tenant. It returns 409 slug_taken if a tenant has the slug, or a deleted
// tenant had it.
func (m *Manager) CreateTenant(ctx context.Context, a Actor, keyspace, slug string, in TenantFields) (r TenantRecord, err error) {
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		r, err = c.CreateTenant(slug, in)
		return err
	})
	return r, err
}

// PutTenant creates a tenant, or changes it as UpdateTenant does. created reports whether it was
// created.
func (m *Manager) PutTenant(ctx context.Context, a Actor, keyspace, slug string, in TenantFields, match Match) (r TenantRecord, created bool, err error) {
	_, err = m.Tenant(ctx, a, keyspace, slug)
	if !IsNotFound(err) || !a.Sees(slug) {
		if err == nil {
			r, err = m.UpdateTenant(ctx, a, keyspace, slug, in, match)
		}
		return r, false, err
	}
	if match != nil {
		return r, false, ErrPrecondition
	}
	r, err = m.CreateTenant(ctx, a, keyspace, slug, in)
	var taken *Error
	if !errors.As(err, &taken) || taken.Code != CodeSlugTaken {
		return r, err == nil, err
	}
	// Another caller has created the tenant since the look-up. If the tenant was deleted, the slug
	// stays taken.
	r, again := m.UpdateTenant(ctx, a, keyspace, slug, in, match)
	if IsNotFound(again) {
		return r, false, err
	}
	return r, false, again
}

func (c *Call) CreateTenant(slug string, in TenantFields) (TenantRecord, error) {
	// The actor is checked first, since the error for a taken slug reveals other tenants.
	if err := c.Actor.RequireOperator("make tenants"); err != nil {
		return TenantRecord{}, err
	}
	var f Faults
	if !ValidSlug(slug) {
		f.Invalid("slug", "must be 1 to %d of the characters A-Z a-z 0-9 _ . - and not . or ..", MaxSlug)
	}
	t := &gateway.Tenant{
		Keyspace: c.Keyspace.Name, Slug: slug, Name: slug, Plan: c.Keyspace.DefaultPlan, Active: true,
		CreatedAt: c.Now, UpdatedAt: c.Now, Version: 1,
	}
	c.applyTenant(&f, t, in)
	if t.Plan == "" && len(c.Keyspace.Plans) > 0 && len(f.fields) == 0 {
		f.Invalid("plan", "must be stated, since the keyspace has no default plan; the plans are %s", strings.Join(c.Keyspace.PlanOrder, ", "))
	}
	if err := f.Err(); err != nil {
		return TenantRecord{}, err
	}
	switch known, err := c.Tx.Tenant(c.Keyspace.Name, slug); {
	case err == nil && !known.DeletedAt.IsZero():
		return TenantRecord{}, Reject(http.StatusConflict, CodeSlugTaken,
			"The slug %q belonged to a tenant that was deleted, and is never given again, since upstreams may keep data under it. Choose another.", slug)
	case err == nil:
		return TenantRecord{}, slugTaken(slug)
	case !errors.Is(err, gateway.ErrNotFound):
		return TenantRecord{}, err
	}
	switch err := c.InsertTenant(t); {
	case errors.Is(err, ErrSlugTaken):
		return TenantRecord{}, slugTaken(slug)
	case err != nil:
		return TenantRecord{}, err
	}
	if in.Credits.Value > 0 {
		if err := c.needScope("credits:write", "credits", "give a tenant credits"); err != nil {
			return TenantRecord{}, err
		}
		if err := c.moveBalance(t, "add", in.Credits.Value, "opening balance"); err != nil {
			return TenantRecord{}, err
		}
	}
	c.AddChange(gateway.ChangeTenant, t.Slug)
	c.Event = &audit.Event{Action: "tenant.created", Target: t.Slug, Tenant: t.Slug, After: tenantFields(t)}
	return c.tenantRecord(t)
}

func slugTaken(slug string) *Error {
	return Reject(http.StatusConflict, CodeSlugTaken, "There is already a tenant %q (slugs differ without regard to case).", slug)
}

// applyTenant writes the present fields of in to t, except the balance, and records their faults.
func (c *Call) applyTenant(f *Faults, t *gateway.Tenant, in TenantFields) {
	if in.Name.Set {
		t.Name = t.Slug
		if !in.Name.Null {
			t.Name = in.Name.Value
			CheckName(f, "name", t.Name, MaxTenantName)
		}
	}
	if in.Plan.Set {
		t.Plan = c.Keyspace.DefaultPlan
		if !in.Plan.Null {
			t.Plan = in.Plan.Value
			if c.Keyspace.Plans[t.Plan] == nil {
				f.Add(CodePlanUnknown, "plan", "%q is no plan; the plans are %s", Clip(t.Plan), OrNone(c.Keyspace.PlanOrder))
			}
		}
	}
	if in.Active.Set {
		if in.Active.Null {
			f.Invalid("active", "must be true or false")
		}
		t.Active = in.Active.Value
	}
	if in.Credits.Set {
		if in.Credits.Null {
			f.Invalid("credits", "must be a number")
		}
		checkCredits(f, "credits", in.Credits.Value)
	}
	if in.Metadata.Set {
		t.Metadata = checkMetadata(f, "metadata", in.Metadata)
	}
	applyOverrides(f, &t.Overrides, in.Rate, in.Quota, in.Concurrency, false)
}

// UpdateTenant changes the fields that are present. Active suspends or activates the tenant.
// UpdateTenant returns an *Accepted if the database is unreachable and this node holds a
// suspension, which must be the only change.
func (m *Manager) UpdateTenant(ctx context.Context, a Actor, keyspace, slug string, in TenantFields, match Match) (r TenantRecord, err error) {
	update := func() error {
		return m.Write(ctx, a, keyspace, func(c *Call) error {
			r, err = c.updateTenant(slug, in, match)
			return err
		})
	}
	if in.Credits.Set {
		return r, m.withSettledCredits(ctx, a, keyspace, slug, update)
	}
	err = update()
	if err != nil && match == nil && reflect.DeepEqual(in, TenantFields{Active: Some(false)}) {
		err = m.revokeTenantOffline(ctx, a, keyspace, slug, TenantSuspended, err)
	}
	return r, err
}

func (c *Call) updateTenant(slug string, in TenantFields, match Match) (TenantRecord, error) {
	t, err := c.FindTenant(slug, true)
	if err != nil {
		return TenantRecord{}, err
	}
	if !match.Matches(t.Version) {
		return TenantRecord{}, ErrPrecondition
	}
	before, wasActive := tenantFields(t), t.Active
	var f Faults
	c.applyTenant(&f, t, in)
	if err := f.Err(); err != nil {
		return TenantRecord{}, err
	}
	if in.Credits.Set && in.Credits.Value != t.Credits {
		if err := c.Actor.RequireOperator("change credits"); err != nil {
			return TenantRecord{}, err
		}
		if err := c.needScope("credits:write", "credits", "change a tenant's credits"); err != nil {
			return TenantRecord{}, err
		}
		kind := "add"
		if in.Credits.Value < t.Credits {
			kind = "spend"
		}
		if err := c.moveBalance(t, kind, in.Credits.Value-t.Credits, "balance set"); err != nil {
			return TenantRecord{}, err
		}
	}
	after := tenantFields(t)
	if !audit.Diff(before, after) {
		return c.tenantRecord(t)
	}
	if err := c.confineTenant(before, after); err != nil {
		return TenantRecord{}, err
	}
	version := t.Version + 1
	t.UpdatedAt = c.Now
	if err := c.Tx.UpdateTenant(t); err != nil {
		return TenantRecord{}, err
	}
	t.Version = version
	action := "tenant.updated"
	switch {
	case wasActive && !t.Active:
		action = "tenant.suspended"
	case !wasActive && t.Active:
		action = "tenant.activated"
	}
	c.AddChange(gateway.ChangeTenant, t.Slug)
	c.Event = &audit.Event{Action: action, Target: t.Slug, Tenant: t.Slug, Before: before, After: after}
	return c.tenantRecord(t)
}

// SuspendTenant makes this and every other node reject all keys of a tenant until ActivateTenant.
// No data is lost.
func (m *Manager) SuspendTenant(ctx context.Context, a Actor, keyspace, slug string) (TenantRecord, error) {
	return m.UpdateTenant(ctx, a, keyspace, slug, TenantFields{Active: Some(false)}, nil)
}

// ActivateTenant ends a suspension. The tenant's keys have the same state as before it.
func (m *Manager) ActivateTenant(ctx context.Context, a Actor, keyspace, slug string) (TenantRecord, error) {
	return m.UpdateTenant(ctx, a, keyspace, slug, TenantFields{Active: Some(true)}, nil)
}

// Tenant returns one tenant.
func (m *Manager) Tenant(ctx context.Context, a Actor, keyspace, slug string) (r TenantRecord, err error) {
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		t, err := c.FindTenant(slug, false)
		if err != nil {
			return err
		}
		r, err = c.tenantRecord(t)
		return err
	})
	return r, err
}

// FormerTenant returns a tenant even if it was deleted.
func (m *Manager) FormerTenant(ctx context.Context, a Actor, keyspace, slug string) (t *gateway.Tenant, err error) {
	const what = "tenant"
	if !ValidSlug(slug) {
		return nil, NotFound(what)
	}
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		if t, err = c.Tx.Tenant(c.Keyspace.Name, slug); err != nil {
			return OrNotFound(err, what)
		}
		if !a.Sees(t.Slug) {
			return NotFound(what)
		}
		return nil
	})
	return t, err
}

// TenantFilter selects tenants in the order of their slugs.
type TenantFilter struct {
	// Plan selects the tenants of a plan; "" selects all.
	Plan string
	PageQuery
}

// Tenants returns a page of tenants.
func (m *Manager) Tenants(ctx context.Context, a Actor, keyspace string, q TenantFilter) (Page[TenantRecord], error) {
	limit, last, err := q.After("t")
	if err != nil {
		return Page[TenantRecord]{}, err
	}
	var out []TenantRecord
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		out = nil
		var rows []*gateway.Tenant
		var err error
		if a.Tenant != "" {
			// An actor of one tenant gets at most one row, so there is no next page.
			t, err := c.FindTenant(a.Tenant, false)
			if err == nil && (q.Plan == "" || q.Plan == t.Plan) && last == "" {
				rows = append(rows, t)
			} else if err != nil && !IsNotFound(err) {
				return err
			}
		} else if rows, err = c.Tx.Tenants(TenantQuery{Keyspace: c.Keyspace.Name, After: last, Plan: q.Plan, Limit: limit + 1}); err != nil {
			return err
		}
		for _, t := range rows {
			r, err := c.tenantRecord(t)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return CutPage(out, limit, func(r TenantRecord) string { return CursorOf("t", r.Slug) }), err
}

// DeleteTenant deletes a tenant. Its slug can't be used again. With withKeys, DeleteTenant deletes
// the tenant's keys too. Otherwise it returns 409 tenant_has_keys while a key is not revoked. It
// returns an *Accepted if the database is unreachable and this node holds the deletion.
func (m *Manager) DeleteTenant(ctx context.Context, a Actor, keyspace, slug string, withKeys bool, match Match) error {
	err := m.withSettledCredits(ctx, a, keyspace, slug, func() error {
		return m.Write(ctx, a, keyspace, func(c *Call) error { return c.deleteTenant(slug, withKeys, false, match) })
	})
	if err != nil && match == nil && withKeys {
		// Without withKeys the deletion depends on the tenant's keys, which can't be read now.
		return m.revokeTenantOffline(ctx, a, keyspace, slug, TenantDeleted, err)
	}
	return err
}

func (c *Call) deleteTenant(slug string, withKeys, erase bool, match Match) error {
	t, err := c.FindTenant(slug, true)
	if err != nil {
		return err
	}
	if err := c.Actor.RequireOperator("delete tenants"); err != nil {
		return err
	}
	if !match.Matches(t.Version) {
		return ErrPrecondition
	}
	var keys []*gateway.Key
	for before := ""; ; {
		page, err := c.Tx.Keys(KeyQuery{Keyspace: c.Keyspace.Name, Tenant: t.Slug, Before: before, Now: c.Now, Limit: 1000})
		if err != nil {
			return err
		}
		keys = append(keys, page...)
		if len(page) < 1000 {
			break
		}
		before = page[len(page)-1].ID
	}
	if !withKeys && slices.ContainsFunc(keys, func(k *gateway.Key) bool { return k.RevokedAt.IsZero() }) {
		return Reject(http.StatusConflict, CodeTenantHasKeys,
			"The tenant %q still has keys. Revoke or delete them first, delete it together with them (force), or suspend it, which can be undone.", t.Slug)
	}
	for _, k := range keys {
		if err := c.removeKey(k); err != nil {
			return err
		}
	}
	hooks, err := c.Webhooks(events.WebhookQuery{Keyspace: c.Keyspace.Name, Tenant: t.Slug})
	if err != nil {
		return err
	}
	for _, w := range hooks {
		if err := c.DeleteWebhook(c.Keyspace.Name, w.ID); err != nil {
			return err
		}
	}
	before := tenantFields(t)
	before["keys"] = len(keys)
	// The row stays with its slug, so that the slug is not used again.
	t.Name, t.Metadata, t.Overrides, t.Active = "", nil, gateway.Overrides{}, false
	t.UpdatedAt, t.DeletedAt = c.Now, c.Now
	if err := c.Tx.UpdateTenant(t); err != nil {
		return err
	}
	c.AddChange(gateway.ChangeTenant, t.Slug)
	c.Event = &audit.Event{Action: "tenant.deleted", Target: t.Slug, Tenant: t.Slug, Before: before}
	if erase {
		return c.erasePersonal(t)
	}
	return nil
}

// EraseTenant is DeleteTenant, and erases the tenant's personal data: who changed its records and
// from which address, names, descriptions and metadata, the references of the ledger, and the last
// requests. Counts and the kinds of changes stay, and the audit chain stays valid. The last audit
// event says who erased the tenant. A deleted tenant can be erased later.
func (m *Manager) EraseTenant(ctx context.Context, a Actor, keyspace, slug string, withKeys bool, match Match) error {
	err := m.withSettledCredits(ctx, a, keyspace, slug, func() error {
		return m.Write(ctx, a, keyspace, func(c *Call) error { return c.deleteTenant(slug, withKeys, true, match) })
	})
	if !IsNotFound(err) {
		return err
	}
	return m.Write(ctx, a, keyspace, func(c *Call) error {
		if !ValidSlug(slug) || c.Actor.Tenant != "" {
			return NotFound("tenant")
		}
		t, err := c.LockTenant(c.Keyspace.Name, slug)
		if err != nil {
			return OrNotFound(err, "tenant")
		}
		if t.DeletedAt.IsZero() {
			return ErrPrecondition // Another caller has created the tenant between the two transactions.
		}
		if !match.Matches(t.Version) {
			return ErrPrecondition
		}
		c.Event = &audit.Event{Action: "tenant.erased", Target: t.Slug, Tenant: t.Slug}
		return c.erasePersonal(t)
	})
}

// erasePersonal erases the personal data of a deleted tenant, and removes it from the call's own
// event too.
func (c *Call) erasePersonal(t *gateway.Tenant) error {
	c.Event.Before.DeletePersonal()
	c.Event.After = audit.Fields{"erased": true}
	_, err := c.ErasePersonal(c.Keyspace.Name, t.Slug)
	return err
}
