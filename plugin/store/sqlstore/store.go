// Package sqlstore holds the statements on tenants, keys and everything that belongs to them, the
// transactions they run in, and the schema's migrations. Packages sqlite and postgres connect to a
// database and make a Store of it.
//
// Every method may be called from many goroutines. Reads run concurrently with each other and
// with writes. A commit is on the disk when its method returns, except for counts of use in
// PostgreSQL, which follow within a second.
//
// Times are stored in microseconds and returned in UTC.
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

// Store is a store in one database. It implements gateway.Store, management.Store and usage.Store.
type Store struct {
	db  Database
	d   *Dialect
	log *slog.Logger
	// Now is the clock of leases and of the change sequence: time.Now, except in tests.
	Now func() time.Time
	// AddressRows limits how many client addresses get a stored count: addressRows, less in tests.
	AddressRows int

	closing sync.Once
	done    chan struct{}
	workers sync.WaitGroup
	feed    feed
}

// Database provides the connections to a database. Its errors are the driver's.
type Database interface {
	// Name returns the database's name for messages.
	Name() string
	// Query calls f with connections. After a failure it may call f again with new ones.
	Query(ctx context.Context, f func(*Conns) error) error
	// Stream calls f once. f may use the connections for a long time.
	Stream(ctx context.Context, f func(*Conns) error) error
	// Write runs f in a transaction and commits it when f returns nil. It returns the number of
	// the newest change that f made, 0 for none. Write may run f several times, but never after a
	// commit that may have happened. An error of f itself is returned unchanged.
	Write(ctx context.Context, d Durability, f func(*Tx) error) (seq int64, end Ending, err error)
	// Snapshot runs f in a read-only transaction that sees the database as of one moment.
	Snapshot(ctx context.Context, f func(*Tx) error) error
	Ping(ctx context.Context) error
	// Close rejects later calls, calls stopped, waits shortly for calls in progress, and closes
	// the connections. It is called once.
	Close(stopped func())
}

// Conns are the connections for reading, with the prepared queries.
type Conns struct {
	Read *sql.DB
	// Stop is closed when these connections are about to be replaced. Long reads end then.
	Stop chan struct{}
	hot  hotQueries
}

// hotQueries are the queries that run most often. Prepare sets them.
type hotQueries struct {
	lookup, changes, lastSeq, keyDigests, usage query
}

// Prepare prepares the most frequent queries. keep reports whether connections keep prepared
// statements; if not, Prepare only stores the queries' texts.
func (c *Conns) Prepare(ctx context.Context, keep bool) (err error) {
	for _, q := range []struct {
		query *query
		text  string
	}{
		{&c.hot.lookup, lookupSQL},
		{&c.hot.changes, changesSQL},
		{&c.hot.lastSeq, lastSeqSQL},
		{&c.hot.keyDigests, keyDigestsSQL},
		{&c.hot.usage, usageSQL},
	} {
		if !keep {
			*q.query = query{db: c.Read, text: q.text}
		} else if q.query.stmt, err = c.Read.PrepareContext(ctx, q.text); err != nil {
			return err
		}
	}
	return nil
}

// LastSeq returns the number of the newest change.
func (c *Conns) LastSeq(ctx context.Context) (seq int64, err error) {
	err = c.hot.lastSeq.QueryRowContext(ctx).Scan(&seq)
	return seq, err
}

// query is a query, prepared where connections keep prepared statements.
type query struct {
	stmt *sql.Stmt
	db   *sql.DB
	text string
}

func (q *query) QueryContext(ctx context.Context, args ...any) (*sql.Rows, error) {
	if q.stmt != nil {
		return q.stmt.QueryContext(ctx, args...)
	}
	return q.db.QueryContext(ctx, q.text, args...)
}

func (q *query) QueryRowContext(ctx context.Context, args ...any) *sql.Row {
	if q.stmt != nil {
		return q.stmt.QueryRowContext(ctx, args...)
	}
	return q.db.QueryRowContext(ctx, q.text, args...)
}

// Ending is the reason why a transaction was not committed.
type Ending int

const (
	Failed       Ending = iota // the database failed
	FailedCommit               // the database failed during the commit
	Aborted                    // the function in the transaction returned an error
)

// Durability is how safely a commit is stored when it returns.
type Durability bool

const (
	// Synced commits are on the disk.
	Synced Durability = true
	// Relaxed commits reach the disk within a second. They are for counts of use, which are
	// written often.
	Relaxed Durability = false
)

// New returns a store in a database of the dialect. SetDatabase completes it.
func New(d *Dialect, log *slog.Logger) *Store {
	s := &Store{d: d, log: log, Now: time.Now, AddressRows: addressRows, done: make(chan struct{})}
	s.feed.init()
	return s
}

// SetDatabase sets the database of a new store, once, before any other use.
func (s *Store) SetDatabase(db Database) { s.db = db }

// Log returns the store's logger.
func (s *Store) Log() *slog.Logger { return s.log }

// Done is closed when the store is closed.
func (s *Store) Done() <-chan struct{} { return s.done }

// Go runs f in a goroutine. f must return when Done is closed; Close waits for it.
func (s *Store) Go(f func()) { s.workers.Go(f) }

// Alive returns a context that ends with ctx, with the store, or when end is called.
func (s *Store) Alive(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// Identity returns the name of the database: SQLite's absolute path without symbolic links, or
// PostgreSQL's present address without the password.
func (s *Store) Identity() string { return s.db.Name() }

// Explain explains a driver's error; see Dialect.Explain.
func (s *Store) Explain(doing string, err error) error { return s.d.Explain(doing, s.Identity(), err) }

// Close waits shortly for calls in progress and closes the database.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.db.Close(func() {
			close(s.done)
			s.workers.Wait()
		})
	})
	return nil
}

// Ping returns nil if the database can be read and, for SQLite, its file is still in place: a
// write to a removed or replaced file would be lost.
func (s *Store) Ping(ctx context.Context) error {
	return s.Explain("pinging the database", s.db.Ping(ctx))
}

// Query calls f with connections, and explains its error. f may run several times.
func (s *Store) Query(ctx context.Context, doing string, f func(*Conns) error) error {
	return s.Explain(doing, s.db.Query(ctx, f))
}

// Write runs f in a transaction that writes, and commits it when f returns nil. f may run several
// times, but never after a commit that may have happened. Write returns errors of f itself
// unchanged.
func (s *Store) Write(ctx context.Context, doing string, f func(*Tx) error) error {
	return s.commit(ctx, doing, Synced, f)
}

// WriteRelaxed is Write with a Relaxed commit.
func (s *Store) WriteRelaxed(ctx context.Context, doing string, f func(*Tx) error) error {
	return s.commit(ctx, doing, Relaxed, f)
}

func (s *Store) commit(ctx context.Context, doing string, d Durability, f func(*Tx) error) error {
	seq, end, err := s.db.Write(ctx, d, f)
	switch {
	case err == nil:
		if seq != 0 {
			s.feed.committed(seq)
		}
		return nil
	case end == Aborted:
		return err
	}
	return s.Explain(doing, err)
}

// Snapshot runs f in a read-only transaction that sees the database as of one moment. It returns
// errors of f itself unchanged.
func (s *Store) Snapshot(ctx context.Context, doing string, f func(*Tx) error) error {
	var fault error
	err := s.db.Snapshot(ctx, func(t *Tx) error {
		fault = f(t)
		return t.broken
	})
	if err != nil {
		return s.Explain(doing, err)
	}
	return fault
}

// Update implements management.Store. f must write through its Tx only: SQLite runs one update at
// a time, so another write inside f would wait for ever. Update runs f again after a deadlock, or
// if the database had to be opened again and nothing was committed.
func (s *Store) Update(ctx context.Context, f func(management.Tx) error) error {
	return s.Write(ctx, "writing to the database", func(t *Tx) error { return f(t) })
}

// View implements management.Store.
func (s *Store) View(ctx context.Context, f func(management.Tx) error) error {
	return s.Snapshot(ctx, "reading the database", func(t *Tx) error { return f(t) })
}
