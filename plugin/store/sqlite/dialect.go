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

// Dialect is SQLite's.
var Dialect = &sqlstore.Dialect{
	Name: "sqlite",
	Types: strings.NewReplacer(
		"$SERIAL", "INTEGER PRIMARY KEY",
		"$BYTES", "BLOB",
		// Rows are stored in the primary key's tree.
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

// explain returns a driver's error with its meaning and remedy.
func explain(doing, path string, err error) error { return Dialect.Explain(doing, path, err) }

// remedy returns the meaning of an SQLite error for the database at path, and the remedy; "" for other errors.
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
		return fmt.Sprintf("%s is locked by another process: end whatever holds it (fuser %s)", path, path)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Sprintf("%s is damaged: restore a backup (a new file moved to that name; it is picked up at once)", path)
	case sqlite3.SQLITE_IOERR:
		return fmt.Sprintf("%s could not be read or written: look at the disk and the system log", path)
	case sqlite3.SQLITE_CANTOPEN:
		return fmt.Sprintf("%s could not be opened: it and its directory must exist, and this user must be allowed to write both", path)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return fmt.Sprintf("%s is read-only: this user must be allowed to write it and its directory, on a disk mounted for writing", path)
	case sqlite3.SQLITE_NOMEM:
		return "out of memory"
	}
	return ""
}

// primary returns the primary result code of an SQLite error, 0 for others.
// https://www.sqlite.org/rescode.html
func primary(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// reopens reports whether err may be due to the connections rather than the file's present
// content: pages cached from a damaged file that was restored since, a file that was
// replaced, a disk that was unmounted. SQLite does not recover from these by itself.
func reopens(err error) bool {
	if errors.Is(err, errReplaced) {
		return true
	}
	switch primary(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL:
		return true
	case sqlite3.SQLITE_ERROR:
		// All SQL here is right for the schema. So a statement that can't be compiled
		// met another schema: the file was emptied or overwritten.
		return true
	}
	return false
}

// Damaged reports whether err is due to the file's content, or to its absence, rather than
// to a passing condition.
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
