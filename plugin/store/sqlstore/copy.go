package sqlstore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A copy holds what keys and management tokens are judged by of a store elsewhere, its
// primary: the same rows under the same numbers in the same tables of an SQLite file. It is
// made in one piece (CopyOut), and then follows the change sequence (Delta).

// ErrRewound says that the store is not a later state of what a position was read from: a
// backup was put in its place, or another server that had not all of it took over.
var ErrRewound = errors.New("the store went back in time, or is another one")

// ErrPruned says that changes after a position are not kept any more.
var ErrPruned = errors.New("the changes since then are not kept any more")

// Origin tells stores, and the lives of one, apart.
type Origin struct {
	// Store is the store's id; "" where it has none.
	Store string
	// Epoch rises when the store is made to begin anew.
	Epoch int64
}

// Position is how far somebody has followed a store's changes, and by what it is known
// again that the store is still the one that was followed.
type Position struct {
	Origin
	// Seq is the newest change followed.
	Seq int64
	// RecordOneShot is of that change and of the newest audit event then.
	Mark string
}

// Row is one row of a copied table, in the order of the table's columns, as the driver
// gives it: int64, string, []byte or nil.
type Row []any

// copied is a table of which copies are made. Its first column is its primary key.
type copied struct {
	name    string
	columns []string
}

// The columns of a table are held to those that there are by a test.
var (
	copiedTenants = &copied{"tenants", strings.Fields(`num keyspace slug folded name plan active rate quota concurrency
		metadata created_at updated_at deleted_at version credits`)}
	copiedKeys = &copied{"keys", strings.Fields(`num id keyspace tenant_num name description environment scopes disabled
		revoked_at deleted_at expires_at allowed_ips rate quota concurrency credits_limit metadata created_at created_by
		updated_at last_used_at last_used_ip prefix last_four version`)}
	copiedSecrets = &copied{"secrets", strings.Fields(`num id key_num keyspace digest algorithm prefix last_four created_at
		expires_at last_used_at last_used_ip`)}
	copiedTokens = &copied{"tokens", strings.Fields(`num id keyspace name scopes tenant digest algorithm prefix last_four
		created_at created_by created_by_token expires_at last_used_at last_used_ip revoked_at`)}
	// Of changes, the newest: by it is seen whether others follow it.
	copiedChanges = &copied{"changes", strings.Fields(`seq kind keyspace id at`)}
	copiedPeppers = &copied{"peppers", []string{"id", "check_value"}}
	// Tables refer only to those before them.
	copiedTables = []*copied{copiedTenants, copiedKeys, copiedSecrets, copiedTokens, copiedPeppers, copiedChanges}
)

func (c *copied) column(name string) int {
	for i, n := range c.columns {
		if n == name {
			return i
		}
	}
	panic("no column " + name + " in " + c.name)
}

var (
	keyTenantNum  = copiedKeys.column("tenant_num")
	keyID         = copiedKeys.column("id")
	tenantDeleted = copiedTenants.column("deleted_at")
)

// selectFrom returns the query of the table's rows, up to the WHERE.
func (c *copied) selectFrom() string {
	return `SELECT c.` + strings.Join(c.columns, ", c.") + ` FROM ` + c.name + ` c`
}

// scan reads a row.
func (c *copied) scan(rows *sql.Rows) (Row, error) {
	row := make(Row, len(c.columns))
	into := make([]any, len(row))
	for i := range row {
		into[i] = &row[i]
	}
	return row, rows.Scan(into...)
}

// in returns " IN ($n, …)" for values, and appends them to args.
func in[T any](args []any, values []T) (string, []any) {
	var b strings.Builder
	b.WriteString(" IN (")
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		args = append(args, v)
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(len(args)))
	}
	b.WriteByte(')')
	return b.String(), args
}

// chunk is how many values one query names.
const chunk = 500

// chunks calls f with values in portions.
func chunks[T any](values []T, f func([]T) error) error {
	for len(values) > 0 {
		n := min(chunk, len(values))
		if err := f(values[:n]); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}

// Delta is what became of what changed after From, all as of one moment, To or later.
type Delta struct {
	From, To Position
	Changes  []ChangeAt
	// More says that there are changes after To.
	More bool

	// The rows of what changed, as they are now, and the ids of what is gone.
	tenants, keys, secrets, tokens, peppers []Row

	goneKeys []string
}

// ChangeAt is a change and when it was made, in Unix microseconds.
type ChangeAt struct {
	gateway.Change
	At int64
}

// Position returns where the store is now.
func (s *Store) Position(ctx context.Context) (p Position, err error) {
	err = s.viewing(ctx, "reading the change sequence", func(t *tx) (err error) {
		p, err = t.position()
		return err
	})
	return p, err
}

// viewing runs f in a transaction that sees one moment. What f refuses is returned as it is.
func (s *Store) viewing(ctx context.Context, doing string, f func(*tx) error) error {
	var fault error
	err := s.db.viewing(ctx, func(t *tx) error {
		fault = f(t)
		return t.broken
	})
	if err != nil {
		return explain(doing, s.Identity(), err)
	}
	return fault
}

func (t *tx) position() (p Position, err error) {
	if p.Origin, err = t.origin(); err != nil {
		return p, err
	}
	if err := t.row(lastSeqSQL, nil, &p.Seq); err != nil {
		return p, err
	}
	p.Mark, err = t.mark(p.Seq)
	return p, err
}

func (t *tx) origin() (o Origin, err error) {
	err = t.rows(`SELECT name, value FROM meta WHERE name IN ('epoch', 'store_id')`, nil, func(rows *sql.Rows) error {
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

// mark returns what the change of that number, and the newest audit event, are known by.
func (t *tx) mark(seq int64) (string, error) {
	change, err := t.changeMark(seq)
	if err != nil {
		return "", err
	}
	var audit int64
	var hash []byte
	err = t.row(`SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`, nil, &audit, &hash)
	if err != nil && !errors.Is(err, gateway.ErrNotFound) {
		return "", err
	}
	return fmt.Sprintf("%s/%d/%x", change, audit, hash), nil
}

// changeMark returns what a change is known by, "" where it is not kept any more.
func (t *tx) changeMark(seq int64) (string, error) {
	var kind, keyspace, id string
	var at int64
	err := t.row(`SELECT kind, keyspace, id, at FROM changes WHERE seq = $1`, []any{seq}, &kind, &keyspace, &id, &at)
	if errors.Is(err, gateway.ErrNotFound) {
		return "", nil
	}
	return markOf(kind, at), err
}

func markOf(kind string, at int64) string { return kind + "-" + strconv.FormatInt(at, 10) }

// same says by ErrRewound that the store is not a later state of what p was read from. Audit
// events are never removed, so the check holds when changes are.
func (t *tx) same(p Position) error {
	o, err := t.origin()
	if err != nil {
		return err
	}
	if o != p.Origin {
		return fmt.Errorf("%w: it was store %q in epoch %d, and is store %q in epoch %d", ErrRewound, p.Store, p.Epoch, o.Store, o.Epoch)
	}
	var last int64
	if err := t.row(lastSeqSQL, nil, &last); err != nil {
		return err
	}
	if last < p.Seq {
		return fmt.Errorf("%w: its newest change is number %d, and number %d was read from it before", ErrRewound, last, p.Seq)
	}
	change, audit, _ := strings.Cut(p.Mark, "/")
	is, err := t.changeMark(p.Seq)
	if err != nil {
		return err
	}
	if change != "" && is != "" && is != change {
		return fmt.Errorf("%w: change number %d is another one than it was", ErrRewound, p.Seq)
	}
	number, hash, _ := strings.Cut(audit, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n == 0 {
		return nil
	}
	var found []byte
	err = t.row(`SELECT hash FROM audit WHERE seq = $1`, []any{n}, &found)
	if errors.Is(err, gateway.ErrNotFound) || err == nil && hex.EncodeToString(found) != hash {
		return fmt.Errorf("%w: audit event number %d is another one than it was", ErrRewound, n)
	}
	return err
}

// Delta returns up to limit changes after from, and what they are about. ErrRewound where
// from is not a former state of this store, ErrPruned where what followed it is not kept.
func (s *Store) Delta(ctx context.Context, from Position, limit int) (d *Delta, err error) {
	err = s.viewing(ctx, "reading what changed", func(t *tx) (err error) {
		d, err = t.delta(from, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (t *tx) delta(from Position, limit int) (*Delta, error) {
	if err := t.same(from); err != nil {
		return nil, err
	}
	d := &Delta{From: from, To: from}
	err := t.rows(`SELECT seq, kind, keyspace, id, at FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2`, []any{from.Seq, int64(limit)},
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
		// All were pruned, or there were none.
		var last int64
		if err := t.row(lastSeqSQL, nil, &last); err != nil {
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
	if d.To.Mark, err = t.mark(last.Seq); err != nil {
		return nil, err
	}
	return d, t.changed(d)
}

// Reread returns what a key or tenant is now, as a delta after from in which nothing changed
// but the mark: the store has gone back also where it does to a state between from and now. Errors as Delta's.
func (s *Store) Reread(ctx context.Context, from Position, c gateway.Change) (d *Delta, err error) {
	err = s.viewing(ctx, "reading what changed", func(t *tx) error {
		if err := t.same(from); err != nil {
			return err
		}
		d = &Delta{From: from, To: from, Changes: []ChangeAt{{Change: c}}}
		var err error
		if d.To.Mark, err = t.mark(from.Seq); err != nil {
			return err
		}
		err = t.changed(d)
		d.Changes = nil
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// changed reads the rows of what the delta's changes are about.
func (t *tx) changed(d *Delta) error {
	keys, tokens, tenants := map[string]bool{}, map[string]bool{}, map[[2]string]bool{}
	for _, c := range d.Changes {
		switch c.Kind {
		case gateway.ChangeKey, gateway.ChangeSecret:
			keys[c.ID] = true
		case gateway.ChangeToken:
			tokens[c.ID] = true
		case gateway.ChangeTenant:
			tenants[[2]string{c.Keyspace, fold(c.ID)}] = true
		}
	}
	for name := range tenants {
		if err := t.copyRows(copiedTenants, ` WHERE c.keyspace = $1 AND c.folded = $2`, []any{name[0], name[1]}, &d.tenants); err != nil {
			return err
		}
	}
	if err := copyIn(t, copiedTokens, "id", list(tokens), &d.tokens); err != nil {
		return err
	}
	ids := list(keys)
	if err := copyIn(t, copiedKeys, "id", ids, &d.keys); err != nil {
		return err
	}
	var nums []any
	owners := map[any]bool{}
	for _, row := range d.keys {
		delete(keys, row[keyID].(string))
		nums = append(nums, row[0])
		owners[row[keyTenantNum]] = true
	}
	d.goneKeys = list(keys)
	if err := copyIn(t, copiedSecrets, "key_num", nums, &d.secrets); err != nil {
		return err
	}
	// A key's tenant may be one whose own change comes later.
	for _, row := range d.tenants {
		delete(owners, row[0])
	}
	if err := copyIn(t, copiedTenants, "num", list(owners), &d.tenants); err != nil {
		return err
	}
	return t.copyRows(copiedPeppers, "", nil, &d.peppers)
}

func list[T comparable](set map[T]bool) []T {
	out := make([]T, 0, len(set))
	for v := range set {
		out = append(out, v)
	}
	return out
}

// copyIn reads the rows whose column has one of values.
func copyIn[T any](t *tx, c *copied, column string, values []T, into *[]Row) error {
	return chunks(values, func(values []T) error {
		cond, args := in(nil, values)
		return t.copyRows(c, ` WHERE c.`+column+cond, args, into)
	})
}

func (t *tx) copyRows(c *copied, where string, args []any, into *[]Row) error {
	return t.rows(c.selectFrom()+where, args, func(rows *sql.Rows) error {
		row, err := c.scan(rows)
		*into = append(*into, row)
		return err
	})
}

// Rows of an export come in portions of this many.
const exportRows = 2000

// CopyOut gives everything that a copy holds, as of one moment: begin hears the position, and
// write then the rows, a portion of one table at a time. It may begin again from the start.
// It blocks for as long as reading takes, and holds nobody up.
func (s *Store) CopyOut(ctx context.Context, begin func(Position) error, write func(table string, rows []Row) error) error {
	return s.viewing(ctx, "copying the store", func(t *tx) error {
		p, err := t.position()
		if err != nil {
			return err
		}
		if err := begin(p); err != nil {
			return err
		}
		for _, c := range copiedTables {
			batch := make([]Row, 0, exportRows)
			where, args := "", []any(nil)
			if c == copiedChanges {
				where, args = ` WHERE c.seq = $1`, []any{p.Seq}
			}
			if err := t.rows(c.selectFrom()+where+` ORDER BY c.`+c.columns[0], args, func(rows *sql.Rows) error {
				row, err := c.scan(rows)
				if err != nil {
					return err
				}
				batch = append(batch, row)
				if len(batch) < exportRows {
					return nil
				}
				err = write(c.name, batch)
				batch = make([]Row, 0, exportRows)
				return err
			}); err != nil {
				return err
			}
			if len(batch) > 0 {
				if err := write(c.name, batch); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
