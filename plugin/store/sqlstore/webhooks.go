package sqlstore

import (
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

const webhookColumns = `w.id, w.keyspace, w.tenant, w.url, w.events, w.secret, w.previous, w.previous_until,
	w.active, w.disabled, w.created_at, w.created_by, w.updated_at, w.version`

func webhookInto(w *events.WebhookRow) []any {
	return []any{&w.ID, &w.Keyspace, &w.Tenant, &w.URL, wordsInto{&w.Events}, &w.Secret, &w.Previous, TimeInto(&w.PreviousUntil),
		&w.Active, &w.Disabled, TimeInto(&w.CreatedAt), &w.CreatedBy, TimeInto(&w.UpdatedAt), &w.Version}
}

// Webhook implements webhooks.Tx.
func (t *Tx) Webhook(keyspace, id string) (*events.WebhookRow, error) {
	var w events.WebhookRow
	err := t.Row(`SELECT `+webhookColumns+` FROM webhooks w WHERE w.id = $1 AND w.keyspace = $2`, []any{id, keyspace}, webhookInto(&w)...)
	if err != nil {
		return nil, err
	}
	return &w, nil
}

// Webhooks implements events.Tx.
func (t *Tx) Webhooks(q events.WebhookQuery) ([]*events.WebhookRow, error) {
	var w where
	w.and("w.keyspace = " + w.arg(q.Keyspace))
	switch {
	case q.Tenant != "" && q.OrAll:
		w.and("w.tenant IN ('', " + w.arg(q.Tenant) + ")")
	case q.Tenant != "" || q.OrAll:
		w.and("w.tenant = " + w.arg(q.Tenant))
	}
	if q.Active {
		w.and("w.active = 1")
	}
	if q.Before != "" {
		w.and("w.num < (SELECT num FROM webhooks WHERE id = " + w.arg(q.Before) + " AND keyspace = " + w.arg(q.Keyspace) + ")")
	}
	return t.webhooks(w.text+` ORDER BY w.num DESC`+w.limit(q.Limit), w.args)
}

func (t *Tx) webhooks(rest string, args []any) ([]*events.WebhookRow, error) {
	var out []*events.WebhookRow
	err := t.Rows(`SELECT `+webhookColumns+` FROM webhooks w`+rest, args, func(rows *sql.Rows) error {
		w := new(events.WebhookRow)
		out = append(out, w)
		return rows.Scan(webhookInto(w)...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// InsertWebhook implements webhooks.Tx.
func (t *Tx) InsertWebhook(w *events.WebhookRow) error {
	_, err := t.Exec(`INSERT INTO webhooks (id, keyspace, tenant, url, events, secret, previous, previous_until, active, disabled,
		created_at, created_by, updated_at, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 1)`,
		w.ID, w.Keyspace, w.Tenant, w.URL, strings.Join(w.Events, " "), w.Secret, bytes(w.Previous), Micros(w.PreviousUntil),
		Flag(w.Active), w.Disabled, Micros(w.CreatedAt), w.CreatedBy, Micros(w.UpdatedAt))
	if err == nil {
		w.Version = 1
	}
	return err
}

// UpdateWebhook implements webhooks.Tx.
func (t *Tx) UpdateWebhook(w *events.WebhookRow) error {
	return t.Row(`UPDATE webhooks SET url = $3, events = $4, secret = $5, previous = $6, previous_until = $7, active = $8,
		disabled = $9, updated_at = $10, version = version + 1 WHERE id = $1 AND keyspace = $2 RETURNING version`,
		[]any{w.ID, w.Keyspace, w.URL, strings.Join(w.Events, " "), w.Secret, bytes(w.Previous), Micros(w.PreviousUntil),
			Flag(w.Active), w.Disabled, Micros(w.UpdatedAt)}, &w.Version)
}

// DeleteWebhook implements events.Tx.
func (t *Tx) DeleteWebhook(keyspace, id string) error {
	if _, err := t.Exec(`DELETE FROM deliveries
		WHERE webhook_num = (SELECT num FROM webhooks WHERE id = $1 AND keyspace = $2)`, id, keyspace); err != nil {
		return err
	}
	n, err := t.Exec(`DELETE FROM webhooks WHERE id = $1 AND keyspace = $2`, id, keyspace)
	if err == nil && n == 0 {
		err = gateway.ErrNotFound
	}
	return err
}

// TopUp implements management.Tx.
func (t *Tx) TopUp(keyspace, tenant string) (e management.LedgerEntry, err error) {
	err = t.Row(`SELECT seq, amount, balance, at FROM ledger
		WHERE tenant_num = (SELECT num FROM tenants WHERE keyspace = $1 AND folded = $2) AND kind = 'add' AND amount > 0
		ORDER BY seq DESC LIMIT 1`, []any{keyspace, Fold(tenant)}, &e.Seq, &e.Amount, &e.Balance, TimeInto(&e.At))
	return e, err
}

// RecordOneShot implements events.Tx.
func (t *Tx) RecordOneShot(keyspace, subject, what string, ref int64, at time.Time) (bool, error) {
	n, err := t.Exec(`INSERT INTO event_marks (keyspace, subject, what, ref, at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (keyspace, subject, what) DO UPDATE SET ref = excluded.ref, at = excluded.at WHERE event_marks.ref <> excluded.ref`,
		keyspace, subject, what, ref, at.UnixMicro())
	return n > 0, err
}

const livingKeys = `k.disabled = 0 AND k.revoked_at IS NULL AND k.deleted_at IS NULL`

// ExpiringKeys implements webhooks.Tx.
func (t *Tx) ExpiringKeys(keyspace string, from, to time.Time, after *gateway.Key, limit int) ([]*gateway.Key, error) {
	var w where
	w.and("k.keyspace = " + w.arg(keyspace))
	w.and("k.expires_at IS NOT NULL AND " + livingKeys)
	w.and("k.expires_at > " + w.arg(from.UnixMicro()))
	w.and("k.expires_at <= " + w.arg(to.UnixMicro()))
	if after != nil {
		at := w.arg(after.ExpiresAt.UnixMicro())
		w.and(fmt.Sprintf("(k.expires_at > %s OR k.expires_at = %s AND k.num > (SELECT num FROM keys WHERE id = %s))", at, at, w.arg(after.ID)))
	}
	return t.keysOf(w.text+` ORDER BY k.expires_at, k.num`+w.limit(limit), w.args)
}

// unusedAtOnce limits how many keys one call of UnusedKeys reads.
const unusedAtOnce = 5000

// UnusedKeys implements webhooks.Tx.
func (t *Tx) UnusedKeys(keyspace string, since, now time.Time, from int64) (keys []*gateway.Key, next int64, err error) {
	var end sql.NullInt64
	if err := t.Row(`SELECT max(num) FROM (SELECT num FROM keys WHERE keyspace = $1 AND num > $2 ORDER BY num LIMIT $3) AS n`,
		[]any{keyspace, from, int64(unusedAtOnce)}, &end); err != nil || !end.Valid {
		return nil, 0, err
	}
	keys, err = t.keysOf(` WHERE k.keyspace = $1 AND k.num > $2 AND k.num <= $3 AND `+livingKeys+`
		AND (k.expires_at IS NULL OR k.expires_at > $4) AND coalesce(k.last_used_at, k.created_at) <= $5 ORDER BY k.num`,
		[]any{keyspace, from, end.Int64, now.UnixMicro(), since.UnixMicro()})
	return keys, end.Int64, err
}

func (t *Tx) keysOf(rest string, args []any) ([]*gateway.Key, error) {
	var out []*gateway.Key
	err := t.Rows(`SELECT `+keyColumns+` FROM keys k JOIN tenants t ON t.num = k.tenant_num`+rest, args, func(rows *sql.Rows) error {
		k := new(gateway.Key)
		out = append(out, k)
		return rows.Scan(keyInto(k)...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
