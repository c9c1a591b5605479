// Package replication is the primary's side of replication. It provides positions in the change
// sequence, the changes after a position, the whole content as of one moment, and the states of
// revocations.
//
// A copy holds the rows by which a node checks keys and management tokens. It is an SQLite file with the
// same tables, rows and row numbers as the primary. A node first copies the whole content (CopyOut), and
// then applies the change sequence (Delta).
package replication

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// ErrRewound is returned if the store has gone back to a state before a position: a backup was restored,
// or a standby that lagged behind became the primary.
var ErrRewound = errors.New("the store is an older state of itself, or another store")

// ErrPruned is returned if changes after a position were deleted.
var ErrPruned = errors.New("the changes after this position were deleted")

// Origin identifies a store and its epoch.
type Origin struct {
	// Store is the store's id, or "" if the store has none.
	Store string
	// Epoch rises with each restored backup.
	Epoch int64
}

// Position is a point in a store's change sequence. It holds marks. A later check uses the marks to find
// out whether the store is still at this position or after it.
type Position struct {
	Origin
	// Seq is the number of the newest change that the position includes.
	Seq int64
	// Mark identifies the change numbered Seq, and the newest audit event at the time of that change.
	Mark string
}

// Row is one row of a copied table, in the order of the table's columns. Its values have the driver's
// types: int64, string, []byte or nil.
type Row []any

// Table is a copied table. Its first column is its primary key.
type Table struct {
	Name    string
	Columns []string
}

// The variables are all tables that are copied. A test compares their columns with the schema.
var (
	TenantRows = &Table{"tenants", strings.Fields(`num keyspace slug folded name plan active rate quota concurrency
		metadata created_at updated_at deleted_at version credits`)}
	KeyRows = &Table{"keys", strings.Fields(`num id keyspace tenant_num name description environment scopes disabled
		revoked_at deleted_at expires_at allowed_ips rate quota concurrency credits_limit metadata created_at created_by
		updated_at last_used_at last_used_ip prefix last_four version allowance`)}
	SecretRows = &Table{"secrets", strings.Fields(`num id key_num keyspace digest algorithm prefix last_four created_at
		expires_at last_used_at last_used_ip`)}
	TokenRows = &Table{"tokens", strings.Fields(`num id keyspace name scopes tenant digest algorithm prefix last_four
		created_at created_by created_by_token expires_at last_used_at last_used_ip revoked_at`)}
	// Only the newest change is copied, because it shows how current the copy is.
	ChangeRows = &Table{"changes", strings.Fields(`seq kind keyspace id at`)}
	PepperRows = &Table{"peppers", []string{"id", "check_value"}}
	// The order matters: a table refers only to tables earlier in the list.
	Tables = []*Table{TenantRows, KeyRows, SecretRows, TokenRows, PepperRows, ChangeRows}
)

// Column returns the index of a column. It panics if the table has no such column.
func (c *Table) Column(name string) int {
	for i, n := range c.Columns {
		if n == name {
			return i
		}
	}
	panic("no column " + name + " in " + c.Name)
}

var (
	keyTenantNum = KeyRows.Column("tenant_num")
	keyID        = KeyRows.Column("id")
)

// selectFrom returns a query that selects all columns of the table, without a WHERE clause.
func (c *Table) selectFrom() string {
	return `SELECT c.` + strings.Join(c.Columns, ", c.") + ` FROM ` + c.Name + ` c`
}

// Upsert returns the statement that inserts a row or replaces the existing one.
func (c *Table) Upsert() string {
	var values, set []string
	for i, name := range c.Columns {
		values = append(values, fmt.Sprintf("$%d", i+1))
		if i > 0 {
			set = append(set, name+" = excluded."+name)
		}
	}
	return `INSERT INTO ` + c.Name + ` (` + strings.Join(c.Columns, ", ") + `) VALUES (` + strings.Join(values, ", ") +
		`) ON CONFLICT (` + c.Columns[0] + `) DO UPDATE SET ` + strings.Join(set, ", ")
}

// scan reads the current row of a query that selectFrom returned.
func (c *Table) scan(rows *sql.Rows) (Row, error) {
	row := make(Row, len(c.Columns))
	into := make([]any, len(row))
	for i := range row {
		into[i] = &row[i]
	}
	return row, rows.Scan(into...)
}

// Delta holds the changes after the position From, and the rows that the changes concern. The rows are
// read as of one moment, which is the position To or later.
type Delta struct {
	From, To Position
	Changes  []ChangeAt
	// More reports whether the store may have changes after the position To.
	More bool

	// Tenants, Keys, Secrets, Tokens and Peppers are the present rows that the changes concern. GoneKeys are
	// the ids of keys whose rows no longer exist.
	Tenants, Keys, Secrets, Tokens, Peppers []Row

	GoneKeys []string
}

// ChangeAt is a change and the time at which it was made, in Unix microseconds.
type ChangeAt struct {
	gateway.Change
	At int64
}

// Source gives replicas access to a store's content. NewSource returns one.
type Source struct{ store *sqlstore.Store }

// NewSource returns the source of a store.
func NewSource(s *sqlstore.Store) Source { return Source{s} }

// Position returns the store's present position.
func (s Source) Position(ctx context.Context) (p Position, err error) {
	err = s.store.Snapshot(ctx, "reading the change sequence", func(t *sqlstore.Tx) (err error) {
		p, err = position(t)
		return err
	})
	return p, err
}

func position(t *sqlstore.Tx) (p Position, err error) {
	if p.Origin, err = origin(t); err != nil {
		return p, err
	}
	if p.Seq, err = t.LastSeq(); err != nil {
		return p, err
	}
	p.Mark, err = mark(t, p.Seq)
	return p, err
}

func origin(t *sqlstore.Tx) (o Origin, err error) {
	err = t.Rows(`SELECT name, value FROM meta WHERE name IN ('epoch', 'store_id')`, nil, func(rows *sql.Rows) error {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return err
		}
		if name == "store_id" {
			o.Store = value
			return nil
		}
		n, err := strconv.ParseInt(value, 10, 64)
		o.Epoch = n
		return err
	})
	return o, err
}

// mark returns the mark of a position. It consists of the marks of the change seq and of the newest
// audit event.
func mark(t *sqlstore.Tx, seq int64) (string, error) {
	change, err := changeMark(t, seq)
	if err != nil {
		return "", err
	}
	var audit int64
	var hash []byte
	err = t.Row(`SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`, nil, &audit, &hash)
	if err != nil && !errors.Is(err, gateway.ErrNotFound) {
		return "", err
	}
	return fmt.Sprintf("%s/%d/%x", change, audit, hash), nil
}

// changeMark returns the mark of a change, or "" if the change was deleted because it was old.
func changeMark(t *sqlstore.Tx, seq int64) (string, error) {
	var kind, keyspace, id string
	var at int64
	err := t.Row(`SELECT kind, keyspace, id, at FROM changes WHERE seq = $1`, []any{seq}, &kind, &keyspace, &id, &at)
	if errors.Is(err, gateway.ErrNotFound) {
		return "", nil
	}
	return markOf(kind, at), err
}

func markOf(kind string, at int64) string { return kind + "-" + strconv.FormatInt(at, 10) }

// same returns ErrRewound if the store has gone back to a state before p. The check uses audit events,
// which are never deleted, so it works even after old changes were deleted.
func same(t *sqlstore.Tx, p Position) error {
	o, err := origin(t)
	if err != nil {
		return err
	}
	if o != p.Origin {
		return fmt.Errorf("%w: before it was store %q in epoch %d, now it is store %q in epoch %d", ErrRewound, p.Store, p.Epoch, o.Store, o.Epoch)
	}
	last, err := t.LastSeq()
	if err != nil {
		return err
	}
	if last < p.Seq {
		return fmt.Errorf("%w: its newest change is number %d, but number %d was read before", ErrRewound, last, p.Seq)
	}
	change, audit, _ := strings.Cut(p.Mark, "/")
	present, err := changeMark(t, p.Seq)
	if err != nil {
		return err
	}
	if change != "" && present != "" && present != change {
		return fmt.Errorf("%w: change number %d differs from the one read before", ErrRewound, p.Seq)
	}
	number, hash, _ := strings.Cut(audit, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n == 0 {
		return nil
	}
	var found []byte
	err = t.Row(`SELECT hash FROM audit WHERE seq = $1`, []any{n}, &found)
	if errors.Is(err, gateway.ErrNotFound) || err == nil && hex.EncodeToString(found) != hash {
		return fmt.Errorf("%w: audit event number %d differs from the one read before", ErrRewound, n)
	}
	return err
}

// Delta returns up to limit changes after the position from, with the rows that the changes concern. It
// returns ErrRewound if the store has gone back to a state before from. It returns ErrPruned if changes
// after from were deleted.
func (s Source) Delta(ctx context.Context, from Position, limit int) (d *Delta, err error) {
	err = s.store.Snapshot(ctx, "reading changes", func(t *sqlstore.Tx) (err error) {
		d, err = delta(t, from, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func delta(t *sqlstore.Tx, from Position, limit int) (*Delta, error) {
	if err := same(t, from); err != nil {
		return nil, err
	}
	d := &Delta{From: from, To: from}
	err := t.Rows(`SELECT seq, kind, keyspace, id, at FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2`, []any{from.Seq, int64(limit)},
		func(rows *sql.Rows) error {
			var c ChangeAt
			err := rows.Scan(&c.Seq, &c.Kind, &c.Keyspace, &c.ID, &c.At)
			d.Changes = append(d.Changes, c)
			return err
		})
	if err != nil {
		return nil, err
	}
	if len(d.Changes) == 0 {
		// The query found no changes: either there were none, or all of them were deleted because they were old.
		last, err := t.LastSeq()
		if err != nil {
			return nil, err
		}
		if last > from.Seq {
			return nil, ErrPruned
		}
		return d, nil
	}
	if d.Changes[0].Seq != from.Seq+1 {
		return nil, ErrPruned
	}
	last := d.Changes[len(d.Changes)-1]
	d.To.Seq = last.Seq
	d.More = len(d.Changes) == limit
	if d.To.Mark, err = mark(t, last.Seq); err != nil {
		return nil, err
	}
	return d, changed(t, d)
}

// Reread returns the present rows of a key or tenant, as a delta without changes. The position To of the
// delta has a new mark. With that mark, a later check also notices if the store goes back to a state
// between from and now. Reread returns the same errors as Delta.
func (s Source) Reread(ctx context.Context, from Position, c gateway.Change) (d *Delta, err error) {
	err = s.store.Snapshot(ctx, "reading changes", func(t *sqlstore.Tx) error {
		if err := same(t, from); err != nil {
			return err
		}
		d = &Delta{From: from, To: from, Changes: []ChangeAt{{Change: c}}}
		var err error
		if d.To.Mark, err = mark(t, from.Seq); err != nil {
			return err
		}
		err = changed(t, d)
		d.Changes = nil
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// changed reads the rows that the delta's changes concern.
func changed(t *sqlstore.Tx, d *Delta) error {
	keys, tokens, tenants := map[string]bool{}, map[string]bool{}, map[[2]string]bool{}
	for _, c := range d.Changes {
		switch c.Kind {
		case gateway.ChangeKey, gateway.ChangeSecret:
			keys[c.ID] = true
		case gateway.ChangeToken:
			tokens[c.ID] = true
		case gateway.ChangeTenant:
			tenants[[2]string{c.Keyspace, sqlstore.Fold(c.ID)}] = true
		}
	}
	for name := range tenants {
		if err := copyRows(t, TenantRows, ` WHERE c.keyspace = $1 AND c.folded = $2`, []any{name[0], name[1]}, &d.Tenants); err != nil {
			return err
		}
	}
	if err := copyIn(t, TokenRows, "id", list(tokens), &d.Tokens); err != nil {
		return err
	}
	ids := list(keys)
	if err := copyIn(t, KeyRows, "id", ids, &d.Keys); err != nil {
		return err
	}
	var nums []any
	owners := map[any]bool{}
	for _, row := range d.Keys {
		delete(keys, row[keyID].(string))
		nums = append(nums, row[0])
		owners[row[keyTenantNum]] = true
	}
	d.GoneKeys = list(keys)
	if err := copyIn(t, SecretRows, "key_num", nums, &d.Secrets); err != nil {
		return err
	}
	// A key needs its tenant's row in the copy, and the tenant's own change may come in a later delta.
	for _, row := range d.Tenants {
		delete(owners, row[0])
	}
	if err := copyIn(t, TenantRows, "num", list(owners), &d.Tenants); err != nil {
		return err
	}
	return copyRows(t, PepperRows, "", nil, &d.Peppers)
}

func list[T comparable](set map[T]bool) []T {
	out := make([]T, 0, len(set))
	for v := range set {
		out = append(out, v)
	}
	return out
}

// copyIn reads the rows of a table whose column has one of the values, and appends them to into.
func copyIn[T any](t *sqlstore.Tx, c *Table, column string, values []T, into *[]Row) error {
	return sqlstore.Chunks(values, func(values []T) error {
		cond, args := sqlstore.In(nil, values)
		return copyRows(t, c, ` WHERE c.`+column+cond, args, into)
	})
}

func copyRows(t *sqlstore.Tx, c *Table, where string, args []any, into *[]Row) error {
	return t.Rows(c.selectFrom()+where, args, func(rows *sql.Rows) error {
		row, err := c.scan(rows)
		*into = append(*into, row)
		return err
	})
}

// exportRows limits the rows that CopyOut passes to its function write at once.
const exportRows = 2000

// CopyOut passes all rows that a copy needs, as of one moment, to two functions. begin gets the position.
// Then write gets up to exportRows rows of one table at a time. After a lost connection CopyOut may start
// again with begin. CopyOut blocks until all rows are read, and blocks no other call.
func (s Source) CopyOut(ctx context.Context, begin func(Position) error, write func(table string, rows []Row) error) error {
	return s.store.Snapshot(ctx, "copying the store", func(t *sqlstore.Tx) error {
		p, err := position(t)
		if err != nil {
			return err
		}
		if err := begin(p); err != nil {
			return err
		}
		for _, c := range Tables {
			batch := make([]Row, 0, exportRows)
			where, args := "", []any(nil)
			if c == ChangeRows {
				where, args = ` WHERE c.seq = $1`, []any{p.Seq}
			}
			if err := t.Rows(c.selectFrom()+where+` ORDER BY c.`+c.Columns[0], args, func(rows *sql.Rows) error {
				row, err := c.scan(rows)
				if err != nil {
					return err
				}
				batch = append(batch, row)
				if len(batch) < exportRows {
					return nil
				}
				err = write(c.Name, batch)
				batch = make([]Row, 0, exportRows)
				return err
			}); err != nil {
				return err
			}
			if len(batch) > 0 {
				if err := write(c.Name, batch); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
