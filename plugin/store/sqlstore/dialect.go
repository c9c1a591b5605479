package sqlstore

import (
	"database/sql"
	"strings"
)

// Dialect is everything in which databases differ. The SQL elsewhere in this package keeps to
// the common part of SQLite and PostgreSQL: $1 placeholders, ON CONFLICT, RETURNING,
// partial indexes, row values; integers for times and flags.
type Dialect struct {
	// Name ends the names of migrations that are for this database alone: NNNN_topic.name.sql.
	Name string
	// Types writes out the column types of migrations.
	Types *strings.Replacer
	// LockRow ends a SELECT whose row must not be locked by others until the transaction ends.
	// Empty where only one transaction writes at a time.
	LockRow string
	// Tables counts the tables of the schema, to distinguish an empty database from a foreign one.
	// A condition on their name may follow.
	Tables string
	// Foreign names the remedy for a database that belongs to another program.
	Foreign string
	// LockSchema keeps others from migrating until the transaction ends. Empty where only one
	// transaction writes at a time.
	LockSchema string
	// Script are the arguments by which the driver takes several statements at once.
	Script []any
	// Prepares reports whether statements are prepared before they run. They are not where
	// each transaction may use another connection of the server.
	Prepares bool
	// Shared reports whether several nodes use the database. Then touches are written together
	// and in one order of rows, and a changed secret gets a change for the nodes' copies.
	Shared bool
	// AppendChange appends to the change sequence and returns the new number; see Tx.Change. Empty
	// where it takes two statements.
	AppendChange string
	// Snapshot are the options of a transaction that sees one moment.
	Snapshot sql.TxOptions
	// Remedy returns the meaning of a driver's error for the database at path, and the remedy; "" for
	// errors it does not know.
	Remedy func(path string, err error) string
	// BadText reports whether err means that a text can't be stored, so that nothing has that name.
	BadText func(err error) bool
}
