package sqlstore

import (
	"context"
	"database/sql"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// tenantColumns are what tenantInto scans, of tenants AS t.
const tenantColumns = `t.keyspace, t.slug, t.name, t.plan, t.active, t.rate, t.quota, t.concurrency,
	t.metadata, t.created_at, t.updated_at, t.deleted_at, t.version, t.credits`

func tenantInto(t *gateway.Tenant) []any {
	return []any{&t.Keyspace, &t.Slug, &t.Name, &t.Plan, &t.Active, &t.Rate, &t.Quota, &t.Concurrency,
		jsonInto{&t.Metadata}, timeInto{&t.CreatedAt}, timeInto{&t.UpdatedAt}, timeInto{&t.DeletedAt}, &t.Version, &t.Credits}
}

// Tenant implements management.Tx.
func (t *tx) Tenant(keyspace, slug string) (*gateway.Tenant, error) {
	return t.tenant(keyspace, slug, "")
}

// LockTenant implements management.Tx.
func (t *tx) LockTenant(keyspace, slug string) (*gateway.Tenant, error) {
	return t.tenant(keyspace, slug, t.d.lockRow)
}

func (t *tx) tenant(keyspace, slug, lock string) (*gateway.Tenant, error) {
	var out gateway.Tenant
	err := t.row(`SELECT `+tenantColumns+` FROM tenants t WHERE t.keyspace = $1 AND t.folded = $2`+lock,
		[]any{keyspace, fold(slug)}, tenantInto(&out)...)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Tenants implements management.Tx.
func (t *tx) Tenants(q management.TenantQuery) ([]*gateway.Tenant, error) {
	var w where
	w.and("t.keyspace = " + w.arg(q.Keyspace))
	w.and("t.deleted_at IS NULL")
	if q.Plan != "" {
		w.and("t.plan = " + w.arg(q.Plan))
	}
	if q.After != "" {
		w.and("t.folded > " + w.arg(fold(q.After)))
	}
	var out []*gateway.Tenant
	err := t.rows(`SELECT `+tenantColumns+` FROM tenants t`+w.text+` ORDER BY t.folded`+w.limit(q.Limit), w.args,
		func(rows *sql.Rows) error {
			var one gateway.Tenant
			out = append(out, &one)
			return rows.Scan(tenantInto(&one)...)
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// InsertTenant implements management.Tx.
func (t *tx) InsertTenant(in *gateway.Tenant) error {
	n, err := t.exec(`INSERT INTO tenants
		(keyspace, slug, folded, name, plan, active, rate, quota, concurrency, metadata, created_at, updated_at, deleted_at, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 1)
		ON CONFLICT (keyspace, folded) DO NOTHING`,
		in.Keyspace, in.Slug, fold(in.Slug), in.Name, in.Plan, flag(in.Active), in.Rate, in.Quota, in.Concurrency,
		jsonText(in.Metadata), micros(in.CreatedAt), micros(in.UpdatedAt), micros(in.DeletedAt))
	if err != nil {
		return err
	}
	if n == 0 {
		return management.ErrSlugTaken
	}
	in.Version, in.Credits = 1, 0
	return nil
}

// UpdateTenant implements management.Tx.
func (t *tx) UpdateTenant(in *gateway.Tenant) error {
	return t.row(`UPDATE tenants SET name = $3, plan = $4, active = $5, rate = $6, quota = $7, concurrency = $8,
		metadata = $9, created_at = $10, updated_at = $11, deleted_at = $12, version = version + 1
		WHERE keyspace = $1 AND folded = $2 RETURNING version`,
		[]any{in.Keyspace, fold(in.Slug), in.Name, in.Plan, flag(in.Active), in.Rate, in.Quota, in.Concurrency,
			jsonText(in.Metadata), micros(in.CreatedAt), micros(in.UpdatedAt), micros(in.DeletedAt)},
		&in.Version)
}

// TenantsByPlan implements gateway.Store.
func (s *Store) TenantsByPlan(ctx context.Context, keyspace string) (map[string]int64, error) {
	var out map[string]int64
	err := s.reading(ctx, "counting tenants", func(f *conns) error {
		out = make(map[string]int64)
		rows, err := f.read.QueryContext(ctx,
			`SELECT plan, count(*) FROM tenants WHERE keyspace = $1 AND deleted_at IS NULL GROUP BY plan`, keyspace)
		return each(rows, err, func(rows *sql.Rows) error {
			var plan string
			var n int64
			err := rows.Scan(&plan, &n)
			out[plan] = n
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RenamePlan implements gateway.Store. Each tenant moved is one change.
func (s *Store) RenamePlan(ctx context.Context, keyspace, from, to string) (int64, error) {
	var moved []string
	err := s.writing(ctx, "renaming a plan", func(t *tx) error {
		moved = moved[:0]
		err := t.rows(`UPDATE tenants SET plan = $3, version = version + 1, updated_at = $4
			WHERE keyspace = $1 AND plan = $2 AND deleted_at IS NULL RETURNING slug`,
			[]any{keyspace, from, to, t.now.UnixMicro()}, func(rows *sql.Rows) error {
				var slug string
				err := rows.Scan(&slug)
				moved = append(moved, slug)
				return err
			})
		if err != nil {
			return err
		}
		for _, slug := range moved {
			if _, err := t.Change(gateway.ChangeTenant, keyspace, slug); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return int64(len(moved)), nil
}
