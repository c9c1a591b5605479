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
	// readers is how many reads run at once. More only help where reads wait for the
	// disk; each has a page cache of its own.
	readers = 6
	// readerCacheKiB holds the upper levels of the indexes of a million keys; those of more are read from the
	// system's cache, which takes a microsecond or two a page.
	readerCacheKiB = 2 << 10
	// journalLimit is what the write-ahead log is cut back to after having grown larger.
	journalLimit = 64 << 20
)

// file is one opening of the database: its connections, and the identity of the files
// they were opened on.
//
// No code here opens the database file or its -wal and -shm itself while a file may
// be open on it: closing any descriptor of a file drops the POSIX locks that the whole
// process holds on it, SQLite's among them (https://www.sqlite.org/howtocorrupt.html, 2.2).
type file struct {
	path string
	sqlstore.Conns
	// write has a single connection, so that writers queue in Go, within their
	// contexts, instead of polling SQLite's lock.
	write *sql.DB
	// watch has a single connection that stays the same: what PRAGMA data_version
	// returns means something only in comparison on one connection.
	watch     *sql.DB
	watchConn *sql.Conn

	main, wal os.FileInfo

	// Guarded by database.mu.
	users   int
	retired bool
	// drained is closed when the file is retired and has no users.
	drained chan struct{}
}

// dsn returns the URI of the database. path is absolute. The parameters that begin with
// an underscore are the driver's, the others SQLite's.
func dsn(path string, params url.Values) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a drive letter
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + params.Encode()
}

// prepareFile ensures that there is a database file that only its owner reads. SQLite
// gives -wal and -shm the mode of the database.
func prepareFile(path string, create bool, log *slog.Logger) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			return errRemoved
		}
		// Exclusively: a file that did not exist has no locks which closing it could drop.
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil // another process was faster
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
		log.Warn("others may read the database; make it its owner's alone: chmod 600", "path", path, "mode", info.Mode().Perm().String())
	}
	return nil
}

// openFile opens the database at path, which is absolute, and migrates it. Where create
// is false, a missing or empty file is an error.
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
	// mode=rw: SQLite must not make a new, empty database where ours is gone.
	if f.write, err = sql.Open(driverName, dsn(path, common("mode", "rw",
		"_journal_mode", "WAL", "_synchronous", "FULL", "_txlock", "immediate",
		"_pragma", fmt.Sprintf("journal_size_limit(%d)", journalLimit)))); err != nil {
		return nil, err
	}
	f.write.SetMaxOpenConns(1)

	// Changing an empty database to WAL does not wait for other processes that do the
	// same, so this does.
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
		log.Info("database migrated", "path", path, "migrations", applied)
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

	if f.main, err = os.Stat(path); err != nil {
		return nil, err
	}
	if f.wal, err = os.Stat(path + "-wal"); err != nil {
		return nil, err
	}
	return f, nil
}

// inPlace returns nil where the names still lead to the open files. SQLite continues
// to read and write files that were removed or renamed, and its commits are then
// lost. It costs two system calls.
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
		// The write-ahead log was removed. Closing writes its content to the database.
		return errReplaced
	}
	return nil
}

// close closes the connections, the writing one last: it is the one that may move the
// write-ahead log into the database.
func (f *file) close() {
	if f.watchConn != nil {
		f.watchConn.Close()
	}
	for _, db := range []*sql.DB{f.watch, f.Read, f.write} {
		if db != nil {
			db.Close()
		}
	}
}

// discardLog removes the write-ahead log and the shared memory of a database that was
// replaced, after its connections were closed: SQLite would else add the old
// database's last transactions to the new one. Files that came with the new database,
// being others than the ones that were open, stay.
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
		log.Error("the replaced database's write-ahead log could not be set aside", "error", err)
		return
	}
	os.Remove(f.path + "-shm")
	log.Warn("the database was replaced; the write-ahead log of the former one was set aside", "path", f.path, "log", aside)
}

// Remove removes the files of a database that is not open.
func Remove(path string) error {
	var first error
	for _, ext := range []string{"-wal", "-shm", "-journal", ""} {
		if err := os.Remove(path + ext); err != nil && !errors.Is(err, fs.ErrNotExist) && first == nil {
			first = err
		}
	}
	return first
}

// OpenDB opens connections to the file at path, which is absolute, with parameters of SQLite and of the driver.
func OpenDB(path string, params url.Values) (*sql.DB, error) {
	return sql.Open(driverName, dsn(path, params))
}
