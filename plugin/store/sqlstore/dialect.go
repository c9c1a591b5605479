package sqlstore

import "strings"

// dialect is all in which databases differ. The SQL elsewhere in this package keeps to
// what SQLite and PostgreSQL both know: $1 placeholders, ON CONFLICT, RETURNING,
// partial indexes, row values; integers for times and flags.
type dialect struct {
	// name ends migrations that are for this database alone: NNNN_what.name.sql.
	name string
	// types writes the column types of migrations out.
	types *strings.Replacer
	// lockRow ends a SELECT whose row others must not lock until the transaction ends.
	// Empty where a transaction that writes is alone anyway.
	lockRow string
	// tables counts the tables of the schema, to tell an empty database from a foreign one.
	tables string
}

var sqliteDialect = &dialect{
	name: "sqlite",
	types: strings.NewReplacer(
		"$SERIAL", "INTEGER PRIMARY KEY",
		"$BYTES", "BLOB",
		// Rows live in the primary key's tree instead of beside it.
		"$COMPACT", "WITHOUT ROWID",
	),
	tables: `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`,
}
