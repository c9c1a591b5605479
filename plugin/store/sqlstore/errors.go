package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

var (
	errClosed   = errors.New("the store was closed")
	errRemoved  = errors.New("the database file is gone")
	errReplaced = errors.New("the database file was replaced by another")
	errRetired  = errors.New("the database was opened anew meanwhile; ask again")
)

// failure is why the store could not answer. It is gateway.ErrStore and its cause.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() []error { return []error{gateway.ErrStore, f.cause} }

// explain returns err as a failure whose text says what was being done, to which
// database, what went wrong and what the operator can do about it. Failures, and
// answers that are none, are returned as they are.
func explain(doing, path string, err error) error {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f), errors.Is(err, gateway.ErrNotFound):
		return err
	case errors.Is(err, sql.ErrNoRows), code(err) == codeBadText: // nothing is called that
		return gateway.ErrNotFound
	}
	return &failure{
		text:  fmt.Sprintf("%v: %s: %s (%v)", gateway.ErrStore, doing, remedy(path, err), err),
		cause: err,
	}
}

// remedy says in words what err means for the database at path, and what helps.
func remedy(path string, err error) string {
	var schema *schemaError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s did not answer in time; it may be busy or locked by another process", path)
	case errors.Is(err, context.Canceled):
		return "given up by the caller"
	case errors.Is(err, errClosed):
		return path
	case errors.Is(err, errRemoved):
		return fmt.Sprintf("%s is gone: put it back, or restore a backup there; nothing is written until then", path)
	case errors.Is(err, errReplaced), errors.Is(err, errRetired):
		return path
	case errors.As(err, &schema):
		return fmt.Sprintf("%s cannot be used", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("%s: this user may not read and write it and its directory", path)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("%s: its directory does not exist: create it", path)
	}
	if text := remedyPostgres(path, err); text != "" {
		return text
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
	return path
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

// reopens says whether err may be due to the connections rather than the file as it is
// now: pages cached from a damaged file that was since restored, a file that was
// replaced, a disk that was away. SQLite does not get over these by itself.
func reopens(err error) bool {
	if errors.Is(err, errReplaced) {
		return true
	}
	switch primary(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL:
		return true
	case sqlite3.SQLITE_ERROR:
		// All SQL here is right for the schema, so a statement that cannot be compiled
		// met another schema: the file was emptied or overwritten.
		return true
	}
	return false
}
