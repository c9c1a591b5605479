package sqlstore

import (
	"context"
	"database/sql"
	"sync"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// feed wakes the caller of Store.Wait when there may be new changes.
type feed struct {
	mu sync.Mutex
	// seq is the number of the newest known change.
	seq int64
	// version rises with each signal of new changes. seen is the version at which Wait returned last.
	version, seen uint64
	// changed is closed and replaced when version rises.
	changed chan struct{}
}

func (f *feed) init() {
	f.changed = make(chan struct{})
	f.version = 1 // The first version is 1, so that the first Wait returns at once.
}

// observe records the number of the newest change. The argument other reports whether the database may
// be another one than before.
func (f *feed) observe(seq int64, other bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq == f.seq && !other {
		return
	}
	f.seq = seq
	f.advance()
}

// advance wakes all callers of Wait. The caller of advance holds f.mu.
func (f *feed) advance() {
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// Observe records the number of the newest change in the database. Another process may have made the
// change. The argument other reports whether the database may be another one than before.
func (s *Store) Observe(seq int64, other bool) { s.feed.observe(seq, other) }

// Signal wakes Wait even if no new change is known.
func (s *Store) Signal() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.feed.advance()
}

// committed records a change that this store committed. Callers may record commits in any order.
func (f *feed) committed(seq int64) {
	f.mu.Lock()
	old := f.seq >= seq
	f.mu.Unlock()
	if !old {
		f.observe(seq, false)
	}
}

// Wait implements gateway.Store. It returns at once if a change was observed since Wait last returned
// to any caller, because only one goroutine follows a store. The store observes its own commits at
// once, and a commit of another process to an SQLite file within 50 ms. PostgreSQL notifies about
// commits of other nodes. With PostgreSQL, Wait also returns at least once a second.
func (s *Store) Wait(ctx context.Context) error {
	for {
		s.feed.mu.Lock()
		if s.feed.seen != s.feed.version {
			s.feed.seen = s.feed.version
			s.feed.mu.Unlock()
			return nil
		}
		wake := s.feed.changed
		s.feed.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return s.Explain("waiting for changes", ErrClosed)
		}
	}
}

// changeColumns is the SELECT of the columns that changeInto scans. The time of a change is also its
// Mark, by which a node recognizes the change again.
const changeColumns = `SELECT seq, kind, keyspace, id, at FROM changes`

func changeInto(c *gateway.Change) []any {
	return []any{&c.Seq, &c.Kind, &c.Keyspace, &c.ID, &c.Mark}
}

const changesSQL = changeColumns + ` WHERE seq > $1 ORDER BY seq LIMIT $2`

// Changes implements gateway.Store.
func (s *Store) Changes(ctx context.Context, after int64, limit int) ([]gateway.Change, error) {
	var out []gateway.Change
	err := s.Query(ctx, "reading changes", func(f *Conns) error {
		out = out[:0]
		rows, err := f.hot.changes.QueryContext(ctx, after, limit)
		return Each(rows, err, func(rows *sql.Rows) error {
			var c gateway.Change
			err := rows.Scan(changeInto(&c)...)
			out = append(out, c)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// lastSeqSQL reads the newest change number from the sequence and not from the table changes, because
// old changes are deleted.
const lastSeqSQL = `SELECT value FROM sequences WHERE name = 'changes'`

// LastSeq implements gateway.Store.
func (s *Store) LastSeq(ctx context.Context) (seq int64, err error) {
	err = s.Query(ctx, "reading changes", func(c *Conns) (err error) {
		seq, err = c.LastSeq(ctx)
		return err
	})
	return seq, err
}

// LastSeq returns the number of the newest change.
func (t *Tx) LastSeq() (seq int64, err error) {
	err = t.Row(lastSeqSQL, nil, &seq)
	return seq, err
}

// Each calls f for every row, until f fails, and then closes rows. If the query failed with err, Each
// returns err.
func Each(rows *sql.Rows, err error, f func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
