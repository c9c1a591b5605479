package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

const (
	// readers limits how many reads run at once. More readers would only help while reads wait for the
	// disk, and each reader needs memory for a page cache of its own.
	readers = 6
	// readerCacheKiB is the size of a reading connection's page cache, in KiB. The cache holds the upper
	// levels of the indexes of a million keys. Other pages come from the operating system's cache, in one
	// or two microseconds each.
	readerCacheKiB = 2 << 10
	// journalLimit is the size, in bytes, to which SQLite truncates the write-ahead log after it grew larger.
	journalLimit = 64 << 20
)

// file is an opened database: its connections, and the identity of the files on which they were opened.
//
// While a database is open, this package opens none of its files (database, -wal, -shm) directly.
// Closing any descriptor of a file drops all POSIX locks that the process holds on the file, including
// SQLite's locks (https://www.sqlite.org/howtocorrupt.html, 2.2).
type file struct {
	path string
	sqlstore.Conns
	// write has a single connection, so that writers wait in Go instead of polling SQLite's lock. A wait in
	// Go ends when the writer's context ends.
	write *sql.DB
	// watch has a single connection, watchConn, because values of PRAGMA data_version can be compared only
	// on the same connection.
	watch     *sql.DB
	watchConn *sql.Conn
	// checkpoint has a single connection, which waits only logBusy for locks.
	checkpoint *sql.DB

	main, wal os.FileInfo

	// database.mu guards users and retired.
	users   int
	retired bool
	// drained is closed when the file is retired and its last call has ended.
	drained chan struct{}
}

// dsn returns the URI of the database at path, which must be absolute. Parameters that begin with an
// underscore are for the driver. All other parameters are for SQLite.
func dsn(path string, params url.Values) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // A path of Windows begins with a drive letter and needs a slash in front.
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + params.Encode()
}

// prepareFile creates the database file if the file does not exist and create is true. Only the file's
// owner may read it. prepareFile warns if other users may read an existing file. SQLite gives the -wal
// and -shm files the mode of the database.
func prepareFile(path string, create bool, log *slog.Logger) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			return errRemoved
		}
		// O_EXCL ensures that the file is new, so closing it can't drop any lock.
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil // Another process has created the file first.
		}
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if info.Size() == 0 && create {
			return os.Chmod(path, 0o600)
		}
		log.Warn("other users of this machine may read the database file; restrict it to its owner: chmod 600", "path", path, "mode", info.Mode().Perm().String())
	}
	return nil
}

// openFile opens the database at path, which must be absolute, and migrates its schema. If create is
// false, a missing or empty file is an error.
func openFile(ctx context.Context, path string, create bool, busy time.Duration, log *slog.Logger) (_ *file, err error) {
	if err := prepareFile(path, create, log); err != nil {
		return nil, err
	}
	f := &file{path: path, drained: make(chan struct{}), Conns: sqlstore.Conns{Stop: make(chan struct{})}}
	defer func() {
		if err != nil {
			f.close()
		}
	}()

	common := func(extra ...string) url.Values {
		v := url.Values{
			"_busy_timeout": {fmt.Sprint(busy.Milliseconds())},
			"_foreign_keys": {"1"},
			"_dqs":          {"0"},
			"_error_rc":     {"1"},
		}
		for i := 0; i < len(extra); i += 2 {
			v.Add(extra[i], extra[i+1])
		}
		return v
	}
	// With mode=rw SQLite does not create a new, empty database if the file no longer exists.
	if f.write, err = sql.Open(driverName, dsn(path, common("mode", "rw",
		"_journal_mode", "WAL", "_synchronous", "FULL", "_txlock", "immediate",
		"_pragma", fmt.Sprintf("journal_size_limit(%d)", journalLimit), "_pragma", "secure_delete(1)"))); err != nil {
		return nil, err
	}
	f.write.SetMaxOpenConns(1)

	// SQLite does not wait for its lock while it changes an empty database to WAL mode. So the loop waits
	// while another process changes the same database.
	var applied int
	for deadline := time.Now().Add(busy); ; {
		applied, err = sqlstore.Migrate(ctx, f.write, Dialect, create)
		if primary(err) != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	if applied > 0 {
		log.Info("the schema of the database was migrated", "path", path, "migrations", applied)
	}

	if f.Read, err = sql.Open(driverName, dsn(path, common("mode", "ro",
		"_pragma", fmt.Sprintf("cache_size(-%d)", readerCacheKiB)))); err != nil {
		return nil, err
	}
	f.Read.SetMaxOpenConns(readers)
	f.Read.SetMaxIdleConns(readers)
	if err = f.Prepare(ctx, true); err != nil {
		return nil, err
	}

	if f.watch, err = sql.Open(driverName, dsn(path, common("mode", "ro"))); err != nil {
		return nil, err
	}
	f.watch.SetMaxOpenConns(1)
	if f.watchConn, err = f.watch.Conn(ctx); err != nil {
		return nil, err
	}

	if f.checkpoint, err = sql.Open(driverName, dsn(path, url.Values{
		"mode": {"rw"}, "_synchronous": {"FULL"}, "_busy_timeout": {fmt.Sprint(logBusy.Milliseconds())},
	})); err != nil {
		return nil, err
	}
	f.checkpoint.SetMaxOpenConns(1)

	if f.main, err = os.Stat(path); err != nil {
		return nil, err
	}
	if f.wal, err = os.Stat(path + "-wal"); err != nil {
		return nil, err
	}
	return f, nil
}

// inPlace returns nil if the paths of the database still lead to the open files. SQLite would continue
// to use files that were removed or renamed, and its commits would be lost. inPlace makes two system
// calls.
func (f *file) inPlace() error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errRemoved
	case err != nil:
		return err
	case !os.SameFile(info, f.main):
		return errReplaced
	}
	if info, err = os.Stat(f.path + "-wal"); err != nil || !os.SameFile(info, f.wal) {
		// The write-ahead log was removed. Closing the database writes the log's content to the database.
		return errReplaced
	}
	return nil
}

// close closes all connections. It closes the writing connection last, because only that connection
// may move the write-ahead log into the database.
func (f *file) close() {
	if f.watchConn != nil {
		f.watchConn.Close()
	}
	for _, db := range []*sql.DB{f.watch, f.checkpoint, f.Read, f.write} {
		if db != nil {
			db.Close()
		}
	}
}

// discardLog renames the write-ahead log and removes the shared memory of a database that was replaced.
// The connections must be closed before. Otherwise SQLite would apply the former database's last
// transactions to the new one. discardLog leaves a log that came with the new database.
func (f *file) discardLog(log *slog.Logger) {
	info, err := os.Stat(f.path)
	if err != nil || f.main == nil || os.SameFile(info, f.main) {
		return
	}
	info, err = os.Stat(f.path + "-wal")
	if err != nil || f.wal == nil || !os.SameFile(info, f.wal) {
		return
	}
	aside := f.path + "-wal.replaced"
	if err := os.Rename(f.path+"-wal", aside); err != nil {
		log.Error("the write-ahead log of the replaced database could not be renamed: remove it while the gateway is stopped, or SQLite applies it to the new database", "log", f.path+"-wal", "error", err)
		return
	}
	os.Remove(f.path + "-shm")
	log.Warn("the database file was replaced: the write-ahead log of the replaced file was renamed and not applied", "path", f.path, "log", aside)
}

// Remove removes the files of a database that is not open. It returns the first error. A missing file
// is no error.
func Remove(path string) error {
	var first error
	for _, ext := range []string{"-wal", "-shm", "-journal", ""} {
		if err := os.Remove(path + ext); err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = err
		}
	}
	return first
}

// OpenDB opens the file at path, which must be absolute. params are parameters of SQLite and of the
// driver.
func OpenDB(path string, params url.Values) (*sql.DB, error) {
	return sql.Open(driverName, dsn(path, params))
}
