package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Migrations are numbered from 1 without gaps, and their statements never change once released. A
// file NNNN_topic.name.sql is for the dialect of that name only.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

type migration struct {
	version int64
	name    string
	sql     string
}

// migrations returns the migrations of a dialect in ascending order.
func migrations(d *Dialect) ([]migration, error) {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []migration
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		if base, only, ok := strings.Cut(name, "."); ok {
			if only != d.Name {
				continue
			}
			name = base
		}
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil || version != int64(len(out)+1) {
			return nil, fmt.Errorf("migration %s is not number %d", file, len(out)+1)
		}
		text, err := migrationFiles.ReadFile(file)
		if err != nil {
			return nil, err
		}
		out = append(out, migration{version, name, d.Types.Replace(string(text))})
	}
	return out, nil
}

// SchemaVersion returns the number of the newest migration that this program knows.
func (d *Dialect) SchemaVersion() (int, error) {
	all, err := migrations(d)
	return len(all), err
}

// SchemaError is the reason why this binary can't use a database.
type SchemaError struct{ Text string }

func (e *SchemaError) Error() string { return e.Text }

// Migrate brings the database to this program's schema in one transaction: it applies either all
// missing migrations or none, and returns how many. An empty database is an error if create is false,
// because a running gateway must report an emptied database instead of starting with a new one.
//
// Several processes may open a new database at once, so the transaction locks the schema before it
// reads the version. Running processes continue meanwhile and may even be restarted, because
// migrations only add tables and columns. A migration that does more must raise oldest_program in meta
// to its own number.
func Migrate(ctx context.Context, db *sql.DB, d *Dialect, create bool) (applied int, err error) {
	all, err := migrations(d)
	if err != nil {
		return 0, err
	}
	// Usually there is nothing to migrate. Then the check of the version avoids the lock on the schema.
	version, err := schemaVersion(ctx, db, d)
	if err != nil || version >= int64(len(all)) {
		return 0, err
	}
	if version == 0 && !create {
		return 0, &SchemaError{Text: "it is empty"}
	}

	tx, err := db.BeginTx(ctx, &d.Update)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if d.LockSchema != "" {
		if _, err := tx.ExecContext(ctx, d.LockSchema); err != nil {
			return 0, err
		}
	}
	if version, err = schemaVersion(ctx, tx, d); err != nil {
		return 0, err
	}
	for _, m := range all[min(version, int64(len(all))):] {
		if _, err := tx.ExecContext(ctx, m.sql, d.Script...); err != nil {
			return 0, fmt.Errorf("migration %s: %w", m.name, err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version, name, at) VALUES ($1, $2, $3)`,
			m.version, m.name, time.Now().UnixMicro()); err != nil {
			return 0, err
		}
		applied++
	}
	return applied, tx.Commit()
}

// queryer runs queries. *sql.DB and *sql.Tx implement queryer.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// schemaVersion returns the number of the newest migration that a database has had, or 0 for an empty
// database. It returns a *SchemaError for another program's database, and for a database that a newer
// Keygate has made unusable for this program.
func schemaVersion(ctx context.Context, q queryer, d *Dialect) (int64, error) {
	var tables int
	if err := q.QueryRowContext(ctx, d.Tables).Scan(&tables); err != nil {
		return 0, err
	}
	if tables == 0 {
		return 0, nil
	}
	var ours int
	if err := q.QueryRowContext(ctx, d.Tables+` AND name IN ('schema_version', 'meta', 'secrets')`).Scan(&ours); err != nil {
		return 0, err
	}
	if ours != 3 {
		return 0, &SchemaError{Text: "it is the database of another program; " + d.Foreign}
	}
	var version int64
	if err := q.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`).Scan(&version); err != nil {
		return 0, err
	}
	all, err := migrations(d)
	if err != nil {
		return 0, err
	}
	if version <= int64(len(all)) {
		return version, nil
	}
	var oldest int64
	err = q.QueryRowContext(ctx, `SELECT CAST(value AS BIGINT) FROM meta WHERE name = 'oldest_program'`).Scan(&oldest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	if err != nil || oldest > int64(len(all)) {
		return 0, &SchemaError{Text: fmt.Sprintf("its schema is version %d and this program knows versions up to %d: it was written by a newer Keygate; run that one, or restore the backup made before the upgrade", version, len(all))}
	}
	return version, nil
}
