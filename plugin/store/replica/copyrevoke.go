package replica

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// Revoke applies a revocation to its key or tenant in the copy, and stores the revocation as pending,
// because the primary does not have it yet. When Revoke returns, the disk holds both changes. Revoke
// returns gateway.ErrNotFound if the copy has no such key or tenant.
func (c *Copy) Revoke(ctx context.Context, r management.Revocation) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error { return revokeAndStore(t, r) })
}

// RevokeAll applies and stores a list of revocations as Revoke does for one. RevokeAll also stores a
// revocation whose key or tenant the copy does not have.
func (c *Copy) RevokeAll(ctx context.Context, list []management.Revocation) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		for _, r := range list {
			err := revokeAndStore(t, r)
			if errors.Is(err, gateway.ErrNotFound) {
				err = replication.StoreRevocation(t, replication.StoredRevocation{Revocation: r})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// revokeAndStore applies a revocation to the row of its key or tenant, and stores it as pending.
func revokeAndStore(t *sqlstore.Tx, r management.Revocation) error {
	if r.Change().Kind == gateway.ChangeTenant && r.Created.IsZero() {
		in, err := t.Tenant(r.Keyspace, r.ID)
		if err != nil {
			return err
		}
		r.Created = in.CreatedAt
	}
	if err := replication.RevokeRow(t, r); err != nil {
		return err
	}
	return replication.StoreRevocation(t, replication.StoredRevocation{Revocation: r})
}

// Reverse ends reversible revocations. If a revocation was decided again later, Reverse leaves it.
func (c *Copy) Reverse(ctx context.Context, list []management.Revocation) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		for _, r := range list {
			if err := replication.DeleteRevocation(t, r); err != nil {
				return err
			}
		}
		for _, r := range list {
			again, err := replication.SelectRevocations(t, `WHERE about = $1 AND keyspace = $2 AND action = $3`, replication.RowID(r), r.Keyspace, r.Action)
			if err != nil {
				return err
			}
			if len(again) > 0 {
				continue
			}
			query := `UPDATE keys SET disabled = 0 WHERE keyspace = $1 AND id = $2 AND coalesce(updated_at, 0) <= $3`
			if r.Action == management.TenantSuspended {
				query = `UPDATE tenants SET active = 1 WHERE keyspace = $1 AND folded = $2 AND coalesce(updated_at, 0) <= $3 AND deleted_at IS NULL`
			}
			if _, err := t.Exec(query, r.Keyspace, replication.RowID(r), r.At.UnixMicro()); err != nil {
				return err
			}
		}
		return nil
	})
}

// reapplyRevocations applies the copy's stored revocations to the rows of a delta, a list of the
// primary's changes. If the primary did not have such a row before, its revocation becomes pending
// again.
func reapplyRevocations(t *sqlstore.Tx, d *replication.Delta) error {
	var some bool
	if err := t.Row(`SELECT EXISTS (SELECT 1 FROM refused)`, nil, &some); err != nil || !some {
		return err
	}
	for _, part := range []struct {
		rows         []replication.Row
		keyspace, id int
	}{
		{d.Tenants, replication.TenantRows.Column("keyspace"), replication.TenantRows.Column("folded")},
		{d.Keys, replication.KeyRows.Column("keyspace"), replication.KeyRows.Column("id")},
		{d.Secrets, replication.SecretRows.Column("keyspace"), replication.SecretRows.Column("id")},
		{d.Tokens, replication.TokenRows.Column("keyspace"), replication.TokenRows.Column("id")},
	} {
		for _, row := range part.rows {
			list, err := replication.SelectRevocations(t, `WHERE about = $1 AND keyspace = $2`, row[part.id], row[part.keyspace])
			if err != nil {
				return err
			}
			for _, k := range list {
				err := replication.RevokeRow(t, k.Revocation)
				if errors.Is(err, gateway.ErrNotFound) {
					continue
				}
				if err == nil && !k.UnknownSince.IsZero() {
					k.UnknownSince = time.Time{}
					err = replication.StoreRevocation(t, k)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Pending returns the revocations that must still be written to the primary. Their order is the order
// in which the copy stored them.
func (c *Copy) Pending(ctx context.Context) (out []replication.StoredRevocation, err error) {
	err = c.Snapshot(ctx, "reading the replica", func(t *sqlstore.Tx) (err error) {
		out, err = replication.SelectRevocations(t, `WHERE absent_since IS NULL`)
		return err
	})
	return out, err
}

// CountPending returns the number of revocations that must still be written to the primary.
func (c *Copy) CountPending(ctx context.Context) (n int64, err error) {
	err = c.Snapshot(ctx, "reading the replica", func(t *sqlstore.Tx) (err error) {
		n, err = countPending(t)
		return err
	})
	return n, err
}

func countPending(t *sqlstore.Tx) (n int64, err error) {
	err = t.Row(`SELECT count(*) FROM refused WHERE absent_since IS NULL`, nil, &n)
	return n, err
}

// MarkUnknown marks a pending revocation whose key or tenant the primary does not have. A revocation
// that names only a tenant's slug is deleted instead, because a later tenant may get that slug. If the
// copy has the row, the copy and the primary are at different states. MarkUnknown then returns an
// error and the revocation stays pending.
func (c *Copy) MarkUnknown(ctx context.Context, r management.Revocation) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		states, err := replication.Compare(t, []management.Revocation{r})
		if err == nil && states[0] != replication.UnknownID {
			err = errors.New("the database lacks a row that the replica has: one of them is not up to date yet")
		}
		if err != nil {
			return err
		}
		if replication.SlugOnly(r) {
			return replication.DeleteRevocation(t, r)
		}
		return replication.StoreRevocation(t, replication.StoredRevocation{Revocation: r, UnknownSince: t.Now})
	})
}

// Resolve deletes a pending revocation and writes the primary's rows in d to the copy. The caller
// reads d with Reread. If reversed is false, the rows in d must show the revocation. If they do not
// show it, Resolve changes nothing and returns false.
func (c *Copy) Resolve(ctx context.Context, r management.Revocation, reversed bool, d *replication.Delta, syncedAt time.Time) (bool, error) {
	errNotRevoked := errors.New("the row is not revoked")
	err := c.applyDelta(ctx, d, syncedAt, func(t *sqlstore.Tx) error { return replication.DeleteRevocation(t, r) }, func(t *sqlstore.Tx) error {
		if reversed {
			return nil
		}
		states, err := replication.Compare(t, []management.Revocation{r})
		if err == nil && states[0] != replication.Revoked {
			err = errNotRevoked
		}
		return err
	})
	if errors.Is(err, errNotRevoked) {
		return false, nil
	}
	return err == nil, err
}

// Overlay returns a copy of rec to which the revocations stored in c are applied. It also returns
// those revocations that the primary may have reversed. It returns gateway.ErrNotFound if a
// revocation deletes the key or the tenant.
func (c *Copy) Overlay(ctx context.Context, rec *gateway.Record) (over *gateway.Record, reversible []management.Revocation, err error) {
	key, tenant := *rec.Key, *rec.Tenant
	over = &gateway.Record{Secret: rec.Secret, Key: &key, Tenant: &tenant}
	err = c.Snapshot(ctx, "reading the replica", func(t *sqlstore.Tx) error {
		reversible = nil
		list, err := recordRevocations(t, rec)
		if err != nil {
			return err
		}
		for _, r := range list {
			switch r.Action {
			case management.KeyDeleted, management.TenantDeleted:
				return gateway.ErrNotFound
			case management.KeyRevoked:
				if key.RevokedAt.IsZero() {
					key.RevokedAt = r.At
				}
			case management.KeyDisabled:
				key.Disabled = true
				if !rec.Key.Disabled {
					reversible = append(reversible, r)
				}
			case management.TenantSuspended:
				tenant.Active = false
				if rec.Tenant.Active {
					reversible = append(reversible, r)
				}
			case management.SecretEnded:
				if over.Secret.ExpiresAt.IsZero() || over.Secret.ExpiresAt.After(r.At) {
					over.Secret.ExpiresAt = r.At
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return over, reversible, nil
}

// ReversibleRevocations returns the copy's revocations of a key or tenant that the primary may
// have reversed.
func (c *Copy) ReversibleRevocations(ctx context.Context, ch gateway.Change) (out []management.Revocation, err error) {
	err = c.Snapshot(ctx, "reading the replica", func(t *sqlstore.Tx) (err error) {
		var list []management.Revocation
		switch ch.Kind {
		case gateway.ChangeKey:
			list, err = recordRevocations(t, &gateway.Record{Key: &gateway.Key{Keyspace: ch.Keyspace, ID: ch.ID}})
		case gateway.ChangeTenant:
			list, err = recordRevocations(t, &gateway.Record{Tenant: &gateway.Tenant{Keyspace: ch.Keyspace, Slug: ch.ID}})
		}
		out = nil
		for _, r := range list {
			if r.Reversible() {
				out = append(out, r)
			}
		}
		return err
	})
	return out, err
}

// recordRevocations returns the copy's revocations of the key, the tenant and the secret in rec,
// both from their rows and from the stored revocations.
func recordRevocations(t *sqlstore.Tx, rec *gateway.Record) (out []management.Revocation, err error) {
	stored := func(keyspace, about string, ours func(replication.StoredRevocation) bool) error {
		list, err := replication.SelectRevocations(t, `WHERE about = $1 AND keyspace = $2`, about, keyspace)
		for _, k := range list {
			if ours == nil || ours(k) {
				out = append(out, k.Revocation)
			}
		}
		return err
	}
	if in := rec.Tenant; in != nil {
		same := func(created time.Time) bool {
			return in.CreatedAt.IsZero() || created.IsZero() || created.Equal(in.CreatedAt)
		}
		if err := stored(in.Keyspace, sqlstore.Fold(in.Slug), func(k replication.StoredRevocation) bool { return same(k.Created) }); err != nil {
			return nil, err
		}
		row, err := t.Tenant(in.Keyspace, in.Slug)
		if err := ignoreNotFound(err); err != nil {
			return nil, err
		}
		if err == nil && same(row.CreatedAt) {
			r := management.Revocation{Keyspace: row.Keyspace, ID: row.Slug, Created: row.CreatedAt, At: row.UpdatedAt, Action: management.TenantSuspended}
			if !row.DeletedAt.IsZero() {
				r.Action, r.At = management.TenantDeleted, row.DeletedAt
			}
			if !row.Active || !row.DeletedAt.IsZero() {
				out = append(out, r)
			}
		}
	}
	if key := rec.Key; key != nil {
		if err := stored(key.Keyspace, key.ID, nil); err != nil {
			return nil, err
		}
		row, err := t.Key(key.Keyspace, key.ID)
		if err := ignoreNotFound(err); err != nil {
			return nil, err
		}
		if err == nil {
			r := management.Revocation{Keyspace: row.Keyspace, ID: row.ID}
			if row.Disabled {
				r.Action, r.At = management.KeyDisabled, row.UpdatedAt
				out = append(out, r)
			}
			if !row.RevokedAt.IsZero() {
				r.Action, r.At = management.KeyRevoked, row.RevokedAt
				out = append(out, r)
			}
			if !row.DeletedAt.IsZero() {
				r.Action, r.At = management.KeyDeleted, row.DeletedAt
				out = append(out, r)
			}
		}
	}
	if rec.Secret.ID != "" {
		r := management.Revocation{Action: management.SecretEnded, Keyspace: rec.Secret.Keyspace, ID: rec.Secret.ID, Key: rec.Secret.KeyID}
		if err := stored(r.Keyspace, r.ID, nil); err != nil {
			return nil, err
		}
		err := t.Row(`SELECT expires_at FROM secrets WHERE id = $1 AND keyspace = $2`, []any{r.ID, r.Keyspace}, sqlstore.TimeInto(&r.At))
		if err := ignoreNotFound(err); err != nil {
			return nil, err
		}
		if err == nil && !r.At.IsZero() {
			out = append(out, r)
		}
	}
	return out, nil
}
