package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store"
)

var _ store.Tx = (*Tx)(nil)

// Tx is one transaction. After the first failure of the database its methods do nothing more, because
// databases react differently. SQLite ends a transaction by itself if the disk is full, and would then
// commit each later statement on its own. PostgreSQL rejects later statements.
type Tx struct {
	// SQL is the driver's transaction.
	SQL *sql.Tx
	// Now is the time of the transaction. If nodes share the database, Now is the time by the database's
	// clock.
	Now time.Time

	ctx  context.Context
	d    *Dialect
	path string
	// lockRow is the dialect's LockRow, or empty in a transaction that only reads.
	lockRow string
	// addressRows is a copy of Store.AddressRows.
	addressRows int
	// stmts are the statements prepared in this transaction. It is used only if the dialect prepares
	// statements.
	stmts map[string]*sql.Stmt
	// seq is the number of the newest change made in this transaction.
	seq int64
	// erased reports whether the transaction erased data that no file may keep.
	erased bool
	// broken is the first failure of the database in this transaction.
	broken error
}

// NewTx wraps a driver's transaction in a Tx, for a database that has no Store.
func NewTx(ctx context.Context, t *sql.Tx, d *Dialect, path string) *Tx {
	return &Tx{SQL: t, Now: time.Now(), ctx: ctx, d: d, path: path, lockRow: d.LockRow, stmts: make(map[string]*sql.Stmt)}
}

// Begin begins a transaction on a connection of pool.
func (s *Store) Begin(ctx context.Context, pool *sql.DB, opts *sql.TxOptions) (*Tx, error) {
	in, err := pool.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	t := NewTx(ctx, in, s.d, s.Identity())
	t.Now, t.addressRows = s.Now(), s.AddressRows
	if opts != nil && opts.ReadOnly {
		t.lockRow = ""
	}
	return t, nil
}

// BeginSnapshot begins a read-only transaction that sees the database as of one moment.
func (s *Store) BeginSnapshot(ctx context.Context, pool *sql.DB) (*Tx, error) {
	return s.Begin(ctx, pool, &s.d.Snapshot)
}

// Seq returns the number of the newest change made in the transaction, or 0 if there is none.
func (t *Tx) Seq() int64 { return t.seq }

// Erased reports whether the transaction erased data that no file may keep.
func (t *Tx) Erased() bool { return t.erased }

// Broken returns the first failure of the database in the transaction.
func (t *Tx) Broken() error { return t.broken }

// Fail returns the error of a method whose statement failed with err. If the query found no row, the
// result is gateway.ErrNotFound. Otherwise it is the first failure of the transaction. If err is nil,
// the result is nil.
func (t *Tx) Fail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return gateway.ErrNotFound
	case t.broken == nil:
		if ended := t.ctx.Err(); ended != nil {
			// The statement only failed because its context had ended, and database/sql has rolled back.
			err = ended
		}
		t.broken = err
	}
	return t.d.Explain("working in a transaction", t.path, t.broken)
}

func (t *Tx) stmt(query string) (*sql.Stmt, error) {
	if t.broken != nil {
		return nil, t.broken
	}
	if s := t.stmts[query]; s != nil {
		return s, nil
	}
	s, err := t.SQL.PrepareContext(t.ctx, query)
	if err == nil {
		t.stmts[query] = s
	}
	return s, err
}

// Exec runs a statement and returns how many rows it changed.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	res, err := t.execute(query, args)
	if err != nil {
		return 0, t.Fail(err)
	}
	n, err := res.RowsAffected()
	return n, t.Fail(err)
}

func (t *Tx) execute(query string, args []any) (sql.Result, error) {
	if !t.d.Prepares {
		if t.broken != nil {
			return nil, t.broken
		}
		return t.SQL.ExecContext(t.ctx, query, storable(args)...)
	}
	s, err := t.stmt(query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(t.ctx, args...)
}

// Row scans the only row of a query. It returns gateway.ErrNotFound if there is no row.
func (t *Tx) Row(query string, args []any, dest ...any) error {
	if !t.d.Prepares {
		if t.broken != nil {
			return t.Fail(t.broken)
		}
		return t.Fail(t.SQL.QueryRowContext(t.ctx, query, storable(args)...).Scan(dest...))
	}
	s, err := t.stmt(query)
	if err != nil {
		return t.Fail(err)
	}
	return t.Fail(s.QueryRowContext(t.ctx, args...).Scan(dest...))
}

// Rows calls f for every row of a query.
func (t *Tx) Rows(query string, args []any, f func(*sql.Rows) error) error {
	if !t.d.Prepares {
		if t.broken != nil {
			return t.Fail(t.broken)
		}
		rows, err := t.SQL.QueryContext(t.ctx, query, storable(args)...)
		return t.Fail(Each(rows, err, f))
	}
	s, err := t.stmt(query)
	if err != nil {
		return t.Fail(err)
	}
	rows, err := s.QueryContext(t.ctx, args...)
	return t.Fail(Each(rows, err, f))
}

// next increments a sequence and returns the new number. The sequence's row stays locked until the
// transaction ends.
func (t *Tx) next(sequence string) (n int64, err error) {
	err = t.Row(`UPDATE sequences SET value = value + 1 WHERE name = $1 RETURNING value`, []any{sequence}, &n)
	return n, err
}

// Change implements management.Tx.
func (t *Tx) Change(kind gateway.ChangeKind, keyspace, id string) (int64, error) {
	if t.d.AppendChange != "" {
		var seq int64
		err := t.Row(t.d.AppendChange, []any{string(kind), keyspace, id, t.Now.UnixMicro()}, &seq)
		if err == nil {
			t.seq = seq
		}
		return seq, err
	}
	seq, err := t.next("changes")
	if err != nil {
		return 0, err
	}
	if _, err := t.Exec(`INSERT INTO changes (seq, kind, keyspace, id, at) VALUES ($1, $2, $3, $4, $5)`,
		seq, string(kind), keyspace, id, t.Now.UnixMicro()); err != nil {
		return 0, err
	}
	t.seq = seq
	return seq, nil
}

// Changes implements management.Tx.
func (t *Tx) Changes(list []gateway.Change) (err error) {
	if t.d.AppendChange != "" || len(list) < 2 {
		for i := range list {
			c := &list[i]
			if c.Seq, err = t.Change(c.Kind, c.Keyspace, c.ID); err != nil {
				return err
			}
		}
		return nil
	}
	var last int64
	if err := t.Row(`UPDATE sequences SET value = value + $2 WHERE name = $1 RETURNING value`, []any{"changes", int64(len(list))}, &last); err != nil {
		return err
	}
	for i := range list {
		list[i].Seq = last - int64(len(list)-1-i)
	}
	for some := range slices.Chunk(list, manyAtOnce) {
		var w where
		for i, c := range some {
			if i > 0 {
				w.text += ", "
			}
			w.text += "(" + w.arg(c.Seq) + ", " + w.arg(string(c.Kind)) + ", " + w.arg(c.Keyspace) + ", " + w.arg(c.ID) + ", " + w.arg(t.Now.UnixMicro()) + ")"
		}
		if _, err := t.Exec(`INSERT INTO changes (seq, kind, keyspace, id, at) VALUES `+w.text, w.args...); err != nil {
			return err
		}
	}
	t.seq = last
	return nil
}

// manyAtOnce limits how many rows one statement reads or writes.
const manyAtOnce = 100

// where builds the WHERE and LIMIT clauses of a query, with their arguments.
type where struct {
	text string
	args []any
}

// arg adds an argument and returns its placeholder.
func (w *where) arg(v any) string {
	w.args = append(w.args, v)
	return fmt.Sprintf("$%d", len(w.args))
}

// list adds n arguments and returns their placeholders.
func (w *where) list(n int, v func(int) any) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(w.arg(v(i)))
	}
	return b.String()
}

func (w *where) and(condition string) {
	if w.text == "" {
		w.text = " WHERE " + condition
		return
	}
	w.text += " AND " + condition
}

// limit returns the LIMIT clause of a query, or "" if n is 0 or less.
func (w *where) limit(n int) string {
	if n <= 0 {
		return ""
	}
	return " LIMIT " + w.arg(int64(n))
}
