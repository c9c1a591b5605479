package management

import (
	"context"

	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// AppendEvent appends the call's event to the audit chain and publishes it. Until the transaction ends, no other
// transaction appends one.
func (c *Call) AppendEvent() error {
	row, err := audit.Append(c.Tx, c.Manager.ids.next(auditIDPrefix, c.Now), c.Keyspace.Name, c.Now,
		audit.Author{Name: c.Actor.Name, IP: c.Actor.IP, Token: c.Actor.Token, Via: c.Actor.Via}, c.Event)
	if err != nil {
		return err
	}
	return c.Events.PublishAudit(row)
}

// AuditReader returns the reader of a store's audit chain.
func AuditReader(s Store) audit.Reader {
	return func(ctx context.Context, f func(audit.Tx) error) error {
		return s.View(ctx, func(tx Tx) error { return f(tx) })
	}
}

// VerifyAudit reads the whole audit chain of a store and checks it. It returns an error only where the store failed.
func VerifyAudit(ctx context.Context, s Store) (audit.Report, error) {
	return audit.Verify(ctx, AuditReader(s), nil)
}

// VerifyAudit checks the audit chain of the manager's store.
func (m *Manager) VerifyAudit(ctx context.Context) (audit.Report, error) {
	return VerifyAudit(ctx, m.store)
}

// AuditFilter selects events of a keyspace, newest first.
type AuditFilter struct {
	// Key is the id of a key and Tenant is the slug of a tenant. They select the events of that key or tenant; "" selects the
	// events of all.
	Key, Tenant string
	PageQuery
}

// Audit returns a page of audit events. An actor of one tenant sees only that tenant's events.
func (m *Manager) Audit(ctx context.Context, a Actor, keyspace string, q AuditFilter) (Page[audit.Record], error) {
	cursors, err := m.Cursors(ctx)
	if err != nil {
		return Page[audit.Record]{}, err
	}
	limit, after, err := cursors.Read(auditCursor, q.PageQuery)
	if err != nil {
		return Page[audit.Record]{}, err
	}
	if a.Tenant != "" {
		if q.Tenant != "" && q.Tenant != a.Tenant {
			return Page[audit.Record]{Data: []audit.Record{}}, nil
		}
		q.Tenant = a.Tenant
	}
	var rows []audit.Row
	err = m.Read(ctx, a, keyspace, func(c *Call) (err error) {
		if q.Tenant != "" {
			if t, err := c.Tenant(c.Keyspace.Name, q.Tenant); err == nil {
				q.Tenant = t.Slug
			}
		}
		rows, err = c.Tx.Audit(audit.Query{Keyspace: c.Keyspace.Name, Key: q.Key, Tenant: q.Tenant, Before: after.Seq, Limit: limit + 1})
		return err
	})
	if err != nil {
		return Page[audit.Record]{}, err
	}
	page := PageOf(cursors, auditCursor, rows, limit, func(r audit.Row) Place { return Place{Seq: r.Seq} })
	out := Page[audit.Record]{Data: make([]audit.Record, len(page.Data)), NextCursor: page.NextCursor}
	for i := range page.Data {
		out.Data[i] = audit.NewRecord(&page.Data[i])
		if a.Tenant != "" {
			out.Data[i].Seq = 0
		}
	}
	return out, nil
}
