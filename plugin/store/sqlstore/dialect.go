package sqlstore

import (
	"database/sql"
	"strings"
)

// Dialect describes the differences between databases. All other SQL of this package keeps to the
// common part of SQLite and PostgreSQL: $1 placeholders, ON CONFLICT, RETURNING, partial indexes,
// row values, and integers for times and flags.
type Dialect struct {
	// Name is the suffix of migrations that only this database runs: NNNN_topic.name.sql.
	Name string
	// Types replaces the placeholders of column types in migrations, such as $SERIAL.
	Types *strings.Replacer
	// LockRow ends a SELECT that locks the row until the transaction ends. Empty where only one
	// transaction writes at a time.
	LockRow string
	// Tables is a query that counts the tables of the schema, to distinguish an empty database
	// from another program's. A condition on the column name may be appended with AND.
	Tables string
	// Foreign is the advice for an operator who named another program's database.
	Foreign string
	// LockSchema is a statement that keeps other processes from migrating until the transaction
	// ends. Empty where only one transaction writes at a time.
	LockSchema string
	// Script holds the arguments that make the driver accept several statements in one call.
	Script []any
	// Prepares reports whether a transaction prepares its statements. PostgreSQL's must not: a
	// pooler may give each transaction another connection of the server.
	Prepares bool
	// Shared reports whether several nodes use the database. Then all times of last use are
	// written together, in one order of rows, to avoid deadlocks. And a changed secret appends a
	// change, so that the nodes update their copies.
	Shared bool
	// AppendChange is a statement that appends to the change sequence and returns the new number;
	// see Tx.Change. Empty for a database that needs two statements.
	AppendChange string
	// Snapshot holds the options of a transaction that sees the database as of one moment.
	Snapshot sql.TxOptions
	// Remedy returns the meaning of a driver's error for the database at path, and the remedy; "" for
	// errors it does not know.
	Remedy func(path string, err error) string
	// BadText reports whether err means that the database can't store a text. Then no row can have
	// that name, and the look-up finds nothing.
	BadText func(err error) bool
}
