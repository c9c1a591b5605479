package sqlstore

import (
	"database/sql"
	"strings"
)

// Dialect describes how one database differs from the others. All other SQL of this package works in
// SQLite and PostgreSQL: $1 placeholders, ON CONFLICT, RETURNING, partial indexes, row values, and
// integers for times and flags.
type Dialect struct {
	// Name is the suffix in the file names of migrations that only this database runs:
	// NNNN_topic.name.sql.
	Name string
	// Types replaces the placeholders of column types in migrations, such as $SERIAL, by the database's
	// own types.
	Types *strings.Replacer
	// LockRow is the end of a SELECT that locks the row until the transaction ends. LockRow is empty for a
	// database in which only one transaction writes at a time.
	LockRow string
	// Tables is a query that counts the tables of the schema. It distinguishes an empty database from
	// another program's database. A caller may append a condition on the column name with AND.
	Tables string
	// Foreign is the advice for an operator who named another program's database.
	Foreign string
	// LockSchema is a statement that keeps other processes from migrating until the transaction ends.
	// LockSchema is empty for a database in which only one transaction writes at a time.
	LockSchema string
	// Script holds the arguments that make the driver accept several statements in one call.
	Script []any
	// Prepares reports whether a transaction prepares its statements. A PostgreSQL transaction must not
	// prepare them, because a pooler may give each transaction another connection of the server.
	Prepares bool
	// Shared reports whether several nodes use the database. In a shared database, all times of last use
	// are written together, in one order of rows, to avoid deadlocks. A changed secret appends a change
	// to the change sequence, so that the nodes update their copies.
	Shared bool
	// AppendChange is a statement that appends to the change sequence and returns the new number; see
	// Tx.Change. AppendChange is empty for a database that needs two statements.
	AppendChange string
	// Snapshot holds the options of a transaction that sees the database as of one moment.
	Snapshot sql.TxOptions
	// Update holds the options of a transaction that writes. They state what the database's own defaults could
	// change, such as the isolation level.
	Update sql.TxOptions
	// Remedy returns what a driver's error means for the database at path, and how to solve the problem. It
	// returns "" for an error that it does not know.
	Remedy func(path string, err error) string
	// BadText reports whether err means that the database can't store a text. Then no row can have the
	// text as its name, so a look-up of the text finds nothing.
	BadText func(err error) bool
}
