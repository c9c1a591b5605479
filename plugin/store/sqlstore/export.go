package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

var _ gateway.Source = (*Store)(nil)

// Export implements gateway.Source.
func (s *Store) Export(ctx context.Context, to gateway.Copy) (newest gateway.Change, err error) {
	// What to refuses is its caller's; everything else is the database's. It is given the
	// rows once: a second try would give it some again.
	var refusal, failure error
	given := false
	err = s.db.viewing(ctx, func(t *tx) (err error) {
		if given {
			return failure
		}
		given = true
		defer func() { failure = err }()
		give := func(err error) error {
			if err != nil && refusal == nil {
				refusal = err
			}
			return err
		}
		err = t.row(changeColumns+` ORDER BY seq DESC LIMIT 1`, nil, changeInto(&newest)...)
		if err != nil && !errors.Is(err, gateway.ErrNotFound) {
			return err
		}
		for _, table := range []struct {
			query string
			row   func(*sql.Rows) error
		}{
			{`SELECT ` + tenantColumns + ` FROM tenants t ORDER BY t.num`, func(rows *sql.Rows) error {
				var one gateway.Tenant
				if err := rows.Scan(tenantInto(&one)...); err != nil {
					return err
				}
				return give(to.Tenant(&one))
			}},
			{`SELECT ` + keyColumns + ` FROM keys k JOIN tenants t ON t.num = k.tenant_num ORDER BY k.num`, func(rows *sql.Rows) error {
				var one gateway.Key
				if err := rows.Scan(keyInto(&one)...); err != nil {
					return err
				}
				return give(to.Key(&one))
			}},
			{`SELECT ` + secretColumns + ` FROM secrets s JOIN keys k ON k.num = s.key_num ORDER BY s.num`, func(rows *sql.Rows) error {
				var one gateway.Secret
				if err := rows.Scan(secretInto(&one)...); err != nil {
					return err
				}
				return give(to.Secret(&one))
			}},
		} {
			if err := t.rows(table.query, nil, table.row); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case refusal != nil:
		return gateway.Change{}, refusal
	case err != nil:
		return gateway.Change{}, explain("reading everything", s.Identity(), err)
	}
	return newest, nil
}
