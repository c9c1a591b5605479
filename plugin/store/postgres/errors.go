package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// The constants are the error codes of PostgreSQL that this package distinguishes.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeBadText          = "22021"
	codeReadOnly         = "25006"
	codeSerialization    = "40001"
	codeDeadlock         = "40P01"
	codeLockTimeout      = "55P03"
	codeNoDatabase       = "3D000"
	codeNoPrivilege      = "42501"
	codeNoTable          = "42P01"
	codeNoSchema         = "3F000"
	codeStatementTimeout = "57014"
	codeDiskFull         = "53100"
	codeOutOfMemory      = "53200"
	codeTooManyConns     = "53300"
	codeAdminShutdown    = "57P01"
	codeCrashShutdown    = "57P02"
	codeCannotConnectNow = "57P03"
	codeDatabaseDropped  = "57P04"
	codeIdleSession      = "57P05"
	codeIdleInTx         = "25P03"
	codeTxTimeout        = "25P04"
	codeProtocol         = "08P01"
	classConnection      = "08"
	classAuthorization   = "28"
)

// code returns the PostgreSQL error code of err, or "" for an error that the server did not send.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// unauthorized reports whether the server rejected the user or the password. PgBouncer has no error
// code for a rejected user, so unauthorized compares the message.
func unauthorized(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) &&
		(strings.HasPrefix(e.Code, classAuthorization) || e.Code == codeProtocol && strings.Contains(e.Message, "authentication failed"))
}

// connectionLost reports whether err means that the connection is lost, or that its server can't be
// used any more. Another connection may then work.
func connectionLost(err error) bool {
	switch c := code(err); {
	case unauthorized(err):
		return false
	case c == codeReadOnly, c == codeAdminShutdown, c == codeCrashShutdown, c == codeCannotConnectNow, c == codeIdleInTx, c == codeIdleSession, c == codeTxTimeout,
		strings.HasPrefix(c, classConnection):
		return true
	case c != "", errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, sql.ErrNoRows), errors.Is(err, sql.ErrConnDone), errors.Is(err, sqlstore.ErrClosed):
		return false
	}
	var schema *sqlstore.SchemaError
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &schema), errors.As(err, &connect):
		return false
	case errors.Is(err, driver.ErrBadConn), pgconn.SafeToRetry(err):
		return true
	}
	return connectionBroken(err)
}

// connectionBroken reports whether the text of err means that the connection broke.
func connectionBroken(err error) bool {
	text := err.Error()
	for _, s := range []string{"unexpected EOF", "conn closed", "connection reset", "broken pipe", "use of closed network connection", "closed the connection"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// conflicted reports whether the server aborted the transaction because of a conflict with another
// transaction.
func conflicted(err error) bool {
	c := code(err)
	return c == codeSerialization || c == codeDeadlock
}

// remedy explains a PostgreSQL error and how to solve the problem. It returns "" for errors of other
// kinds.
func remedy(path string, err error) string {
	c := code(err)
	switch {
	case c == codeReadOnly, errors.Is(err, pgconn.ErrReadOnlyConnection):
		return fmt.Sprintf("%s cannot be written: it is a standby, or default_transaction_read_only is on; name the primary, or switch the setting off", path)
	case conflicted(err):
		return fmt.Sprintf("%s: other transactions conflicted with this one %d times: try again, and look at pg_stat_activity if this continues", path, attempts)
	case c == codeStatementTimeout:
		return fmt.Sprintf("%s ended the statement: the statement_timeout of the user or the database is too short (set it to 30s or more), or an administrator cancelled the statement", path)
	case c == codeNoTable:
		return fmt.Sprintf("%s: Keygate's tables are not in the schemas that the user's search_path names: correct the search_path, or name the schema in the address (search_path=…)", path)
	case c == codeNoSchema:
		return fmt.Sprintf("%s: the user's search_path names no schema that exists: create the schema, or name another in the address (search_path=…)", path)
	case c == codeOutOfMemory:
		return fmt.Sprintf("the server of %s is out of memory: give it more, or lower max_connections and work_mem", path)
	case c == codeLockTimeout:
		return fmt.Sprintf("%s: another transaction holds a lock on rows that must be written: try again, and look at pg_stat_activity if this continues", path)
	case c == codeNoDatabase, c == codeDatabaseDropped:
		return fmt.Sprintf("%s: there is no such database: create it (createdb)", path)
	case c == codeNoPrivilege:
		return fmt.Sprintf("%s: the user lacks a privilege: it must own Keygate's tables or have been granted SELECT, INSERT, UPDATE and DELETE on them; a new version also needs CREATE on the schema", path)
	case c == codeDiskFull:
		return fmt.Sprintf("the disk of %s is full: free some space", path)
	case c == codeTooManyConns:
		return fmt.Sprintf("%s accepts no more connections: raise max_connections, or the CONNECTION LIMIT of the user or the database, or put PgBouncer in front of it", path)
	case c == codeCannotConnectNow, c == codeAdminShutdown, c == codeCrashShutdown:
		return fmt.Sprintf("%s is starting or stopping", path)
	case unauthorized(err):
		return fmt.Sprintf("%s rejects the user or the password", path)
	}
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, errNoAnswer):
		return fmt.Sprintf("%s did not answer in time, or all connections to it were in use: look at pg_stat_activity", path)
	case errors.As(err, &connect):
		return fmt.Sprintf("%s cannot be reached: check that the server runs, and the network and firewalls in between", path)
	case c == "" && connectionBroken(err) && strings.HasPrefix(path, "postgres://"):
		return fmt.Sprintf("the connection to %s broke", path)
	}
	return ""
}
