package sqlstore

import (
	"context"
	"database/sql"
	"sync"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// feed tells that the change sequence may have moved.
type feed struct {
	mu sync.Mutex
	// seq is the newest change known.
	seq int64
	// version rises with everything noticed; seen is the version Wait last returned at.
	version, seen uint64
	// changed is closed and replaced when version rises.
	changed chan struct{}
}

func (f *feed) init() {
	f.changed = make(chan struct{})
	f.version = 1 // so that the first Wait returns
}

// observe notes the newest change's seq. anew says that the database may be another one.
func (f *feed) observe(seq int64, anew bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq == f.seq && !anew {
		return
	}
	f.seq = seq
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// signal has whoever waits look, whether or not something is known to have changed.
func (f *feed) signal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// committed is notice of a commit of our own. Commits may be reported in any order.
func (f *feed) committed(seq int64) {
	f.mu.Lock()
	old := f.seq >= seq
	f.mu.Unlock()
	if !old {
		f.observe(seq, false)
	}
}

// Wait implements gateway.Store. It returns at once when something was noticed since it
// last returned, whoever called it: a store has one follower, and others follow that.
// Commits of this store are noticed at once, those of other processes on an SQLite file
// within 50 ms. PostgreSQL tells of those of others; besides, Wait returns once a second.
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
			return explain("waiting for changes", s.Identity(), errClosed)
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
	err := s.reading(ctx, "reading changes", func(f *conns) error {
		out = out[:0]
		rows, err := f.hot.changes.QueryContext(ctx, after, limit)
		return each(rows, err, func(rows *sql.Rows) error {
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
	err = s.reading(ctx, "reading changes", func(f *conns) error {
		return f.hot.lastSeq.QueryRowContext(ctx).Scan(&seq)
	})
	return seq, err
}

// each calls f for every row and closes them.
func each(rows *sql.Rows, err error, f func(*sql.Rows) error) error {
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
