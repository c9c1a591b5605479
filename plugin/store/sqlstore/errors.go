package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// ErrClosed is the error of calls on a store that was closed.
var ErrClosed = errors.New("the store was closed")

// errReopened ends a long read whose database connections were replaced while it ran.
var errReopened = errors.New("the database was opened again meanwhile; repeat the request")

// failure is an error of the database with an explanation. A failure wraps gateway.ErrStore and the
// cause.
type failure struct {
	text string
	// remedy is the problem and how to solve it, without the driver's error.
	remedy string
	cause  error
}

func (f *failure) Error() string { return f.text }

// Remedy returns the problem and how to solve it, in one line without the driver's error.
func (f *failure) Remedy() string { return f.remedy }

func (f *failure) Unwrap() []error { return []error{gateway.ErrStore, f.cause} }

// Explain returns err as a failure. Its text names the operation, the database, the problem and the
// remedy. Explain returns an err that is a failure or gateway.ErrNotFound unchanged.
func (d *Dialect) Explain(doing, path string, err error) error {
	var f *failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f), errors.Is(err, gateway.ErrNotFound):
		return err
	case errors.Is(err, sql.ErrNoRows), d.BadText != nil && d.BadText(err):
		return gateway.ErrNotFound
	}
	remedy := d.remedy(path, err)
	return &failure{
		text:   fmt.Sprintf("%v: %s: %s (%v)", gateway.ErrStore, doing, remedy, err),
		remedy: remedy,
		cause:  err,
	}
}

// remedy returns an explanation of err for the database at path, and how to solve the problem.
func (d *Dialect) remedy(path string, err error) string {
	var schema *SchemaError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s did not answer in time; it may be busy or locked by another process", path)
	case errors.Is(err, context.Canceled):
		return "the caller cancelled the request"
	case errors.Is(err, ErrClosed), errors.Is(err, errReopened):
		return path
	case errors.As(err, &schema):
		return fmt.Sprintf("%s cannot be used", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("%s: this user must be allowed to read and write the file and its directory", path)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("%s: the directory of this file does not exist: create it", path)
	}
	if text := d.Remedy(path, err); text != "" {
		return text
	}
	return path
}
