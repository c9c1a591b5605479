package sqlstore

import (
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// LockNewestAudit implements audit.Tx.
func (t *Tx) LockNewestAudit() (seq int64, hash []byte, err error) {
	if t.lockRow != "" {
		// A lock on the newest row would not stop another transaction from inserting a row, so the row of the
		// sequence is locked.
		var n int64
		if err := t.Row(`SELECT value FROM sequences WHERE name = 'audit'`+t.lockRow, nil, &n); err != nil {
			return 0, nil, err
		}
	}
	err = t.Row(`SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`, nil, &seq, &hash)
	if errors.Is(err, gateway.ErrNotFound) {
		return 0, nil, nil
	}
	return seq, hash, err
}

// InsertAudit implements audit.Tx.
func (t *Tx) InsertAudit(r *audit.Row) error {
	_, err := t.Exec(`INSERT INTO audit (seq, id, keyspace, at, action, target, tenant, key_id, via, before, after,
		personal, salt, personal_hash, prev, hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		r.Seq, r.ID, r.Keyspace, r.At.UnixMicro(), r.Action, r.Target, r.Tenant, r.KeyID, r.Via,
		jsonText(r.Before), jsonText(r.After), jsonText(r.Personal),
		bytes(r.Salt), bytes(r.PersonalHash), bytes(r.Prev), r.Hash)
	return err
}

// Audit implements audit.Tx.
func (t *Tx) Audit(q audit.Query) ([]audit.Row, error) {
	var w where
	if q.Keyspace != "" {
		w.and("keyspace = " + w.arg(q.Keyspace))
	}
	if q.Key != "" {
		w.and("key_id = " + w.arg(q.Key))
	}
	if q.Tenant != "" {
		// Audit events hold the slug as the tenant's row spells it. The caller may spell it in another case,
		// so the query first looks up the slug in tenants.
		w.and("tenant = coalesce((SELECT slug FROM tenants WHERE keyspace = " + w.arg(q.Keyspace) +
			" AND folded = " + w.arg(Fold(q.Tenant)) + "), " + w.arg(q.Tenant) + ")")
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
	err := t.Rows(`SELECT seq, id, keyspace, at, action, target, tenant, key_id, via, before, after,
		personal, salt, personal_hash, prev, hash FROM audit`+w.text+order+w.limit(q.Limit), w.args,
		func(rows *sql.Rows) error {
			var r audit.Row
			err := rows.Scan(&r.Seq, &r.ID, &r.Keyspace, TimeInto(&r.At), &r.Action, &r.Target, &r.Tenant, &r.KeyID, &r.Via,
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
func (t *Tx) ErasePersonal(keyspace, tenant string) (int64, error) {
	t.erased = true
	if err := t.eraseEvents(keyspace, tenant); err != nil {
		return 0, err
	}
	if err := t.eraseRecords(keyspace, tenant); err != nil {
		return 0, err
	}
	return t.Exec(`UPDATE audit SET personal = NULL, salt = NULL
		WHERE keyspace = $1 AND tenant = coalesce((SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2), $3)
		AND (personal IS NOT NULL OR salt IS NOT NULL)`, keyspace, Fold(tenant), tenant)
}

// Identity implements management.Tx.
func (t *Tx) Identity() (id string, cursorKey []byte, err error) {
	var key string
	if err := t.Row(`SELECT value FROM meta WHERE name = 'store_id'`, nil, &id); err != nil {
		return "", nil, err
	}
	if err := t.Row(`SELECT value FROM meta WHERE name = 'cursor_key'`, nil, &key); err != nil {
		return "", nil, err
	}
	cursorKey, err = hex.DecodeString(key)
	return id, cursorKey, t.Fail(err)
}

// CountAudit implements audit.Tx.
func (t *Tx) CountAudit(keyspace string, seq int64) (n int64, err error) {
	if keyspace == "" {
		err = t.Row(`SELECT count(*) FROM audit WHERE seq <= $1`, []any{seq}, &n)
		return n, err
	}
	err = t.Row(`SELECT count(*) FROM audit WHERE keyspace = $1 AND seq <= $2`, []any{keyspace, seq}, &n)
	return n, err
}

const checkpointSQL = `SELECT value FROM meta WHERE name = 'audit_head'`

// PublishedCheckpoint implements audit.Tx.
func (t *Tx) PublishedCheckpoint() (audit.PublishedCheckpoint, error) {
	return t.readCheckpoint(checkpointSQL)
}

// LockPublishedCheckpoint implements audit.Tx.
func (t *Tx) LockPublishedCheckpoint() (audit.PublishedCheckpoint, error) {
	return t.readCheckpoint(checkpointSQL + t.lockRow)
}

func (t *Tx) readCheckpoint(query string) (g audit.PublishedCheckpoint, err error) {
	var value string
	if err := t.Row(query, nil, &value); err != nil {
		return g, err
	}
	parts := strings.Split(value, " ")
	if len(parts) != 3 {
		return g, t.Fail(fmt.Errorf("the stored checkpoint that was published last is damaged: %q", value))
	}
	var micros int64
	if g.Seq, err = strconv.ParseInt(parts[0], 10, 64); err == nil {
		micros, err = strconv.ParseInt(parts[1], 10, 64)
	}
	if err == nil {
		g.Hash, err = hex.DecodeString(parts[2])
	}
	if micros != 0 {
		g.At = time.UnixMicro(micros).UTC()
	}
	return g, t.Fail(err)
}

// SetPublishedCheckpoint implements audit.Tx.
func (t *Tx) SetPublishedCheckpoint(g audit.PublishedCheckpoint) error {
	_, err := t.Exec(`UPDATE meta SET value = $1 WHERE name = 'audit_head'`, fmt.Sprintf("%d %d %x", g.Seq, g.At.UnixMicro(), g.Hash))
	return err
}
