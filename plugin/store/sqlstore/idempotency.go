package sqlstore

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/management/idempotency"
)

// InsertIdempotency implements idempotency.Tx.
func (t *Tx) InsertIdempotency(r *idempotency.Record) (bool, error) {
	n, err := t.Exec(`INSERT INTO idempotency (id, request, claim, claimed_at, expires_at, action, target, balance, status, etag, body)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING`,
		r.ID, r.Request, r.Claim, r.ClaimedAt.UnixMicro(), r.ExpiresAt.UnixMicro(), r.Effect.Action, r.Effect.Target, r.Effect.Balance, r.Status, r.ETag, r.Body)
	return n > 0, err
}

// LockIdempotency implements idempotency.Tx.
func (t *Tx) LockIdempotency(id []byte) (*idempotency.Record, error) {
	var r idempotency.Record
	err := t.Row(`SELECT id, request, claim, claimed_at, expires_at, action, target, balance, status, etag, body
		FROM idempotency WHERE id = $1`+t.lockRow, []any{id},
		&r.ID, &r.Request, &r.Claim, TimeInto(&r.ClaimedAt), TimeInto(&r.ExpiresAt), &r.Effect.Action, &r.Effect.Target, &r.Effect.Balance, &r.Status, &r.ETag, &r.Body)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// UpdateIdempotency implements idempotency.Tx.
func (t *Tx) UpdateIdempotency(r *idempotency.Record) error {
	_, err := t.Exec(`UPDATE idempotency SET claim = $2, claimed_at = $3, action = $4, target = $5, balance = $6, status = $7, etag = $8, body = $9
		WHERE id = $1`,
		r.ID, r.Claim, r.ClaimedAt.UnixMicro(), r.Effect.Action, r.Effect.Target, r.Effect.Balance, r.Status, r.ETag, r.Body)
	return err
}

// DeleteIdempotency implements idempotency.Tx.
func (t *Tx) DeleteIdempotency(id []byte) error {
	_, err := t.Exec(`DELETE FROM idempotency WHERE id = $1`, id)
	return err
}

// PruneIdempotency implements idempotency.Tx.
func (t *Tx) PruneIdempotency(now time.Time) error {
	_, err := t.Exec(`DELETE FROM idempotency WHERE expires_at <= $1`, now.UnixMicro())
	return err
}
