package replication

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// StoredRevocation is a revocation in the table "refused", which keeps revocations apart from their
// rows.
type StoredRevocation struct {
	management.Revocation
	// UnknownSince is when the store was first found to lack the row of the revocation. It is zero if the
	// revocation must still be written to the primary.
	UnknownSince time.Time
}

// UnknownRetention is how long a store keeps a revocation of an unknown id, counted from the time when
// the row was first missing. A restore of a backup older than that is not expected.
const UnknownRetention = 400 * 24 * time.Hour

// RowID returns the id under which the row of r is found. For a tenant it is the slug in lower case.
// For other rows it is the id.
func RowID(r management.Revocation) string {
	if r.Change().Kind == gateway.ChangeTenant {
		return sqlstore.Fold(r.ID)
	}
	return r.ID
}

// SlugOnly reports whether r identifies a tenant only by its slug. That is so if the tenant's time of
// creation is unknown.
func SlugOnly(r management.Revocation) bool {
	return r.Change().Kind == gateway.ChangeTenant && r.Created.IsZero()
}

// unixMicro returns t in Unix microseconds, or 0 for the zero time.
func unixMicro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// zeroMicro is the inverse of unixMicro: it returns the zero time for 0.
func zeroMicro(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.UnixMicro(at).UTC()
}

// RevokeRow applies the revocation r to its row. It returns gateway.ErrNotFound if the row does not
// exist. The SQL of RevokeRow works only in SQLite.
func RevokeRow(t *sqlstore.Tx, r management.Revocation) error {
	key, at := []any{r.Keyspace, RowID(r)}, r.At.UnixMicro()
	query, args := "", key
	switch r.Action {
	case management.KeyDisabled:
		query = `UPDATE keys SET disabled = 1 WHERE keyspace = $1 AND id = $2`
	case management.KeyRevoked:
		query, args = `UPDATE keys SET revoked_at = coalesce(revoked_at, $3) WHERE keyspace = $1 AND id = $2`, append(key, at)
	case management.KeyDeleted:
		query, args = `UPDATE keys SET deleted_at = coalesce(deleted_at, $3) WHERE keyspace = $1 AND id = $2`, append(key, at)
	case management.SecretEnded:
		query, args = `UPDATE secrets SET expires_at = min(coalesce(expires_at, $3), $3) WHERE keyspace = $1 AND id = $2`, append(key, at)
	case management.TokenRevoked:
		query, args = `UPDATE tokens SET revoked_at = coalesce(revoked_at, $3) WHERE keyspace = $1 AND id = $2`, append(key, at)
	case management.TenantSuspended:
		query, args = `UPDATE tenants SET active = 0 WHERE keyspace = $1 AND folded = $2
			AND ($3 = 0 OR coalesce(created_at, 0) = $3)`, append(key, unixMicro(r.Created))
	case management.TenantDeleted:
		query, args = `UPDATE tenants SET active = 0, deleted_at = coalesce(deleted_at, $4) WHERE keyspace = $1 AND folded = $2
			AND ($3 = 0 OR coalesce(created_at, 0) = $3)`, append(key, unixMicro(r.Created), at)
	default:
		return fmt.Errorf("%q is not a revocation", r.Action)
	}
	n, err := t.Exec(query, args...)
	if err == nil && n == 0 {
		err = gateway.ErrNotFound
	}
	return err
}

// StoreRevocation stores k in the table "refused". If the table already has the same revocation, the
// later decision is kept. If both end a secret, the earlier end is kept.
func StoreRevocation(t *sqlstore.Tx, k StoredRevocation) error {
	actor, err := json.Marshal(k.Actor)
	if err != nil {
		return err
	}
	stronger := `excluded.at > refused.at`
	if k.Action == management.SecretEnded {
		stronger = `excluded.at < refused.at`
	}
	_, err = t.Exec(`INSERT INTO refused (action, keyspace, id, about, key_id, created, at, actor, absent_since)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (about, keyspace, action, created) DO UPDATE SET
		at = CASE WHEN `+stronger+` THEN excluded.at ELSE refused.at END,
		actor = CASE WHEN `+stronger+` THEN excluded.actor ELSE refused.actor END,
		absent_since = excluded.absent_since`,
		k.Action, k.Keyspace, k.ID, RowID(k.Revocation), k.Key, unixMicro(k.Created), k.At.UnixMicro(), string(actor), sqlstore.Micros(k.UnknownSince))
	return err
}

// DeleteRevocation deletes a stored revocation. If the revocation was decided again after r.At, it stays.
func DeleteRevocation(t *sqlstore.Tx, r management.Revocation) error {
	later := ` AND at <= $5`
	if r.Action == management.SecretEnded {
		later = ` AND at >= $5`
	}
	_, err := t.Exec(`DELETE FROM refused WHERE about = $1 AND keyspace = $2 AND action = $3 AND created = $4`+later,
		RowID(r), r.Keyspace, r.Action, unixMicro(r.Created), r.At.UnixMicro())
	return err
}

// SelectRevocations returns the stored revocations that match a WHERE clause. Their order is the order
// in which they were stored.
func SelectRevocations(t *sqlstore.Tx, where string, args ...any) (out []StoredRevocation, err error) {
	err = t.Rows(`SELECT action, keyspace, id, key_id, created, at, actor, absent_since FROM refused `+where+` ORDER BY num`, args,
		func(rows *sql.Rows) error {
			var k StoredRevocation
			var created int64
			var actor string
			if err := rows.Scan(&k.Action, &k.Keyspace, &k.ID, &k.Key, &created, sqlstore.TimeInto(&k.At), &actor, sqlstore.TimeInto(&k.UnknownSince)); err != nil {
				return err
			}
			k.Created = zeroMicro(created)
			err := json.Unmarshal([]byte(actor), &k.Actor)
			out = append(out, k)
			return err
		})
	return out, err
}

// StoredRevocations returns all stored revocations, in the order in which they were stored.
func (s Source) StoredRevocations(ctx context.Context) (out []StoredRevocation, err error) {
	err = s.store.Snapshot(ctx, "reading revocations", func(t *sqlstore.Tx) (err error) {
		out, err = SelectRevocations(t, ``)
		return err
	})
	return out, err
}

// RowRevocations calls yield with all revocations that the store's rows show, several at a time, tenants
// first. yield must not keep the slice. If a row does not hold the time of the decision, At is the time
// of the row's last update, which is never earlier than the decision.
func (s Source) RowRevocations(ctx context.Context, yield func([]management.Revocation) error) error {
	return s.store.Snapshot(ctx, "reading revocations", func(t *sqlstore.Tx) error {
		var batch []management.Revocation
		add := func(r management.Revocation) error {
			batch = append(batch, r)
			if len(batch) < sqlstore.Chunk {
				return nil
			}
			err := yield(batch)
			batch = batch[:0]
			return err
		}
		for _, list := range []func(*sqlstore.Tx, func(management.Revocation) error) error{revokedTenants, revokedKeys, endedSecrets, revokedTokens} {
			if err := list(t, add); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			return yield(batch)
		}
		return nil
	})
}

func revokedTenants(t *sqlstore.Tx, add func(management.Revocation) error) error {
	return t.Rows(`SELECT keyspace, slug, created_at, deleted_at, updated_at FROM tenants WHERE active = 0 OR deleted_at IS NOT NULL`, nil,
		func(rows *sql.Rows) error {
			r := management.Revocation{Action: management.TenantSuspended}
			var deleted time.Time
			if err := rows.Scan(&r.Keyspace, &r.ID, sqlstore.TimeInto(&r.Created), sqlstore.TimeInto(&deleted), sqlstore.TimeInto(&r.At)); err != nil {
				return err
			}
			if !deleted.IsZero() {
				r.Action, r.At = management.TenantDeleted, deleted
			}
			return add(r)
		})
}

func revokedKeys(t *sqlstore.Tx, add func(management.Revocation) error) error {
	return t.Rows(`SELECT keyspace, id, revoked_at, deleted_at, updated_at FROM keys
		WHERE disabled = 1 OR revoked_at IS NOT NULL OR deleted_at IS NOT NULL`, nil,
		func(rows *sql.Rows) error {
			r := management.Revocation{Action: management.KeyDisabled}
			var revoked, deleted time.Time
			if err := rows.Scan(&r.Keyspace, &r.ID, sqlstore.TimeInto(&revoked), sqlstore.TimeInto(&deleted), sqlstore.TimeInto(&r.At)); err != nil {
				return err
			}
			switch {
			case !deleted.IsZero():
				r.Action, r.At = management.KeyDeleted, deleted
			case !revoked.IsZero():
				r.Action, r.At = management.KeyRevoked, revoked
			}
			return add(r)
		})
}

func endedSecrets(t *sqlstore.Tx, add func(management.Revocation) error) error {
	return t.Rows(`SELECT s.keyspace, s.id, k.id, s.expires_at FROM secrets s JOIN keys k ON k.num = s.key_num
		WHERE s.expires_at IS NOT NULL AND k.deleted_at IS NULL AND k.revoked_at IS NULL`, nil,
		func(rows *sql.Rows) error {
			r := management.Revocation{Action: management.SecretEnded}
			if err := rows.Scan(&r.Keyspace, &r.ID, &r.Key, sqlstore.TimeInto(&r.At)); err != nil {
				return err
			}
			return add(r)
		})
}

func revokedTokens(t *sqlstore.Tx, add func(management.Revocation) error) error {
	return t.Rows(`SELECT keyspace, id, revoked_at FROM tokens WHERE revoked_at IS NOT NULL`, nil,
		func(rows *sql.Rows) error {
			r := management.Revocation{Action: management.TokenRevoked}
			if err := rows.Scan(&r.Keyspace, &r.ID, sqlstore.TimeInto(&r.At)); err != nil {
				return err
			}
			return add(r)
		})
}
