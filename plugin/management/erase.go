package management

import (
	"context"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// EraseTenant is DeleteTenant, and forgets the tenant's people: who acted on it and from
// where, names, descriptions and metadata, the ledger's references, addresses and last requests. What
// was counted and done stays, and the audit chain still verifies; that it was erased, and by whom, is its last
// event. A tenant that is deleted already can be erased afterwards.
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
			return ErrPrecondition // it was made between the two
		}
		if !match.Matches(t.Version) {
			return ErrPrecondition
		}
		c.Event = &audit.Event{Action: "tenant.erased", Target: t.Slug, Tenant: t.Slug}
		return c.erasePersonal(t)
	})
}

// erasePersonal forgets the people of a deleted tenant, and takes out of the event that says
// so what would tell of them again.
func (c *Call) erasePersonal(t *gateway.Tenant) error {
	c.Event.Before.DeletePersonal()
	c.Event.After = audit.Fields{"erased": true}
	_, err := c.ErasePersonal(c.Keyspace.Name, t.Slug)
	return err
}
