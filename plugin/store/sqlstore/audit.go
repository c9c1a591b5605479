package sqlstore

import (
	"database/sql"
	"errors"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// LockNewestAudit implements management.Tx.
func (t *tx) LockNewestAudit() (seq int64, hash []byte, err error) {
	if t.d.lockRow != "" {
		// The newest row cannot be locked against those that come after it.
		var n int64
		if err := t.row(`SELECT value FROM sequences WHERE name = 'audit'`+t.d.lockRow, nil, &n); err != nil {
			return 0, nil, err
		}
	}
	err = t.row(`SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`, nil, &seq, &hash)
	if errors.Is(err, gateway.ErrNotFound) {
		return 0, nil, nil
	}
	return seq, hash, err
}

// InsertAudit implements management.Tx.
func (t *tx) InsertAudit(r *audit.Row) error {
	_, err := t.exec(`INSERT INTO audit (seq, id, keyspace, at, action, target, tenant, key_id, via, before, after,
		personal, salt, personal_hash, prev, hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		r.Seq, r.ID, r.Keyspace, r.At.UnixMicro(), r.Action, r.Target, r.Tenant, r.KeyID, r.Via,
		jsonText(r.Before), jsonText(r.After), jsonText(r.Personal),
		bytes(r.Salt), bytes(r.PersonalHash), bytes(r.Prev), r.Hash)
	return err
}

// Audit implements management.Tx.
func (t *tx) Audit(q audit.Query) ([]audit.Row, error) {
	var w where
	if q.Keyspace != "" {
		w.and("keyspace = " + w.arg(q.Keyspace))
	}
	if q.Key != "" {
		w.and("key_id = " + w.arg(q.Key))
	}
	if q.Tenant != "" {
		// Events name tenants as the tenants themselves are written, so a caller's
		// spelling is looked up there first.
		w.and("tenant = coalesce((SELECT slug FROM tenants WHERE keyspace = " + w.arg(q.Keyspace) +
			" AND folded = " + w.arg(fold(q.Tenant)) + "), " + w.arg(q.Tenant) + ")")
	}
	if q.Before != 0 {
		w.and("seq < " + w.arg(q.Before))
	}
	if q.After != 0 {
		w.and("seq > " + w.arg(q.After))
	}
	order := " ORDER BY seq DESC"
	if q.Ascending {
		order = " ORDER BY seq"
	}
	var out []audit.Row
	err := t.rows(`SELECT seq, id, keyspace, at, action, target, tenant, key_id, via, before, after,
		personal, salt, personal_hash, prev, hash FROM audit`+w.text+order+w.limit(q.Limit), w.args,
		func(rows *sql.Rows) error {
			var r audit.Row
			err := rows.Scan(&r.Seq, &r.ID, &r.Keyspace, timeInto{&r.At}, &r.Action, &r.Target, &r.Tenant, &r.KeyID, &r.Via,
				jsonInto{&r.Before}, jsonInto{&r.After}, jsonInto{&r.Personal}, &r.Salt, &r.PersonalHash, &r.Prev, &r.Hash)
			out = append(out, r)
			return err
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ErasePersonal implements management.Tx.
func (t *tx) ErasePersonal(keyspace, tenant string) (int64, error) {
	if err := t.eraseEvents(keyspace, tenant); err != nil {
		return 0, err
	}
	if err := t.eraseRecords(keyspace, tenant); err != nil {
		return 0, err
	}
	return t.exec(`UPDATE audit SET personal = NULL, salt = NULL
		WHERE keyspace = $1 AND tenant = coalesce((SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2), $3)
		AND (personal IS NOT NULL OR salt IS NOT NULL)`, keyspace, fold(tenant), tenant)
}
