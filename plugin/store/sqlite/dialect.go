package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// Dialect describes the SQL of SQLite for package sqlstore.
var Dialect = &sqlstore.Dialect{
	Name: "sqlite",
	Types: strings.NewReplacer(
		"$SERIAL", "INTEGER PRIMARY KEY",
		"$BYTES", "BLOB",
		// WITHOUT ROWID makes SQLite store the rows in the tree of the primary key.
		"$COMPACT", "WITHOUT ROWID",
	),
	Tables:   `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`,
	Foreign:  "name another file",
	Prepares: true,
	Snapshot: sql.TxOptions{ReadOnly: true},
	Remedy:   remedy,
}

var (
	errRemoved  = errors.New("the database file is gone")
	errReplaced = errors.New("the database file was replaced by another")
)

// explain returns a driver's error with its meaning and how to solve the problem.
func explain(doing, path string, err error) error { return Dialect.Explain(doing, path, err) }

// remedy explains an SQLite error of the database at path and how to solve the problem. It returns ""
// for errors of other kinds.
func remedy(path string, err error) string {
	switch {
	case errors.Is(err, errRemoved):
		return fmt.Sprintf("%s is gone: put it back, or restore a backup there; nothing is written until then", path)
	case errors.Is(err, errReplaced):
		return path
	}
	switch primary(err) {
	case sqlite3.SQLITE_FULL:
		return fmt.Sprintf("the disk that holds %s is full, or its quota is used up: free some space", path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return fmt.Sprintf("%s is locked by another process: end the process that holds the lock (find it with fuser %s)", path, path)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Sprintf("%s is damaged: restore a backup by moving it to that name; it is used without a restart", path)
	case sqlite3.SQLITE_IOERR:
		return fmt.Sprintf("%s could not be read or written: check the disk and the system log", path)
	case sqlite3.SQLITE_CANTOPEN:
		return fmt.Sprintf("%s could not be opened: the file and its directory must exist, and this user must be allowed to write both", path)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return fmt.Sprintf("%s is read-only: this user must be allowed to write the file and its directory, and the disk must be mounted for writing", path)
	case sqlite3.SQLITE_NOMEM:
		return "out of memory"
	}
	return ""
}

// primary returns the primary result code of an SQLite error, or 0 for an error of another kind.
// https://www.sqlite.org/rescode.html
func primary(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// reopens reports whether new connections may solve the error err. SQLite does not recover by itself
// after a damaged file was restored, a file was replaced, or a disk was unmounted, because its
// connections keep cached pages and open files.
func reopens(err error) bool {
	if errors.Is(err, errReplaced) {
		return true
	}
	switch primary(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL:
		return true
	case sqlite3.SQLITE_ERROR:
		// All SQL statements of this program are valid for its schema. If SQLite can't compile a statement, the
		// file was emptied or overwritten.
		return true
	}
	return false
}

// Damaged reports whether err means that the file is missing or has wrong content. Damaged returns false
// for errors that may pass by themselves, such as a lock.
func Damaged(err error) bool {
	if errors.Is(err, errRemoved) || errors.Is(err, errReplaced) {
		return true
	}
	switch primary(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH:
		return true
	}
	return false
}
