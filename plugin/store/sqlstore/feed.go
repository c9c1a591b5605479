package sqlstore

import (
	"context"
	"database/sql"
	"sync"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// feed signals that the change sequence may have moved.
type feed struct {
	mu sync.Mutex
	// seq is the newest change known.
	seq int64
	// version rises with each signal; seen is the version Wait last returned at.
	version, seen uint64
	// changed is closed and replaced when version rises.
	changed chan struct{}
}

func (f *feed) init() {
	f.changed = make(chan struct{})
	f.version = 1 // so that the first Wait returns
}

// observe records the newest change's number. other reports that it may be another database.
func (f *feed) observe(seq int64, other bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq == f.seq && !other {
		return
	}
	f.seq = seq
	f.advance()
}

// advance wakes all waiters. f.mu is held.
func (f *feed) advance() {
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// Observe records the number of the newest change in the database, which may have been made by another
// process. other reports that it may be another database than before.
func (s *Store) Observe(seq int64, other bool) { s.feed.observe(seq, other) }

// Signal has Wait return, whether or not a change is known.
func (s *Store) Signal() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.feed.advance()
}

// committed is observe for a commit of this store. Commits may be reported in any order.
func (f *feed) committed(seq int64) {
	f.mu.Lock()
	old := f.seq >= seq
	f.mu.Unlock()
	if !old {
		f.observe(seq, false)
	}
}

// Wait implements gateway.Store. It returns at once when a change was observed since it last
// returned to any caller: a store has one follower, and others follow that one.
// Commits of this store are observed at once, those of other processes on an SQLite file
// within 50 ms. PostgreSQL notifies about commits of others; besides, Wait returns once a second.
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

// changeColumns are what changeInto scans. When a change was written marks it.
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

// lastSeqSQL reads the counter and not the rows, which are pruned in time.
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

// Each calls f for every row and closes them.
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
