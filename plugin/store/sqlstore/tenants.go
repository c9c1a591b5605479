package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// tenantColumns are the columns that tenantInto scans. The query must name the table tenants AS t.
const tenantColumns = `t.keyspace, t.slug, t.name, t.plan, t.active, t.rate, t.quota, t.concurrency,
	t.metadata, t.created_at, t.updated_at, t.deleted_at, t.version, t.credits`

func tenantInto(t *gateway.Tenant) []any {
	return []any{&t.Keyspace, &t.Slug, &t.Name, &t.Plan, &t.Active, &t.Rate, &t.Quota, &t.Concurrency,
		jsonInto{&t.Metadata}, TimeInto(&t.CreatedAt), TimeInto(&t.UpdatedAt), TimeInto(&t.DeletedAt), &t.Version, &t.Credits}
}

// Tenant implements management.Tx.
func (t *Tx) Tenant(keyspace, slug string) (*gateway.Tenant, error) {
	return t.tenant(keyspace, slug, "")
}

// LockTenant implements management.Tx.
func (t *Tx) LockTenant(keyspace, slug string) (*gateway.Tenant, error) {
	return t.tenant(keyspace, slug, t.lockRow)
}

func (t *Tx) tenant(keyspace, slug, lock string) (*gateway.Tenant, error) {
	var out gateway.Tenant
	err := t.Row(`SELECT `+tenantColumns+` FROM tenants t WHERE t.keyspace = $1 AND t.folded = $2`+lock,
		[]any{keyspace, Fold(slug)}, tenantInto(&out)...)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Tenants implements management.Tx.
func (t *Tx) Tenants(q management.TenantQuery) ([]*gateway.Tenant, error) {
	var w where
	w.and("t.keyspace = " + w.arg(q.Keyspace))
	w.and("t.deleted_at IS NULL")
	if q.Plan != "" {
		w.and("t.plan = " + w.arg(q.Plan))
	}
	if q.After != "" {
		w.and("t.folded > " + w.arg(Fold(q.After)))
	}
	var out []*gateway.Tenant
	err := t.Rows(`SELECT `+tenantColumns+` FROM tenants t`+w.text+` ORDER BY t.folded`+w.limit(q.Limit), w.args,
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
func (t *Tx) InsertTenant(in *gateway.Tenant) error {
	n, err := t.Exec(`INSERT INTO tenants
		(keyspace, slug, folded, name, plan, active, rate, quota, concurrency, metadata, created_at, updated_at, deleted_at, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 1)
		ON CONFLICT (keyspace, folded) DO NOTHING`,
		in.Keyspace, in.Slug, Fold(in.Slug), in.Name, in.Plan, Flag(in.Active), in.Rate, in.Quota, in.Concurrency,
		jsonText(in.Metadata), Micros(in.CreatedAt), Micros(in.UpdatedAt), Micros(in.DeletedAt))
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
func (t *Tx) UpdateTenant(in *gateway.Tenant) error {
	return t.Row(`UPDATE tenants SET name = $3, plan = $4, active = $5, rate = $6, quota = $7, concurrency = $8,
		metadata = $9, created_at = $10, updated_at = $11, deleted_at = $12, version = version + 1
		WHERE keyspace = $1 AND folded = $2 RETURNING version`,
		[]any{in.Keyspace, Fold(in.Slug), in.Name, in.Plan, Flag(in.Active), in.Rate, in.Quota, in.Concurrency,
			jsonText(in.Metadata), Micros(in.CreatedAt), Micros(in.UpdatedAt), Micros(in.DeletedAt)},
		&in.Version)
}

// TenantsByPlan implements gateway.Store.
func (s *Store) TenantsByPlan(ctx context.Context, keyspace string) (map[string]int64, error) {
	var out map[string]int64
	err := s.Query(ctx, "counting tenants", func(f *Conns) error {
		out = make(map[string]int64)
		rows, err := f.Read.QueryContext(ctx,
			`SELECT plan, count(*) FROM tenants WHERE keyspace = $1 AND deleted_at IS NULL GROUP BY plan`, keyspace)
		return Each(rows, err, func(rows *sql.Rows) error {
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

// RenamePlan implements gateway.Store. It makes one change for each tenant that it moves to the new
// plan.
func (s *Store) RenamePlan(ctx context.Context, keyspace, from, to string) (int64, error) {
	var moved []string
	err := s.Write(ctx, "renaming a plan", func(t *Tx) error {
		moved = moved[:0]
		err := t.Rows(`UPDATE tenants SET plan = $3, version = version + 1, updated_at = $4
			WHERE keyspace = $1 AND plan = $2 AND deleted_at IS NULL RETURNING slug`,
			[]any{keyspace, from, to, t.Now.UnixMicro()}, func(rows *sql.Rows) error {
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

// aheadOfTouches is how far eraseRecords sets a key's time of last use into the future. Nodes may still
// have to write earlier uses with the erased client address. The store ignores these uses because they
// are older.
const aheadOfTouches = time.Hour

// eraseRecords deletes the personal data in a tenant's rows: free text, names and addresses. Counts,
// amounts and times stay. Idempotency records may hold personal data too, but they are deleted within
// a day in any case.
func (t *Tx) eraseRecords(keyspace, tenant string) error {
	const which = `(SELECT num FROM tenants WHERE keyspace = $1 AND folded = $2)`
	folded := Fold(tenant)
	for _, s := range []string{
		`DELETE FROM recent_requests WHERE key_id IN (SELECT id FROM keys WHERE tenant_num = ` + which + `)`,
		`UPDATE secrets SET last_used_ip = '' WHERE key_num IN (SELECT num FROM keys WHERE tenant_num = ` + which + `)`,
		`UPDATE ledger SET reference = '', actor = '' WHERE tenant_num = ` + which,
		`UPDATE tenants SET name = '', metadata = NULL WHERE num = ` + which,
		`UPDATE tokens SET name = '', created_by = '', last_used_ip = ''
			WHERE keyspace = $1 AND tenant = (SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2)`,
		`DELETE FROM sessions WHERE keyspace = $1 AND tenant = (SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2)`,
		`DELETE FROM portal_links WHERE keyspace = $1 AND tenant = (SELECT slug FROM tenants WHERE keyspace = $1 AND folded = $2)`,
	} {
		if _, err := t.Exec(s, keyspace, folded); err != nil {
			return err
		}
	}
	_, err := t.Exec(`UPDATE keys SET name = '', description = '', metadata = NULL, created_by = '', allowed_ips = '', last_used_ip = '', last_used_at = $3
		WHERE tenant_num = `+which, keyspace, folded, t.Now.Add(aheadOfTouches).UnixMicro())
	return err
}
