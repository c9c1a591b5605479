package management

import (
	"context"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// FormerKey returns the record of a key that exists for the actor or, deleted since, did:
// what it used is still known then.
func (m *Manager) FormerKey(ctx context.Context, a Actor, keyspace, id string) (k *gateway.Key, err error) {
	const what = "key"
	if !HasIDForm(id, KeyIDPrefix) {
		return nil, NotFound(what)
	}
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		if k, err = c.Tx.Key(c.Keyspace.Name, id); err != nil {
			return OrNotFound(err, what)
		}
		if !a.Sees(k.Tenant) {
			return NotFound(what)
		}
		return nil
	})
	return k, err
}

// FormerTenant is FormerKey for a tenant.
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

// BadParameter refuses a query parameter.
func BadParameter(name, detail string) *Error { return badParameter(name, detail) }
