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

// CopiedPosition returns how far the copy has followed its primary. ErrNotFound where it is none.
func (c *Copy) CopiedPosition(ctx context.Context) (p replication.Position, err error) {
	text, err := c.meta(ctx, "copied")
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal([]byte(text), &p)
}

// LastSync returns when the copy was last known to hold all that the primary held.
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

// SetLastSync notes when the primary was heard of, and what the other nodes had been promised by then; nil
// for what is noted already.
func (c *Copy) SetLastSync(ctx context.Context, at time.Time, promised *AnnouncedLease) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		if _, err := t.Exec(`UPDATE meta SET value = $1 WHERE name = 'heard'`, at.UTC().Format(time.RFC3339Nano)); err != nil || promised == nil {
			return err
		}
		text, err := json.Marshal(promised)
		if err != nil {
			return err
		}
		_, err = t.Exec(`INSERT INTO meta (name, value) VALUES ('promised', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, string(text))
		return err
	})
}

// AnnouncedLease is what a node told the others: for how long from At on it trusts its copy.
type AnnouncedLease struct {
	At    time.Time         `json:"at"`
	Trust cluster.Staleness `json:"trust"`
}

// Equal says that p states the same trust as o, or that there is neither.
func (p *AnnouncedLease) Equal(o *AnnouncedLease) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.Trust.Default == o.Trust.Default && maps.Equal(p.Trust.Keyspaces, o.Trust.Keyspaces)
}

// AnnouncedLease returns what SetLastSync noted last, nil where it noted nothing.
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

// keptChanges is how many changes a copy keeps: who follows it follows closely.
const keptChanges = 10_000

// Apply makes the copy hold what the delta says. It must begin where the copy stands.
// What is refused here and not in the primary stays refused.
//
// pending is told how many refusals are to be written then, before anybody can see what was taken over.
func (c *Copy) Apply(ctx context.Context, d *replication.Delta, heard time.Time, pending func(n int64)) error {
	nothing := func(*sqlstore.Tx) error { return nil }
	return c.applyDelta(ctx, d, heard, nothing, func(t *sqlstore.Tx) error {
		n, err := countPending(t)
		if err == nil {
			pending(n)
		}
		return err
	})
}

// applyDelta is Apply; before runs first, and after last, in the same transaction.
func (c *Copy) applyDelta(ctx context.Context, d *replication.Delta, heard time.Time, before, after func(*sqlstore.Tx) error) error {
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
			return fmt.Errorf("%w: the replica stands at change %d, not %d", gateway.ErrStore, at.Seq, d.From.Seq)
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
		if err := setCopied(ctx, t.SQL, d.To, heard); err != nil {
			return t.Fail(err)
		}
		if err := reapplyRevocations(t, d); err != nil {
			return err
		}
		return after(t)
	})
}

var tenantDeletedAt = replication.TenantRows.Column("deleted_at")

// applyRows writes the rows of a delta.
func applyRows(t *sqlstore.Tx, d *replication.Delta) error {
	for _, of := range []struct {
		table *replication.Table
		rows  []replication.Row
	}{{replication.TenantRows, d.Tenants}, {replication.KeyRows, d.Keys}, {replication.TokenRows, d.Tokens}, {replication.PepperRows, d.Peppers}} {
		for _, row := range of.rows {
			if _, err := t.Exec(of.table.Upsert(), row...); err != nil {
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
	// First those that go, since a digest may have gone from one key to another.
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
	// A deleted tenant leaves its slug; what was written of people goes with its keys.
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

// Rehashed notes another form of a secret, as Rehash, where it is known.
func (c *Copy) Rehashed(ctx context.Context, r gateway.Secret) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		_, err := t.Exec(`UPDATE secrets SET digest = $3, algorithm = $4 WHERE id = $1 AND keyspace = $2`,
			r.ID, r.Keyspace, r.Digest, string(r.Algorithm))
		return err
	})
}

// SetShown notes what is shown of a secret, where it is known.
func (c *Copy) SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error {
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		_, err := t.SetShown(keyspace, secretID, prefix, lastFour)
		return err
	})
}
