package sqlstore

import (
	"database/sql"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// InsertEvent implements events.Tx.
func (t *Tx) InsertEvent(e *events.EventRow) error {
	return t.Row(`INSERT INTO events (id, keyspace, tenant, type, at, data) VALUES ($1, $2, $3, $4, $5, $6) RETURNING seq`,
		[]any{e.ID, e.Keyspace, e.Tenant, e.Type, e.At.UnixMicro(), string(e.Data)}, &e.Seq)
}

// InsertDelivery implements events.Tx.
func (t *Tx) InsertDelivery(id string, eventSeq int64, webhook string, at time.Time) error {
	_, err := t.Exec(`INSERT INTO deliveries (id, webhook_num, event_seq, status, attempts, created_at, next_at, claimed_by, response, error)
		SELECT $1, num, $2, 'pending', 0, $4, $4, '', 0, '' FROM webhooks WHERE id = $3`, id, eventSeq, webhook, at.UnixMicro())
	return err
}

const deliveriesSQL = `SELECT d.num, d.id, w.id, d.status, d.attempts, d.created_at, d.next_at, d.last_at, d.response, d.error,
	e.id, e.keyspace, e.tenant, e.type, e.at, e.data
	FROM deliveries d JOIN webhooks w ON w.num = d.webhook_num JOIN events e ON e.seq = d.event_seq`

func deliveryInto(d *webhooks.DeliveryRow) []any {
	return []any{&d.Seq, &d.ID, &d.Webhook, &d.Status, &d.Attempts, TimeInto(&d.CreatedAt), TimeInto(&d.NextAt), TimeInto(&d.LastAt),
		&d.Response, &d.Error, &d.Event.ID, &d.Event.Keyspace, &d.Event.Tenant, &d.Event.Type, TimeInto(&d.Event.At), jsonInto{&d.Event.Data}}
}

// Delivery implements webhooks.Tx.
func (t *Tx) Delivery(keyspace, webhook, id string) (*webhooks.DeliveryRow, error) {
	var d webhooks.DeliveryRow
	err := t.Row(deliveriesSQL+` WHERE d.id = $1 AND w.id = $2 AND w.keyspace = $3`, []any{id, webhook, keyspace}, deliveryInto(&d)...)
	if err != nil {
		return nil, err
	}
	return &d, nil
}

// Deliveries implements webhooks.Tx.
func (t *Tx) Deliveries(q webhooks.DeliveryQuery) ([]*webhooks.DeliveryRow, error) {
	var w where
	w.and("d.webhook_num = (SELECT num FROM webhooks WHERE id = " + w.arg(q.Webhook) + " AND keyspace = " + w.arg(q.Keyspace) + ")")
	if q.Status != "" {
		w.and("d.status = " + w.arg(string(q.Status)))
	}
	if q.Before != 0 {
		w.and("d.num < " + w.arg(q.Before))
	}
	return t.deliveries(w.text+` ORDER BY d.num DESC`+w.limit(q.Limit), w.args)
}

func (t *Tx) deliveries(rest string, args []any) ([]*webhooks.DeliveryRow, error) {
	var out []*webhooks.DeliveryRow
	err := t.Rows(deliveriesSQL+rest, args, func(rows *sql.Rows) error {
		d := new(webhooks.DeliveryRow)
		out = append(out, d)
		return rows.Scan(deliveryInto(d)...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ReplayDelivery implements webhooks.Tx.
func (t *Tx) ReplayDelivery(id string, at time.Time) error {
	_, err := t.Exec(`UPDATE deliveries SET status = 'pending', attempts = 0, next_at = $2, claimed_by = '' WHERE id = $1`, id, at.UnixMicro())
	return err
}

// EndDeliveries implements webhooks.Tx.
func (t *Tx) EndDeliveries(webhook, reason string) error {
	_, err := t.Exec(`UPDATE deliveries SET status = 'dead', next_at = NULL, claimed_by = '', error = $2
		WHERE status = 'pending' AND webhook_num = (SELECT num FROM webhooks WHERE id = $1)`, webhook, reason)
	return err
}

// NextDelivery implements webhooks.Tx.
func (t *Tx) NextDelivery() (at time.Time, err error) {
	err = t.Row(`SELECT min(next_at) FROM deliveries WHERE status = 'pending'`, nil, TimeInto(&at))
	return at, err
}

// DueWebhooks implements webhooks.Tx.
func (t *Tx) DueWebhooks(now time.Time) ([]*events.WebhookRow, error) {
	return t.webhooks(` WHERE w.active = 1 AND EXISTS
		(SELECT 1 FROM deliveries d WHERE d.webhook_num = w.num AND d.status = 'pending' AND d.next_at <= $1)`, []any{now.UnixMicro()})
}

// ClaimDeliveries implements webhooks.Tx.
func (t *Tx) ClaimDeliveries(node, webhook string, now, until time.Time, n int) ([]*webhooks.DeliveryRow, error) {
	var nums []int64
	err := t.Rows(`UPDATE deliveries SET next_at = $4, claimed_by = $5, attempts = attempts + 1 WHERE status = 'pending' AND num IN (
		SELECT num FROM deliveries WHERE webhook_num = (SELECT num FROM webhooks WHERE id = $1 AND active = 1)
		AND status = 'pending' AND next_at <= $2 ORDER BY next_at LIMIT $3`+t.lockRow+`) RETURNING num`,
		[]any{webhook, now.UnixMicro(), int64(n), until.UnixMicro(), node},
		func(rows *sql.Rows) error {
			var num int64
			err := rows.Scan(&num)
			nums = append(nums, num)
			return err
		})
	if err != nil || len(nums) == 0 {
		return nil, err
	}
	var w where
	marks := ""
	for i, num := range nums {
		if i > 0 {
			marks += ", "
		}
		marks += w.arg(num)
	}
	return t.deliveries(` WHERE d.num IN (`+marks+`) ORDER BY d.num`, w.args)
}

// FinishDelivery implements webhooks.Tx.
func (t *Tx) FinishDelivery(node string, d *webhooks.DeliveryRow) error {
	_, err := t.Exec(`UPDATE deliveries SET status = $4, next_at = $5, claimed_by = '', last_at = $6, response = $7, error = $8
		WHERE id = $1 AND claimed_by = $2 AND attempts = $3 AND status = 'pending'`,
		d.ID, node, int64(d.Attempts), string(d.Status), Micros(d.NextAt), Micros(d.LastAt), int64(d.Response), d.Error)
	return err
}

// ReleaseDeliveries implements webhooks.Tx.
func (t *Tx) ReleaseDeliveries(node string, now time.Time) error {
	_, err := t.Exec(`UPDATE deliveries SET next_at = $2, claimed_by = '', attempts = attempts - 1
		WHERE status = 'pending' AND claimed_by = $1 AND next_at > $2`, node, now.UnixMicro())
	return err
}

// PruneEvents implements webhooks.Tx.
func (t *Tx) PruneEvents(before time.Time, limit int) (int64, error) {
	old := before.UnixMicro()
	const which = `(SELECT seq FROM events WHERE at < $1 ORDER BY at LIMIT $2)`
	if _, err := t.Exec(`DELETE FROM deliveries WHERE event_seq IN `+which, old, int64(limit)); err != nil {
		return 0, err
	}
	return t.Exec(`DELETE FROM events WHERE seq IN `+which, old, int64(limit))
}

// PruneOneShots implements webhooks.Tx.
func (t *Tx) PruneOneShots(before time.Time, limit int) (int64, error) {
	return t.Exec(`DELETE FROM event_marks WHERE (keyspace, subject, what) IN
		(SELECT keyspace, subject, what FROM event_marks WHERE at < $1 ORDER BY at LIMIT $2)`, before.UnixMicro(), int64(limit))
}

// eraseEvents removes a tenant's events and their deliveries. The event that reports the tenant's
// deletion stays, because it holds no personal data.
func (t *Tx) eraseEvents(keyspace, tenant string) error {
	const which = ` keyspace = $1 AND type <> 'tenant.deleted' AND tenant = coalesce((SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2), $3)`
	if _, err := t.Exec(`DELETE FROM deliveries WHERE event_seq IN (SELECT seq FROM events WHERE`+which+`)`, keyspace, Fold(tenant), tenant); err != nil {
		return err
	}
	_, err := t.Exec(`DELETE FROM events WHERE`+which, keyspace, Fold(tenant), tenant)
	return err
}
