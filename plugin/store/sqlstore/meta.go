package sqlstore

import (
	"context"
	"database/sql"
)

// Peppers implements gateway.Store.
func (s *Store) Peppers(ctx context.Context) (map[string]string, error) {
	var out map[string]string
	err := s.Query(ctx, "reading pepper checks", func(f *Conns) error {
		out = make(map[string]string)
		rows, err := f.Read.QueryContext(ctx, `SELECT id, check_value FROM peppers`)
		return Each(rows, err, func(rows *sql.Rows) error {
			var id, check string
			err := rows.Scan(&id, &check)
			out[id] = check
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SavePeppers implements gateway.Store. A check value that is already stored stays. If all check
// values are stored, SavePeppers writes nothing, so that a reload works while the database is
// read-only.
func (s *Store) SavePeppers(ctx context.Context, checks map[string]string) error {
	if len(checks) == 0 {
		return nil
	}
	known, err := s.Peppers(ctx)
	if err != nil {
		return err
	}
	missing := false
	for id := range checks {
		_, ok := known[id]
		missing = missing || !ok
	}
	if !missing {
		return nil
	}
	return s.Write(ctx, "writing pepper checks", func(t *Tx) error {
		for id, check := range checks {
			if _, err := t.Exec(`INSERT INTO peppers (id, check_value) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`, id, check); err != nil {
				return err
			}
		}
		return nil
	})
}

// Epoch returns the epoch of the database: a number that rises with each restored backup. If the
// epoch is lower than before, an older copy of the database has replaced it.
func (s *Store) Epoch(ctx context.Context) (epoch int64, err error) {
	err = s.Query(ctx, "reading the epoch", func(f *Conns) error {
		return f.Read.QueryRowContext(ctx, `SELECT CAST(value AS BIGINT) FROM meta WHERE name = 'epoch'`).Scan(&epoch)
	})
	return epoch, err
}
