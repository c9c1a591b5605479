package management

import (
	"context"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// FormerKey returns the record of a key that exists for the actor or, deleted since, did:
// what it used is still known then.
func (m *Manager) FormerKey(ctx context.Context, a Actor, keyspace, id string) (k *gateway.Key, err error) {
	const what = "key"
	if !isID(id, keyIDPrefix) {
		return nil, notFound(what)
	}
	err = m.read(ctx, a, keyspace, func(c *call) error {
		if k, err = c.Tx.Key(c.ks.Name, id); err != nil {
			return orNotFound(err, what)
		}
		if !a.Sees(k.Tenant) {
			return notFound(what)
		}
		return nil
	})
	return k, err
}

// FormerTenant is FormerKey for a tenant.
func (m *Manager) FormerTenant(ctx context.Context, a Actor, keyspace, slug string) (t *gateway.Tenant, err error) {
	const what = "tenant"
	if !validSlug(slug) {
		return nil, notFound(what)
	}
	err = m.read(ctx, a, keyspace, func(c *call) error {
		if t, err = c.Tx.Tenant(c.ks.Name, slug); err != nil {
			return orNotFound(err, what)
		}
		if !a.Sees(t.Slug) {
			return notFound(what)
		}
		return nil
	})
	return t, err
}

// BadParameter refuses a query parameter.
func BadParameter(name, detail string) *Error { return badParameter(name, detail) }
