package replica

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// copyMark is the application id in the header of SQLite files that are copies
// (https://www.sqlite.org/fileformat2.html#application_id). It marks files that may be deleted,
// since the primary holds the same data. In ASCII it reads "KGcp".
const copyMark = 0x4b476370

// The errors ErrNoCopy and ErrNotCopy distinguish a missing or unusable copy from another kind of file.
var (
	// ErrNoCopy is returned if the file does not exist, or is a copy that can't be used. The caller may
	// place a new copy at the path.
	ErrNoCopy = errors.New("there is no copy")
	// ErrNotCopy is returned if the file is not a copy of a store. The caller must not delete the file.
	ErrNotCopy = errors.New("this file is not a replica: configure another file for the replica, or move this one elsewhere")
)

// Copy is a copy of the primary store in an SQLite file. A Copy can be used as a Store: it then
// answers with the primary's tenants, keys, secrets and management tokens.
type Copy struct{ *sqlite.Store }

// inspectCopy returns nil if the header of the file at path is that of a copy. Otherwise it
// returns ErrNoCopy, ErrNotCopy or an error of the system. The file must not be open.
func inspectCopy(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoCopy
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return ErrNotCopy
	}
	header := make([]byte, 100)
	n, err := io.ReadFull(f, header)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		if n == 0 {
			return ErrNoCopy
		}
		return ErrNotCopy
	case err != nil:
		return err
	case binary.BigEndian.Uint32(header[68:]) != copyMark:
		return ErrNotCopy
	}
	return nil
}

// OpenCopy opens the copy at path, and returns its position in the primary's changes. It returns
// ErrNoCopy if no copy exists, or if the copy is damaged or has a newer schema. The caller may delete
// such a file. It returns ErrNotCopy if the path holds a file of another kind.
func OpenCopy(ctx context.Context, path string, logger *slog.Logger) (*Copy, replication.Position, error) {
	var none replication.Position
	id, err := sqlite.Identity(path)
	if err != nil {
		return nil, none, sqlite.Dialect.Explain("opening the replica", path, err)
	}
	if err := inspectCopy(id); err != nil {
		return nil, none, fmt.Errorf("%s: %w", id, err)
	}
	s, err := sqlite.OpenExisting(ctx, id, logger)
	if err != nil {
		var schema *sqlstore.SchemaError
		if sqlite.Damaged(err) || errors.As(err, &schema) {
			err = fmt.Errorf("%w that can be used: %w", ErrNoCopy, err)
		}
		return nil, none, err
	}
	c := &Copy{s}
	p, err := c.CopiedPosition(ctx)
	if err == nil {
		err = c.migratePending(ctx)
	}
	if err != nil {
		s.Close()
		if sqlite.Damaged(err) || errors.Is(err, gateway.ErrNotFound) {
			err = fmt.Errorf("%w that can be used: %w", ErrNoCopy, err)
		}
		return nil, none, err
	}
	return c, p, nil
}

// migratePending moves pending revocations from the table "pending", which an earlier version of the
// gateway used, to the table "refused".
func (c *Copy) migratePending(ctx context.Context) error {
	return c.Write(ctx, "opening the replica", func(t *sqlstore.Tx) error {
		var n int
		if err := t.Row(`SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'pending'`, nil, &n); err != nil || n == 0 {
			return err
		}
		if _, err := t.Exec(`INSERT INTO refused (action, keyspace, id, about, key_id, created, at, actor)
			SELECT action, keyspace, id, CASE WHEN action LIKE 'tenant.%' THEN lower(id) ELSE id END, '', 0, at, actor FROM pending`); err != nil {
			return err
		}
		_, err := t.Exec(`DROP TABLE pending`)
		return err
	})
}

// RemoveCopy removes the copy at path, which must not be open. If the file is not a copy, RemoveCopy
// leaves the file and returns an error.
func RemoveCopy(path string) error {
	id, err := sqlite.Identity(path)
	if err != nil {
		return err
	}
	if err := inspectCopy(id); err != nil && !errors.Is(err, ErrNoCopy) {
		return fmt.Errorf("%s: %w", id, err)
	}
	return sqlite.Remove(id)
}

// CopyBuilder makes a copy in a temporary file. Place then moves the temporary file to the copy's
// path in the same directory. If a crash leaves a temporary file, the next builder removes it.
type CopyBuilder struct {
	path, partial string
	db            *sql.DB
	tx            *sql.Tx
	indexes       []string
	inserts       map[string]*sql.Stmt
	begun         bool
	position      replication.Position
	rows          int64
}

// rowsAtOnce limits the rows that one statement inserts, because SQLite accepts at most 32,766
// parameters in a statement.
const rowsAtOnce = 100

// builderCacheKiB limits SQLite's page cache while a copy is made, in KiB.
const builderCacheKiB = 64 << 10

// NewCopy begins a copy that Place will move to path.
func NewCopy(ctx context.Context, path string) (_ *CopyBuilder, err error) {
	id, err := sqlite.Identity(path)
	if err != nil {
		return nil, err
	}
	b := &CopyBuilder{path: id, partial: id + ".partial", inserts: map[string]*sql.Stmt{}}
	if err := sqlite.Remove(b.partial); err != nil {
		return nil, err
	}
	if err := sqlite.CreatePrivate(b.partial); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.Discard()
		}
	}()
	// The builder never uses a temporary file after a crash, so SQLite need not make its writes durable.
	if b.db, err = sqlite.OpenDB(b.partial, url.Values{
		"mode": {"rw"}, "_dqs": {"0"}, "_journal_mode": {"OFF"}, "_synchronous": {"OFF"}, "_locking_mode": {"EXCLUSIVE"},
		"_pragma": {fmt.Sprintf("cache_size(-%d)", builderCacheKiB), fmt.Sprintf("application_id(%d)", copyMark)},
	}); err != nil {
		return nil, err
	}
	b.db.SetMaxOpenConns(1)
	if _, err := sqlstore.Migrate(ctx, b.db, sqlite.Dialect, true); err != nil {
		return nil, err
	}
	if err := b.dropIndexes(ctx); err != nil {
		return nil, err
	}
	if b.tx, err = b.db.BeginTx(ctx, nil); err != nil {
		return nil, err
	}
	return b, nil
}

// unneeded names the indexes that no query of a copy uses. A copy is made without them.
var unneeded = map[string]bool{"keys_prefix": true, "keys_active": true, "tokens_made": true}

// dropIndexes drops the indexes while the tables are empty. Index creates the needed indexes after
// all rows are written, because that is faster than updating them at each insert.
func (b *CopyBuilder) dropIndexes(ctx context.Context) error {
	names, args := []string{}, []any{}
	cond, args := sqlstore.In(args, []string{"tenants", "keys", "secrets", "tokens"})
	rows, err := b.db.QueryContext(ctx, `SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name`+cond, args...)
	if err := sqlstore.Each(rows, err, func(rows *sql.Rows) error {
		var name, text string
		err := rows.Scan(&name, &text)
		names = append(names, name)
		if !unneeded[name] {
			b.indexes = append(b.indexes, text)
		}
		return err
	}); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := b.db.ExecContext(ctx, `DROP INDEX `+name); err != nil {
			return err
		}
	}
	return nil
}

// Begin sets the position that the copied store has in its changes. A second call is an error.
func (b *CopyBuilder) Begin(p replication.Position) error {
	if b.begun {
		return errors.New("the copied store started again from the beginning")
	}
	b.begun, b.position = true, p
	return nil
}

// Write adds rows of a table to the copy that is being made.
func (b *CopyBuilder) Write(ctx context.Context, table string, rows []replication.Row) error {
	for len(rows) > 0 {
		n := min(len(rows), rowsAtOnce)
		if n < rowsAtOnce {
			n = 1
		}
		stmt, err := b.insert(ctx, table, n)
		if err != nil {
			return err
		}
		args := make([]any, 0, n*len(rows[0]))
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if _, err := stmt.ExecContext(ctx, args...); err != nil {
			return err
		}
		b.rows += int64(n)
		rows = rows[n:]
	}
	return nil
}

// insert returns the prepared statement that inserts n rows into a table.
func (b *CopyBuilder) insert(ctx context.Context, table string, n int) (*sql.Stmt, error) {
	id := fmt.Sprint(table, n)
	if s := b.inserts[id]; s != nil {
		return s, nil
	}
	for _, c := range replication.Tables {
		if c.Name != table {
			continue
		}
		row := "(?" + strings.Repeat(",?", len(c.Columns)-1) + ")"
		s, err := b.tx.PrepareContext(ctx, `INSERT INTO `+table+` (`+strings.Join(c.Columns, ", ")+`) VALUES `+row+strings.Repeat(","+row, n-1))
		if err == nil {
			b.inserts[id] = s
		}
		return s, err
	}
	return nil, fmt.Errorf("copies hold no table %s", table)
}

// Rows returns how many rows the builder has written so far.
func (b *CopyBuilder) Rows() int64 { return b.rows }

// Index creates the indexes and syncs the file to the disk. Callers use Index when all rows are written.
func (b *CopyBuilder) Index(ctx context.Context) error {
	for _, text := range b.indexes {
		if _, err := b.tx.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	clear(b.inserts)
	err := b.tx.Commit()
	if err == nil {
		b.tx, err = b.db.BeginTx(ctx, nil)
	}
	if err == nil {
		err = b.sync()
	}
	return err
}

// sync syncs the temporary file to the disk. Opening and closing the file drops SQLite's locks on
// it. The lost locks do no harm, because no other process uses the temporary file.
func (b *CopyBuilder) sync() error {
	_, err := sqlite.SyncFile(b.partial)
	return err
}

// transaction returns a transaction on the rows written so far.
func (b *CopyBuilder) transaction(ctx context.Context) *sqlstore.Tx {
	return sqlstore.NewTx(ctx, b.tx, sqlite.Dialect, b.partial)
}

// CompareRevocations returns the state of each revocation in the copied rows. It never returns
// replication.Reversed, because a copy holds no audit events. Index must be called first.
func (b *CopyBuilder) CompareRevocations(ctx context.Context, list []management.Revocation) ([]replication.RevocationState, error) {
	return replication.Compare(b.transaction(ctx), list)
}

// AddRevocations adds those revocations of the former copy that the newly copied rows lack.
func (b *CopyBuilder) AddRevocations(ctx context.Context, list []replication.StoredRevocation) error {
	t := b.transaction(ctx)
	for _, k := range list {
		if k.UnknownSince.IsZero() {
			if err := replication.RevokeRow(t, k.Revocation); err != nil {
				return err
			}
		} else if replication.SlugOnly(k.Revocation) || t.Now.Sub(k.UnknownSince) > replication.UnknownRetention {
			continue
		}
		if err := replication.StoreRevocation(t, k); err != nil {
			return err
		}
	}
	return nil
}

// Finish stores the position and syncs the complete file to the disk. Place is called after Finish.
func (b *CopyBuilder) Finish(ctx context.Context, syncedAt time.Time) error {
	if _, err := b.tx.ExecContext(ctx, `UPDATE sequences SET value = $1 WHERE name = 'changes'`, b.position.Seq); err != nil {
		return err
	}
	if err := setCopied(ctx, b.tx, b.position, syncedAt); err != nil {
		return err
	}
	if err := b.tx.Commit(); err != nil {
		return err
	}
	if err := b.db.Close(); err != nil {
		return err
	}
	return b.sync()
}

// Place moves the finished copy to its path, where it replaces the former copy. The former copy must
// not be open. After a crash, the path holds either the former copy or the new one.
func (b *CopyBuilder) Place() error {
	if err := inspectCopy(b.path); err != nil && !errors.Is(err, ErrNoCopy) {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	// When the former copy was closed, SQLite moved its write-ahead log into the database file. The
	// remaining side files can therefore be removed.
	for _, ext := range []string{"-wal", "-shm", "-journal"} {
		if err := os.Remove(b.path + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(b.partial, b.path); err != nil {
		return err
	}
	return sqlite.SyncDir(filepath.Dir(b.path))
}

// Discard removes a copy that was not placed. After Place, Discard leaves the placed copy in place.
func (b *CopyBuilder) Discard() {
	if b.tx != nil {
		b.tx.Rollback()
	}
	if b.db != nil {
		b.db.Close()
	}
	_ = sqlite.Remove(b.partial)
}

// executor runs SQL statements. *sql.Tx implements executor.
type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// setCopied stores the position of a copy and the time of its last sync.
func setCopied(ctx context.Context, e executor, p replication.Position, syncedAt time.Time) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"copied": string(text), "heard": syncedAt.UTC().Format(time.RFC3339Nano)} {
		if _, err := e.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value); err != nil {
			return err
		}
	}
	return nil
}
