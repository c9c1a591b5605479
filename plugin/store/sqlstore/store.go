// Package sqlstore keeps tenants, keys and everything about them in SQL: in an SQLite
// file beside the gateway, or in PostgreSQL, where many gateways share it.
//
// Every method may be called from many goroutines. Reads run beside each other and
// beside a write. SQLite's writes run one after another, and several processes may use one
// file at once. What was committed is on the disk, but for PostgreSQL's counts of use, which
// are within a second.
//
// Times are kept to the microsecond and returned in UTC.
package sqlstore

import (
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

var (
	_ gateway.Store    = (*Store)(nil)
	_ management.Store = (*Store)(nil)
)

// Store is a store in one database. It implements gateway.Store and management.Store.
type Store struct {
	db database
	d  *dialect
	// path is how the database was called when it was opened: see Identity.
	path string
	log  *slog.Logger
	// now is the clock of leases and of the change sequence.
	now func() time.Time
	// addressRows is the constant of that name, less in tests.
	addressRows int

	closing sync.Once
	done    chan struct{}
	watcher sync.WaitGroup
	feed    feed
}

// database is how a database's connections are had. Its errors are not explained.
type database interface {
	// reading calls f with connections. It may call it once more.
	reading(ctx context.Context, f func(*conns) error) error
	// streaming calls f once, with connections that it may hold for long.
	streaming(ctx context.Context, f func(*conns) error) error
	// writing runs f in a transaction and commits it when f returns nil. It returns the
	// newest change's seq, 0 where f made none. f may run several times, but never after a
	// commit that may have happened. Where it was f that refused, err is f's own.
	writing(ctx context.Context, d durability, f func(*tx) error) (seq int64, end ending, err error)
	// viewing runs f in a transaction that sees one moment.
	viewing(ctx context.Context, f func(*tx) error) error
	ping(ctx context.Context) error
	// close refuses what comes from now on, calls stopped, waits shortly for what is under
	// way, and closes the connections. It is called once.
	close(stopped func())
}

// conns are connections to read on.
type conns struct {
	read *sql.DB
	hot  hotQueries
	// stop is closed when they are to be given up: what may run for long ends then.
	stop chan struct{}
}

// hotQueries are those that are asked most.
type hotQueries struct {
	lookup, changes, lastSeq, keyDigests, usage query
}

// prepare makes each of them by f.
func (h *hotQueries) prepare(f func(text string) (query, error)) (err error) {
	for _, q := range []struct {
		query *query
		text  string
	}{
		{&h.lookup, lookupSQL},
		{&h.changes, changesSQL},
		{&h.lastSeq, lastSeqSQL},
		{&h.keyDigests, keyDigestsSQL},
		{&h.usage, usageSQL},
	} {
		if *q.query, err = f(q.text); err != nil {
			return err
		}
	}
	return nil
}

// query is one, prepared where connections keep what was prepared on them.
type query struct {
	stmt *sql.Stmt
	db   *sql.DB
	text string
}

// QueryContext is that of sql.Stmt.
func (q *query) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	if q.stmt != nil {
		return q.stmt.QueryContext(ctx, args...)
	}
	return q.db.QueryContext(ctx, q.text, args...)
}

// QueryRowContext is that of sql.Stmt.
func (q *query) QueryRowContext(ctx context.Context, args ...any) *sql.Row {
	if q.stmt != nil {
		return q.stmt.QueryRowContext(ctx, args...)
	}
	return q.db.QueryRowContext(ctx, q.text, args...)
}

// ending is how a transaction that was not committed ended.
type ending int

const (
	failed       ending = iota // the store's fault
	failedCommit               // the same, and it was tried to commit
	aborted                    // f's decision
)

// durability is how sure a commit is to outlive the database server.
type durability bool

const (
	// synced ones are on the disk when they return.
	synced durability = true
	// soon ones are within a second: counts of use, of which there are many.
	soon durability = false
)

func newStore(d *dialect, path string, log *slog.Logger) *Store {
	s := &Store{d: d, path: path, log: log, now: time.Now, addressRows: addressRows, done: make(chan struct{})}
	s.feed.init()
	return s
}

// Identity returns what names the database: the absolute path without symbolic links, or
// the server's address as it is now, without the password.
func (s *Store) Identity() string {
	if p, ok := s.db.(*postgresDB); ok {
		return p.route.Load().name
	}
	return s.path
}

// Close waits shortly for what is under way and closes the database.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.db.close(func() {
			close(s.done)
			s.watcher.Wait()
		})
	})
	return nil
}

// Ping says whether the database can be read, and whether what would be written to it
// would be found again.
func (s *Store) Ping(ctx context.Context) error {
	return explain("asking the database", s.Identity(), s.db.ping(ctx))
}

// reading calls f with connections, and explains its error. f may run twice.
func (s *Store) reading(ctx context.Context, doing string, f func(*conns) error) error {
	return explain(doing, s.Identity(), s.db.reading(ctx, f))
}

// writing runs f in a transaction that writes, and commits it when f returns nil. f may
// run several times, never after a commit that may have happened. What f refuses is returned
// as it is.
func (s *Store) writing(ctx context.Context, doing string, f func(*tx) error) error {
	return s.committing(ctx, doing, synced, f)
}

// counting is writing for what may be lost with the database server, within a second.
func (s *Store) counting(ctx context.Context, doing string, f func(*tx) error) error {
	return s.committing(ctx, doing, soon, f)
}

func (s *Store) committing(ctx context.Context, doing string, d durability, f func(*tx) error) error {
	seq, end, err := s.db.writing(ctx, d, f)
	switch {
	case err == nil:
		if seq != 0 {
			s.feed.committed(seq)
		}
		return nil
	case end == aborted:
		return err
	}
	return explain(doing, s.Identity(), err)
}

// Update implements management.Store. SQLite's updates run one after another, so
// f must not itself call anything that writes. f runs again where nothing was committed
// because the database had to be opened anew, or because two transactions waited for
// each other.
func (s *Store) Update(ctx context.Context, f func(management.Tx) error) error {
	return s.writing(ctx, "writing to the database", func(t *tx) error { return f(t) })
}

// View implements management.Store.
func (s *Store) View(ctx context.Context, f func(management.Tx) error) error {
	var fault error
	err := s.db.viewing(ctx, func(t *tx) error {
		fault = f(t)
		return t.broken
	})
	if err != nil {
		return explain("reading the database", s.Identity(), err)
	}
	return fault
}
