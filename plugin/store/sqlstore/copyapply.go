package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Copied returns how far the copy has followed its truth. ErrNotFound where it is none.
func (c *Copy) Copied(ctx context.Context) (p Position, err error) {
	text, err := c.meta(ctx, "copied")
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal([]byte(text), &p)
}

// Heard returns when the copy was last known to hold all that the truth held.
func (c *Copy) Heard(ctx context.Context) (time.Time, error) {
	text, err := c.meta(ctx, "heard")
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, text)
}

func (c *Copy) meta(ctx context.Context, name string) (value string, err error) {
	err = c.reading(ctx, "reading the replica", func(f *conns) error {
		return f.read.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = $1`, name).Scan(&value)
	})
	return value, err
}

// SetHeard notes when the truth was heard of.
func (c *Copy) SetHeard(ctx context.Context, at time.Time) error {
	return c.writing(ctx, "writing to the replica", func(t *tx) error {
		_, err := t.exec(`UPDATE meta SET value = $1 WHERE name = 'heard'`, at.UTC().Format(time.RFC3339Nano))
		return err
	})
}

// keptChanges is how many changes a copy keeps: who follows it follows closely.
const keptChanges = 10_000

// Apply makes the copy hold what the delta says. It must begin where the copy stands.
// What is refused here and not written to the truth yet stays refused.
func (c *Copy) Apply(ctx context.Context, d *Delta, heard time.Time) error {
	return c.writing(ctx, "writing to the replica", func(t *tx) error {
		var text string
		if err := t.row(`SELECT value FROM meta WHERE name = 'copied'`, nil, &text); err != nil {
			return err
		}
		var at Position
		if err := json.Unmarshal([]byte(text), &at); err != nil {
			return err
		}
		if at != d.From {
			return fmt.Errorf("%w: the replica stands at change %d, not %d", gateway.ErrStore, at.Seq, d.From.Seq)
		}
		if err := t.applyRows(d); err != nil {
			return err
		}
		for _, ch := range d.Changes {
			if _, err := t.exec(`INSERT INTO changes (seq, kind, keyspace, id, at) VALUES ($1, $2, $3, $4, $5)`,
				ch.Seq, string(ch.Kind), ch.Keyspace, ch.ID, ch.At); err != nil {
				return err
			}
		}
		if _, err := t.exec(`DELETE FROM changes WHERE seq <= $1`, d.To.Seq-keptChanges); err != nil {
			return err
		}
		if _, err := t.exec(`UPDATE sequences SET value = $1 WHERE name = 'changes'`, d.To.Seq); err != nil {
			return err
		}
		if err := setCopied(ctx, t.sql, d.To, heard); err != nil {
			return t.fail(err)
		}
		return t.refusePending()
	})
}

// applyRows writes the rows of a delta.
func (t *tx) applyRows(d *Delta) error {
	for _, of := range []struct {
		table *copied
		rows  []Row
	}{{copiedTenants, d.tenants}, {copiedKeys, d.keys}, {copiedTokens, d.tokens}, {copiedPeppers, d.peppers}} {
		for _, row := range of.rows {
			if _, err := t.exec(of.table.upsert(), row...); err != nil {
				return err
			}
		}
	}
	for _, id := range d.goneKeys {
		for _, query := range []string{
			`DELETE FROM secrets WHERE key_num = (SELECT num FROM keys WHERE id = $1)`, `DELETE FROM keys WHERE id = $1`,
		} {
			if _, err := t.exec(query, id); err != nil {
				return err
			}
		}
	}
	// First those that go, since a digest may have gone from one key to another.
	for _, row := range d.keys {
		if _, err := t.exec(`DELETE FROM secrets WHERE key_num = $1`, row[0]); err != nil {
			return err
		}
	}
	for _, row := range d.secrets {
		if _, err := t.exec(copiedSecrets.upsert(), row...); err != nil {
			return err
		}
	}
	// A deleted tenant leaves its slug; what was written of people goes with its keys.
	for _, row := range d.tenants {
		if row[tenantDeleted] == nil {
			continue
		}
		for _, query := range []string{
			`DELETE FROM secrets WHERE key_num IN (SELECT num FROM keys WHERE tenant_num = $1)`, `DELETE FROM keys WHERE tenant_num = $1`,
		} {
			if _, err := t.exec(query, row[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// upsert returns the statement that writes a row whether or not it was there.
func (c *copied) upsert() string {
	var values, set []string
	for i, name := range c.columns {
		values = append(values, fmt.Sprintf("$%d", i+1))
		if i > 0 {
			set = append(set, name+" = excluded."+name)
		}
	}
	return `INSERT INTO ` + c.name + ` (` + strings.Join(c.columns, ", ") + `) VALUES (` + strings.Join(values, ", ") +
		`) ON CONFLICT (` + c.columns[0] + `) DO UPDATE SET ` + strings.Join(set, ", ")
}

// refusing is how each is done to a row; $1 keyspace, $2 id or folded slug, $3 when.
var refusing = map[string]string{
	management.KeyRevoked:      `UPDATE keys SET revoked_at = coalesce(revoked_at, $3) WHERE keyspace = $1 AND id = $2`,
	management.KeyDisabled:     `UPDATE keys SET disabled = 1 WHERE keyspace = $1 AND id = $2 AND $3 = $3`,
	management.KeyDeleted:      `UPDATE keys SET deleted_at = coalesce(deleted_at, $3) WHERE keyspace = $1 AND id = $2`,
	management.TenantSuspended: `UPDATE tenants SET active = 0 WHERE keyspace = $1 AND folded = $2 AND $3 = $3`,
	management.TenantDeleted:   `UPDATE tenants SET active = 0, deleted_at = coalesce(deleted_at, $3) WHERE keyspace = $1 AND folded = $2`,
}

// refusalArgs returns the statement that does it to the row, and its arguments.
func refusalArgs(r management.Refusal) (query string, args []any, err error) {
	query, ok := refusing[r.Action]
	if !ok {
		return "", nil, fmt.Errorf("%q is no refusal", r.Action)
	}
	id := r.ID
	if r.Change().Kind == gateway.ChangeTenant {
		id = fold(id)
	}
	return query, []any{r.Keyspace, id, r.At.UnixMicro()}, nil
}

// refuse does it to the row. ErrNotFound where there is none.
func (t *tx) refuse(r management.Refusal) error {
	query, args, err := refusalArgs(r)
	if err != nil {
		return err
	}
	n, err := t.exec(query, args...)
	if err == nil && n == 0 {
		err = gateway.ErrNotFound
	}
	return err
}

// Refuse refuses here what the truth does not know of yet, and keeps it to be written there.
// It is on the disk when this returns. ErrNotFound where the copy has no such key or tenant.
func (c *Copy) Refuse(ctx context.Context, r management.Refusal) error {
	return c.writing(ctx, "writing to the replica", func(t *tx) error {
		if err := t.refuse(r); err != nil {
			return err
		}
		return t.fail(insertPending(ctx, t.sql, r))
	})
}

func insertPending(ctx context.Context, e executor, r management.Refusal) error {
	actor, err := json.Marshal(r.Actor)
	if err != nil {
		return err
	}
	_, err = e.ExecContext(ctx, `INSERT INTO pending (action, keyspace, id, at, actor) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (action, keyspace, id) DO UPDATE SET at = excluded.at, actor = excluded.actor WHERE excluded.at > at`, r.Action, r.Keyspace, r.ID, r.At.UnixMicro(), string(actor))
	return err
}

// Keep holds refused as Refuse does, where the copy has no such row too, and holds taken no
// longer.
func (c *Copy) Keep(ctx context.Context, refused, taken []management.Refusal) error {
	return c.writing(ctx, "writing to the replica", func(t *tx) error {
		for _, r := range taken {
			if err := t.forget(r, maxMicro); err != nil {
				return err
			}
		}
		for _, r := range refused {
			if err := t.refuse(r); err != nil && !errors.Is(err, gateway.ErrNotFound) {
				return err
			}
			if err := insertPending(ctx, t.sql, r); err != nil {
				return t.fail(err)
			}
		}
		return nil
	})
}

// refusePending does to the rows what is pending.
func (t *tx) refusePending() error {
	list, err := t.pending()
	if err != nil {
		return err
	}
	for _, r := range list {
		if err := t.refuse(r); err != nil && !errors.Is(err, gateway.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (t *tx) pending() (out []management.Refusal, err error) {
	err = t.rows(`SELECT action, keyspace, id, at, actor FROM pending ORDER BY num`, nil, func(rows *sql.Rows) error {
		var r management.Refusal
		var actor string
		if err := rows.Scan(&r.Action, &r.Keyspace, &r.ID, timeInto{&r.At}, &actor); err != nil {
			return err
		}
		out = append(out, r)
		return json.Unmarshal([]byte(actor), &out[len(out)-1].Actor)
	})
	return out, err
}

// Pending returns what is refused here and not written to the truth yet, oldest first.
func (c *Copy) Pending(ctx context.Context) (out []management.Refusal, err error) {
	err = c.viewing(ctx, "reading the replica", func(t *tx) (err error) {
		out, err = t.pending()
		return err
	})
	return out, err
}

// Written forgets what was pending and is written to the truth, unless the same was decided again
// since. The row stays as it is until the truth's change comes.
func (c *Copy) Written(ctx context.Context, r management.Refusal) error {
	return c.writing(ctx, "writing to the replica", func(t *tx) error { return t.forget(r, r.At.UnixMicro()) })
}

// maxMicro is later than any time.
const maxMicro = int64(math.MaxInt64)

// forget forgets what is pending and was decided by until.
func (t *tx) forget(r management.Refusal, until int64) error {
	_, err := t.exec(`DELETE FROM pending WHERE action = $1 AND keyspace = $2 AND id = $3 AND at <= $4`, r.Action, r.Keyspace, r.ID, until)
	return err
}

// Rehashed notes another form of a secret, as Rehash, where it is known.
func (c *Copy) Rehashed(ctx context.Context, r gateway.Secret) error {
	return c.writing(ctx, "writing to the replica", func(t *tx) error {
		_, err := t.exec(`UPDATE secrets SET digest = $3, algorithm = $4 WHERE id = $1 AND keyspace = $2`,
			r.ID, r.Keyspace, r.Digest, string(r.Algorithm))
		return err
	})
}

// Refusals calls yield with all that the copy holds refused, in portions; At is when the
// row was last changed, so that the decision is not younger.
func (c *Copy) Refusals(ctx context.Context, yield func([]management.Refusal) error) error {
	return c.viewing(ctx, "reading the replica", func(t *tx) error {
		var batch []management.Refusal
		add := func(action, keyspace, id string, at time.Time) error {
			batch = append(batch, management.Refusal{Action: action, Keyspace: keyspace, ID: id, At: at})
			if len(batch) < chunk {
				return nil
			}
			err := yield(batch)
			batch = batch[:0]
			return err
		}
		if err := t.rows(`SELECT keyspace, slug, deleted_at, updated_at FROM tenants WHERE active = 0 OR deleted_at IS NOT NULL`, nil,
			func(rows *sql.Rows) error {
				var keyspace, slug string
				var deleted, updated time.Time
				if err := rows.Scan(&keyspace, &slug, timeInto{&deleted}, timeInto{&updated}); err != nil {
					return err
				}
				if !deleted.IsZero() {
					return add(management.TenantDeleted, keyspace, slug, deleted)
				}
				return add(management.TenantSuspended, keyspace, slug, updated)
			}); err != nil {
			return err
		}
		if err := t.rows(`SELECT keyspace, id, disabled, revoked_at, deleted_at, updated_at FROM keys
			WHERE disabled = 1 OR revoked_at IS NOT NULL OR deleted_at IS NOT NULL`, nil,
			func(rows *sql.Rows) error {
				var keyspace, id string
				var disabled bool
				var revoked, deleted, updated time.Time
				if err := rows.Scan(&keyspace, &id, &disabled, timeInto{&revoked}, timeInto{&deleted}, timeInto{&updated}); err != nil {
					return err
				}
				switch {
				case !deleted.IsZero():
					return add(management.KeyDeleted, keyspace, id, deleted)
				case !revoked.IsZero():
					return add(management.KeyRevoked, keyspace, id, revoked)
				}
				return add(management.KeyDisabled, keyspace, id, updated)
			}); err != nil {
			return err
		}
		if len(batch) > 0 {
			return yield(batch)
		}
		return nil
	})
}

// Lacking returns those of refusals that the store does not hold: its row is there and says
// less, and no event says that the decision was taken back since.
func (s *Store) Lacking(ctx context.Context, refusals []management.Refusal) (out []management.Refusal, err error) {
	err = s.viewing(ctx, "comparing what is refused", func(t *tx) error {
		out = out[:0]
		for _, r := range refusals {
			lacks, err := t.lacks(r)
			if err != nil {
				return err
			}
			if lacks {
				out = append(out, r)
			}
		}
		return nil
	})
	return out, err
}

func (t *tx) lacks(r management.Refusal) (bool, error) {
	if r.Change().Kind == gateway.ChangeTenant {
		in, err := t.Tenant(r.Keyspace, r.ID)
		switch {
		case errors.Is(err, gateway.ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		case !in.DeletedAt.IsZero(), r.Action == management.TenantSuspended && !in.Active:
			return false, nil
		case r.Action == management.TenantDeleted:
			return true, nil
		}
		back, err := t.decided("tenant", r, "tenant.activated")
		return !back, err
	}
	k, err := t.Key(r.Keyspace, r.ID)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !k.DeletedAt.IsZero(), r.Action != management.KeyDeleted && !k.RevokedAt.IsZero(), r.Action == management.KeyDisabled && k.Disabled:
		return false, nil
	case r.Action != management.KeyDisabled:
		return true, nil
	}
	back, err := t.decided("key_id", r, "key.enabled")
	return !back, err
}

// decided says whether an event of that action is later than the refusal.
func (t *tx) decided(column string, r management.Refusal, action string) (bool, error) {
	var n int
	err := t.row(`SELECT count(*) FROM audit WHERE keyspace = $1 AND `+column+` = $2 AND action = $3 AND at > $4`,
		[]any{r.Keyspace, r.ID, action, r.At.UnixMicro()}, &n)
	return n > 0, err
}
