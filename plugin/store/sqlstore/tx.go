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
	"github.com/keygate-dev/keygate/plugin/management"
)

var _ management.Tx = (*tx)(nil)

// tx is one transaction. After its first failure nothing more is done in it: SQLite
// ends a transaction by itself where the disk is full, and statements after that
// would each be committed alone; PostgreSQL refuses them.
type tx struct {
	ctx  context.Context
	sql  *sql.Tx
	d    *dialect
	path string
	now  time.Time
	// addressRows is the store's.
	addressRows int
	// stmts are those already prepared in this transaction, where the dialect prepares.
	stmts map[string]*sql.Stmt
	// seq is the newest change made.
	seq int64
	// connectionBroken is the first failure.
	broken error
}

// begin begins a transaction on the pool.
func (s *Store) begin(ctx context.Context, pool *sql.DB, opts *sql.TxOptions) (*tx, error) {
	t, err := pool.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &tx{ctx: ctx, sql: t, d: s.d, path: s.Identity(), now: s.now(), addressRows: s.addressRows, stmts: make(map[string]*sql.Stmt)}, nil
}

// fail turns what a statement returned into what a method returns.
func (t *tx) fail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return gateway.ErrNotFound
	case t.broken == nil:
		if ended := t.ctx.Err(); ended != nil {
			// The rest follows from it: database/sql has rolled back.
			err = ended
		}
		t.broken = err
	}
	return explain("working in a transaction", t.path, t.broken)
}

func (t *tx) stmt(query string) (*sql.Stmt, error) {
	if t.broken != nil {
		return nil, t.broken
	}
	if s := t.stmts[query]; s != nil {
		return s, nil
	}
	s, err := t.sql.PrepareContext(t.ctx, query)
	if err == nil {
		t.stmts[query] = s
	}
	return s, err
}

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	res, err := t.execute(query, args)
	if err != nil {
		return 0, t.fail(err)
	}
	n, err := res.RowsAffected()
	return n, t.fail(err)
}

func (t *tx) execute(query string, args []any) (sql.Result, error) {
	if !t.d.prepares {
		if t.broken != nil {
			return nil, t.broken
		}
		return t.sql.ExecContext(t.ctx, query, storable(args)...)
	}
	s, err := t.stmt(query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(t.ctx, args...)
}

// row scans the only row of a query; ErrNotFound where there is none.
func (t *tx) row(query string, args []any, dest ...any) error {
	if !t.d.prepares {
		if t.broken != nil {
			return t.fail(t.broken)
		}
		return t.fail(t.sql.QueryRowContext(t.ctx, query, storable(args)...).Scan(dest...))
	}
	s, err := t.stmt(query)
	if err != nil {
		return t.fail(err)
	}
	return t.fail(s.QueryRowContext(t.ctx, args...).Scan(dest...))
}

// rows calls f for every row of a query.
func (t *tx) rows(query string, args []any, f func(*sql.Rows) error) error {
	if !t.d.prepares {
		if t.broken != nil {
			return t.fail(t.broken)
		}
		rows, err := t.sql.QueryContext(t.ctx, query, storable(args)...)
		return t.fail(each(rows, err, f))
	}
	s, err := t.stmt(query)
	if err != nil {
		return t.fail(err)
	}
	rows, err := s.QueryContext(t.ctx, args...)
	return t.fail(each(rows, err, f))
}

// next returns the next number of a sequence. Its row is ours until the transaction ends.
func (t *tx) next(sequence string) (n int64, err error) {
	err = t.row(`UPDATE sequences SET value = value + 1 WHERE name = $1 RETURNING value`, []any{sequence}, &n)
	return n, err
}

// Change implements management.Tx.
func (t *tx) Change(kind gateway.ChangeKind, keyspace, id string) (int64, error) {
	if t.d.change != "" {
		var seq int64
		err := t.row(t.d.change, []any{string(kind), keyspace, id, t.now.UnixMicro()}, &seq)
		if err == nil {
			t.seq = seq
		}
		return seq, err
	}
	seq, err := t.next("changes")
	if err != nil {
		return 0, err
	}
	if _, err := t.exec(`INSERT INTO changes (seq, kind, keyspace, id, at) VALUES ($1, $2, $3, $4, $5)`,
		seq, string(kind), keyspace, id, t.now.UnixMicro()); err != nil {
		return 0, err
	}
	t.seq = seq
	return seq, nil
}

// Changes implements management.Tx.
func (t *tx) Changes(list []gateway.Change) (err error) {
	if t.d.change != "" || len(list) < 2 {
		for i := range list {
			c := &list[i]
			if c.Seq, err = t.Change(c.Kind, c.Keyspace, c.ID); err != nil {
				return err
			}
		}
		return nil
	}
	var last int64
	if err := t.row(`UPDATE sequences SET value = value + $2 WHERE name = $1 RETURNING value`, []any{"changes", int64(len(list))}, &last); err != nil {
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
			w.text += "(" + w.arg(c.Seq) + ", " + w.arg(string(c.Kind)) + ", " + w.arg(c.Keyspace) + ", " + w.arg(c.ID) + ", " + w.arg(t.now.UnixMicro()) + ")"
		}
		if _, err := t.exec(`INSERT INTO changes (seq, kind, keyspace, id, at) VALUES `+w.text, w.args...); err != nil {
			return err
		}
	}
	t.seq = last
	return nil
}

// manyAtOnce is how many rows one statement reads or writes, where there are many.
const manyAtOnce = 100

// where builds the conditions of a list.
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

// limit ends the query. A limit of 0 or less is none.
func (w *where) limit(n int) string {
	if n <= 0 {
		return ""
	}
	return " LIMIT " + w.arg(int64(n))
}
