package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// CopiedPosition returns the position in the primary's changes that the copy has reached. It returns
// gateway.ErrNotFound if the file is not a copy.
func (c *Copy) CopiedPosition(ctx context.Context) (p replication.Position, err error) {
	text, err := c.meta(ctx, "copied")
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal([]byte(text), &p)
}

// LastSync returns the last time at which the copy was known to hold all changes of the primary.
func (c *Copy) LastSync(ctx context.Context) (time.Time, error) {
	text, err := c.meta(ctx, "heard")
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, text)
}

func (c *Copy) meta(ctx context.Context, name string) (value string, err error) {
	err = c.Query(ctx, "reading the replica", func(f *sqlstore.Conns) error {
		return f.Read.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = $1`, name).Scan(&value)
	})
	return value, err
}

// SetLastSync stores the time of the last sync with the primary and the lease that the node
// announced. A nil lease leaves the stored lease unchanged.
func (c *Copy) SetLastSync(ctx context.Context, at time.Time, lease *AnnouncedLease) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		if _, err := t.Exec(`UPDATE meta SET value = $1 WHERE name = 'heard'`, at.UTC().Format(time.RFC3339Nano)); err != nil || lease == nil {
			return err
		}
		text, err := json.Marshal(lease)
		if err != nil {
			return err
		}
		_, err = t.Exec(`INSERT INTO meta (name, value) VALUES ('promised', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, string(text))
		return err
	})
}

// AnnouncedLease records how long a node accepts keys by its copy while the primary is unreachable. The
// node announced the durations in Trust to the other nodes, and they apply from the time At on.
type AnnouncedLease struct {
	At    time.Time         `json:"at"`
	Trust cluster.Staleness `json:"trust"`
}

// Equal reports whether p and o announce the same durations, or are both nil. Equal ignores the
// field At.
func (p *AnnouncedLease) Equal(o *AnnouncedLease) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.Trust.Default == o.Trust.Default && maps.Equal(p.Trust.Keyspaces, o.Trust.Keyspaces)
}

// AnnouncedLease returns the lease that SetLastSync stored last, or nil if none is stored.
func (c *Copy) AnnouncedLease(ctx context.Context) (*AnnouncedLease, error) {
	text, err := c.meta(ctx, "promised")
	if errors.Is(err, gateway.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := new(AnnouncedLease)
	return p, json.Unmarshal([]byte(text), p)
}

// keptChanges is how many of the newest changes a copy keeps. Only the gateway of the same machine
// reads the changes, and soon after they are applied, so a few are enough.
const keptChanges = 10_000

// Apply writes a delta, a list of the primary's changes, to the copy. The delta must begin at the
// copy's position. Revocations that the copy holds and the primary lacks continue to apply.
//
// Apply calls pending with the number of pending revocations before readers can see the new rows.
func (c *Copy) Apply(ctx context.Context, d *replication.Delta, syncedAt time.Time, pending func(n int64)) error {
	nothing := func(*sqlstore.Tx) error { return nil }
	return c.applyDelta(ctx, d, syncedAt, nothing, func(t *sqlstore.Tx) error {
		n, err := countPending(t)
		if err == nil {
			pending(n)
		}
		return err
	})
}

// applyDelta writes a delta, a list of the primary's changes, to the copy. In the same transaction
// it calls the function before at the start and the function after at the end.
func (c *Copy) applyDelta(ctx context.Context, d *replication.Delta, syncedAt time.Time, before, after func(*sqlstore.Tx) error) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		if err := before(t); err != nil {
			return err
		}
		var text string
		if err := t.Row(`SELECT value FROM meta WHERE name = 'copied'`, nil, &text); err != nil {
			return err
		}
		var at replication.Position
		if err := json.Unmarshal([]byte(text), &at); err != nil {
			return err
		}
		if at != d.From {
			return fmt.Errorf("%w: the replica is at change %d, but the changes to apply follow %d", gateway.ErrStore, at.Seq, d.From.Seq)
		}
		if err := applyRows(t, d); err != nil {
			return err
		}
		for _, ch := range d.Changes {
			if _, err := t.Exec(`INSERT INTO changes (seq, kind, keyspace, id, at) VALUES ($1, $2, $3, $4, $5)`,
				ch.Seq, string(ch.Kind), ch.Keyspace, ch.ID, ch.At); err != nil {
				return err
			}
		}
		if _, err := t.Exec(`DELETE FROM changes WHERE seq <= $1`, d.To.Seq-keptChanges); err != nil {
			return err
		}
		if _, err := t.Exec(`UPDATE sequences SET value = $1 WHERE name = 'changes'`, d.To.Seq); err != nil {
			return err
		}
		if err := setCopied(ctx, t.SQL, d.To, syncedAt); err != nil {
			return t.Fail(err)
		}
		if err := reapplyRevocations(t, d); err != nil {
			return err
		}
		return after(t)
	})
}

var tenantDeletedAt = replication.TenantRows.Column("deleted_at")

// applyRows writes the rows of a delta, a list of the primary's changes, to the copy.
func applyRows(t *sqlstore.Tx, d *replication.Delta) error {
	for _, part := range []struct {
		table *replication.Table
		rows  []replication.Row
	}{{replication.TenantRows, d.Tenants}, {replication.KeyRows, d.Keys}, {replication.TokenRows, d.Tokens}, {replication.PepperRows, d.Peppers}} {
		for _, row := range part.rows {
			if _, err := t.Exec(part.table.Upsert(), row...); err != nil {
				return err
			}
		}
	}
	for _, id := range d.GoneKeys {
		for _, query := range []string{
			`DELETE FROM secrets WHERE key_num = (SELECT num FROM keys WHERE id = $1)`, `DELETE FROM keys WHERE id = $1`,
		} {
			if _, err := t.Exec(query, id); err != nil {
				return err
			}
		}
	}
	// All deletions come before the inserts, because a secret's digest may have moved from one key to
	// another, and two keys can't have the same digest.
	for _, row := range d.Keys {
		if _, err := t.Exec(`DELETE FROM secrets WHERE key_num = $1`, row[0]); err != nil {
			return err
		}
	}
	for _, row := range d.Secrets {
		if _, err := t.Exec(replication.SecretRows.Upsert(), row...); err != nil {
			return err
		}
	}
	// The row of a deleted tenant stays in the copy, to reserve the tenant's slug. The tenant's keys are
	// deleted with their personal data.
	for _, row := range d.Tenants {
		if row[tenantDeletedAt] == nil {
			continue
		}
		for _, query := range []string{
			`DELETE FROM secrets WHERE key_num IN (SELECT num FROM keys WHERE tenant_num = $1)`, `DELETE FROM keys WHERE tenant_num = $1`,
		} {
			if _, err := t.Exec(query, row[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rehashed stores the new digest of a secret that the copy has.
func (c *Copy) Rehashed(ctx context.Context, r gateway.Secret) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		_, err := t.Exec(`UPDATE secrets SET digest = $3, algorithm = $4 WHERE id = $1 AND keyspace = $2`,
			r.ID, r.Keyspace, r.Digest, string(r.Algorithm))
		return err
	})
}

// SetShown stores the visible parts of a secret that the copy has: its prefix and last four characters.
func (c *Copy) SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		_, err := t.SetShown(keyspace, secretID, prefix, lastFour)
		return err
	})
}
