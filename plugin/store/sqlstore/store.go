// Package sqlstore holds the SQL statements on tenants, keys and everything that belongs to them. It
// also holds the transactions in which the statements run, and the schema's migrations. Packages
// sqlite and postgres connect to a database and make a Store of it.
//
// Many goroutines may call every method. Reads run concurrently with each other and with writes. A
// commit is on the disk when its method returns. Only counts of use in PostgreSQL reach the disk
// later, within a second.
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
	// Now is the clock of leases and of the change sequence. Outside tests it is time.Now.
	Now func() time.Time
	// AddressRows limits how many client addresses get a stored count. Outside tests it is addressRows.
	AddressRows int

	closing sync.Once
	done    chan struct{}
	workers sync.WaitGroup
	feed    feed
}

// Database provides the connections to a database. It returns the driver's errors unchanged.
type Database interface {
	// Name returns the database's name for messages.
	Name() string
	// Query calls f with connections to the database. After a failure it may call f again with new
	// connections.
	Query(ctx context.Context, f func(*Conns) error) error
	// Stream calls f once with connections to the database. f may use them for a long time.
	Stream(ctx context.Context, f func(*Conns) error) error
	// Write runs f in a transaction and commits the transaction when f returns nil. It returns the number
	// of the newest change that f made, or 0 if f made none. Write may run f several times, but never after
	// a commit that may have happened. Write returns an error of f itself unchanged.
	Write(ctx context.Context, d Durability, f func(*Tx) error) (seq int64, end Ending, err error)
	// Snapshot runs f in a read-only transaction that sees the database as of one moment.
	Snapshot(ctx context.Context, f func(*Tx) error) error
	Ping(ctx context.Context) error
	// Close rejects later calls, calls stopped, waits shortly for calls in progress, and closes the
	// connections. Callers call Close once.
	Close(stopped func())
}

// Conns are the connections for reading, with the prepared queries.
type Conns struct {
	Read *sql.DB
	// Stop is closed when the connections are about to be replaced. Long reads then end.
	Stop chan struct{}
	hot  hotQueries
}

// hotQueries are the queries that run most often. Prepare sets them.
type hotQueries struct {
	lookup, changes, lastSeq, keyDigests, usage query
}

// Prepare prepares the most frequent queries. keep reports whether connections keep prepared
// statements. If keep is false, Prepare only stores the texts of the queries.
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

// query is a database query. It is prepared if connections keep prepared statements.
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
	Failed       Ending = iota // Failed means that the database failed.
	FailedCommit               // FailedCommit means that the database failed during the commit.
	Aborted                    // Aborted means that the function in the transaction returned an error.
)

// Durability states whether a commit must be on the disk when it returns.
type Durability bool

const (
	// Synced means that a commit is on the disk when it returns.
	Synced Durability = true
	// Relaxed means that a commit reaches the disk within a second. Relaxed is for counts of use, which are
	// written often.
	Relaxed Durability = false
)

// New returns a store in a database of the given dialect. The store is usable after SetDatabase.
func New(d *Dialect, log *slog.Logger) *Store {
	s := &Store{d: d, log: log, Now: time.Now, AddressRows: addressRows, done: make(chan struct{})}
	s.feed.init()
	return s
}

// SetDatabase sets the database of a new store. It must be called once, before any other method.
func (s *Store) SetDatabase(db Database) { s.db = db }

// Log returns the store's logger.
func (s *Store) Log() *slog.Logger { return s.log }

// Done returns a channel that is closed when the store is closed.
func (s *Store) Done() <-chan struct{} { return s.done }

// Go runs f in a goroutine. f must return when Done is closed, because Close waits for f.
func (s *Store) Go(f func()) { s.workers.Go(f) }

// Alive returns a context that ends when ctx ends, the store is closed, or the caller calls end.
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

// Identity returns the name of the database. For SQLite it is the absolute path without symbolic
// links. For PostgreSQL it is the present address without the password.
func (s *Store) Identity() string { return s.db.Name() }

// Explain adds the operation, the problem and the remedy to a driver's error; see Dialect.Explain.
func (s *Store) Explain(doing string, err error) error { return s.d.Explain(doing, s.Identity(), err) }

// Close waits shortly for calls in progress and then closes the database.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.db.Close(func() {
			close(s.done)
			s.workers.Wait()
		})
	})
	return nil
}

// Ping returns nil if the database can be read. For SQLite the file must also be in place, because a
// write to a removed or replaced file would be lost.
func (s *Store) Ping(ctx context.Context) error {
	return s.Explain("pinging the database", s.db.Ping(ctx))
}

// Query calls f with connections to the database, and explains an error of f. f may run several times.
func (s *Store) Query(ctx context.Context, doing string, f func(*Conns) error) error {
	return s.Explain(doing, s.db.Query(ctx, f))
}

// Write runs f in a transaction that writes, and commits the transaction when f returns nil. f may run
// several times, but never after a commit that may have happened. Write returns errors of f itself
// unchanged.
func (s *Store) Write(ctx context.Context, doing string, f func(*Tx) error) error {
	return s.commit(ctx, doing, Synced, f)
}

// WriteRelaxed runs f as Write does, but its commit may reach the disk up to a second later.
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

// Update implements management.Store. f must write only with its Tx: SQLite runs one update at a time,
// so another write inside f would wait for ever. Update runs f again after a deadlock. It also runs f
// again if the database had to be opened again and nothing was committed.
func (s *Store) Update(ctx context.Context, f func(management.Tx) error) error {
	return s.Write(ctx, "writing to the database", func(t *Tx) error { return f(t) })
}

// View implements management.Store.
func (s *Store) View(ctx context.Context, f func(management.Tx) error) error {
	return s.Snapshot(ctx, "reading the database", func(t *Tx) error { return f(t) })
}
