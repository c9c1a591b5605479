package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// A node has three kinds of connections to PostgreSQL: readers, writers, and one that listens for
// changes. Their numbers are small, because many nodes share the few hundred connections of a server or
// pooler.
const (
	// readers is how many look-ups and lists run at once.
	readers = 4
	// writers is how many writing transactions run at once. They have their own connections, so that
	// transactions which wait for locks do not block reads.
	writers = 3
)

const (
	// connectTimeout bounds connecting to the server if the address states no other timeout.
	connectTimeout = 5 * time.Second
	// idleTimeout is the time after which an unused connection is closed.
	idleTimeout = 5 * time.Minute
	// lockTimeout bounds how long a transaction waits for a lock, and how long a transaction may be idle.
	// The idle bound ends transactions of nodes that hang or lost their connection, and so releases their
	// locks.
	lockTimeout = 5 * time.Second
	// beginTimeout bounds the begin of a transaction, including the wait for a connection. txTimeout bounds
	// the rest of a writing transaction. Without it, a server that hangs would block the transaction for
	// ever.
	beginTimeout = 10 * time.Second
	txTimeout    = time.Minute
	// commitTimeout bounds a commit. If the commit is not answered, commitTimeout also bounds the query
	// whether the commit happened.
	commitTimeout = 5 * time.Second
	// attempts is how often the store tries a transaction that conflicts with other transactions.
	attempts = 4
	// reopenInterval is the least time between two attempts to open the database.
	reopenInterval = 500 * time.Millisecond
	// openTimeout bounds an attempt to open the database. The attempt runs in the background, so no
	// caller's context bounds it.
	openTimeout = 10 * time.Second
	// drainTimeout bounds how long Close waits for calls in progress.
	drainTimeout = time.Second
	// minVersion is the oldest supported version of PostgreSQL, as server_version_num states it.
	minVersion = 130000
)

// Config configures a Store.
type Config struct {
	// Address is postgres://user:password@host:port/database?… or user=… host=… …, as libpq and pgx accept
	// it. It may lead to PgBouncer in transaction mode. If Address names several hosts, the store uses the
	// first host that accepts writes.
	Address string
	// Listen is the address at which the store listens for changes of the same database. It must not lead
	// through a pooler. Default: Address.
	Listen string
	// Logger receives messages for operators. Default: slog.Default.
	Logger *slog.Logger
}

// Store is a store in PostgreSQL, which several nodes share.
type Store struct {
	*sqlstore.Store
	replication.Source
	db *database
}

// database is a PostgreSQL database.
type database struct {
	s *sqlstore.Store
	// route is the route that new connections use.
	route         atomic.Pointer[route]
	conns         sqlstore.Conns
	write         *sql.DB
	ready, closed atomic.Bool

	mu sync.Mutex
	// opening is closed when the present attempt to open the database has ended. It is nil while no attempt
	// runs.
	opening  chan struct{}
	broken   error
	nextOpen time.Time
	// id is the store's id. It is "" until the store has checked the schema.
	id string
	// capTimer calls uncapPools after capFor. It is nil while the pools have their full size.
	capTimer *time.Timer

	moving sync.Mutex
	// routes holds one entry for each database address whose connections may still be in use. The
	// mutex moving guards it.
	routes []*route

	// notified reports whether the server's notifications arrive. While they arrive, the store polls less
	// often.
	notified atomic.Bool
}

// New returns a store in a PostgreSQL database, without a connection to it. The first call that needs
// the database connects and migrates it. While connecting or migrating fails, every call returns an
// error that wraps gateway.ErrStore, and later calls try again. New itself fails only if an address
// can't be parsed. The caller must close the store after use.
func New(c Config) (*Store, error) {
	r, err := newRoute(c.Address, c.Listen)
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	s := sqlstore.New(dialect, c.Logger)
	p := &database{s: s, routes: []*route{r}}
	p.route.Store(r)
	p.conns.Stop = make(chan struct{})
	p.conns.Read = p.openPool(readers)
	p.write = p.openPool(writers)
	// Statements are not prepared, because behind a pooler the next transaction may get another connection
	// of the server.
	if err := p.conns.Prepare(context.Background(), false); err != nil {
		return nil, err
	}
	s.SetDatabase(p)
	s.Go(p.listen)
	s.Go(p.poll)
	s.Go(p.prune)
	return &Store{s, replication.NewSource(s), p}, nil
}

// errBackup refers the operator to PostgreSQL's own way to make a backup.
var errBackup = errors.New("this gateway keeps everything in PostgreSQL: back that up with its own tools, such as pg_dump")

// Backup returns an error that refers the operator to PostgreSQL's own tools.
func (s *Store) Backup(context.Context, string) (int64, error) { return 0, errBackup }

// open returns nil once the database has this program's schema. It waits for an attempt in progress. If
// none is in progress, open starts a new attempt, at most one per reopenInterval. If it is too early
// for an attempt, open returns the last failure.
func (p *database) open(ctx context.Context) error {
	if p.closed.Load() {
		return sqlstore.ErrClosed
	}
	if p.ready.Load() {
		return nil
	}
	for {
		p.mu.Lock()
		switch {
		case p.ready.Load():
			p.mu.Unlock()
			return nil
		case p.opening == nil && time.Now().Before(p.nextOpen):
			err := p.broken
			p.mu.Unlock()
			return err
		case p.opening == nil:
			p.startOpening()
		}
		wait := p.opening
		p.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.s.Done():
			return sqlstore.ErrClosed
		}
	}
}

// sameFailure reports whether two errors have the same text, apart from digits such as those of
// port numbers.
func sameFailure(a, b error) bool {
	letters := func(err error) string {
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, err.Error())
	}
	return letters(a) == letters(b)
}

// startOpening migrates the database in the background. The caller holds p.mu.
func (p *database) startOpening() {
	opening := make(chan struct{})
	p.opening = opening
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		ctx, end := p.s.Alive(ctx)
		defer end()
		id, err := p.migrate(ctx)

		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			p.id = id
			p.ready.Store(true)
		} else if p.broken == nil || !sameFailure(p.broken, err) {
			p.s.Log().Error("the database cannot be opened; trying again: requests that need the database get 503 until it is open", "path", p.s.Identity(), "error", explain("opening", p.s.Identity(), err))
		}
		p.broken = err
		p.nextOpen = time.Now().Add(reopenInterval)
		p.opening = nil
		close(opening)
	}()
}

// migrate migrates the database, and returns the store's id.
func (p *database) migrate(ctx context.Context) (id string, err error) {
	var version int
	if err := p.write.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return "", err
	}
	if version < minVersion {
		return "", &sqlstore.SchemaError{Text: fmt.Sprintf("the server is PostgreSQL %d: it must be 13 or later", version/10000)}
	}
	applied, err := sqlstore.Migrate(ctx, p.write, dialect, true)
	if err != nil {
		return "", err
	}
	if applied > 0 {
		p.s.Log().Info("the schema of the database was migrated", "path", p.s.Identity(), "migrations", applied)
	}
	err = p.write.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'store_id'`).Scan(&id)
	return id, err
}

// Name implements sqlstore.Database.
func (p *database) Name() string { return p.route.Load().name }

// Query implements sqlstore.Database. A lost connection shows only when it is used, so Query then tries
// another connection. A single statement runs at the server's default isolation level, at which the statement may
// conflict with another one, so Query then tries again too.
func (p *database) Query(ctx context.Context, f func(*sqlstore.Conns) error) error {
	for try := 1; ; try++ {
		if err := p.open(ctx); err != nil {
			return err
		}
		err := f(&p.conns)
		if err == nil || try > readers || ctx.Err() != nil || !connectionLost(err) && !conflicted(err) && !p.capPool(p.conns.Read, err) {
			return err
		}
		p.dropStale(err)
		pauseAfterConflict(err, try)
	}
}

// Stream implements sqlstore.Database.
func (p *database) Stream(ctx context.Context, f func(*sqlstore.Conns) error) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	return f(&p.conns)
}

// Snapshot implements sqlstore.Database.
func (p *database) Snapshot(ctx context.Context, f func(*sqlstore.Tx) error) error {
	return p.Query(ctx, func(c *sqlstore.Conns) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		beginning := time.AfterFunc(beginTimeout, func() { cancel(errNoAnswer) })
		t, err := p.s.BeginSnapshot(ctx, c.Read)
		if !beginning.Stop() && err == nil {
			err = errNoAnswer
			t.SQL.Rollback()
		}
		if err != nil {
			return withCause(ctx, err)
		}
		defer t.SQL.Rollback()
		if _, err := t.SQL.ExecContext(ctx, `SELECT `+noTimeouts); err != nil {
			return withCause(ctx, err)
		}
		return f(t)
	})
}

// Write implements sqlstore.Database.
func (p *database) Write(ctx context.Context, d sqlstore.Durability, f func(*sqlstore.Tx) error) (seq int64, end sqlstore.Ending, err error) {
	for try := 1; ; try++ {
		if err := p.open(ctx); err != nil {
			return 0, sqlstore.Failed, err
		}
		seq, end, err := p.transact(ctx, d, f)
		if err == nil || end != sqlstore.Failed || try == attempts || ctx.Err() != nil || !connectionLost(err) && !conflicted(err) && !p.capPool(p.write, err) {
			return seq, end, err
		}
		p.dropStale(err)
		pauseAfterConflict(err, try)
	}
}

// pauseAfterConflict waits a random time before the next attempt if err is a conflict with another transaction.
func pauseAfterConflict(err error, try int) {
	if conflicted(err) {
		time.Sleep(time.Duration(rand.IntN(try*20)) * time.Millisecond)
	}
}

// beginSQL is the first query of a transaction. It sets the timeouts for locks and idle time, and the
// durability of the commit. A durable commit is at least on the server's own disk, even if the default of the role or
// the database is synchronous_commit off. txTimeout bounds the transaction instead of the server's timeouts. It returns the transaction's number and the time by the server's clock,
// which is the same for all nodes.
const beginSQL = `SELECT set_config('lock_timeout', $1, true) || set_config('idle_in_transaction_session_timeout', $1, true) ||
	set_config('synchronous_commit', CASE WHEN NOT $2 THEN 'off' WHEN current_setting('synchronous_commit') = 'off' THEN 'local'
		ELSE current_setting('synchronous_commit') END, true),
	` + noTimeouts + `,
	pg_current_xact_id()::text, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// transact makes one attempt to run a writing transaction.
func (p *database) transact(caller context.Context, d sqlstore.Durability, f func(*sqlstore.Tx) error) (seq int64, end sqlstore.Ending, err error) {
	ctx, cancelCause := context.WithCancelCause(context.WithoutCancel(caller))
	cancel := func() { cancelCause(nil) }
	defer cancel()
	stop := context.AfterFunc(caller, cancel)
	tooLong := time.AfterFunc(beginTimeout, func() { cancelCause(errNoAnswer) })
	defer func() {
		stop()
		tooLong.Stop()
		if err == nil || end == sqlstore.Aborted {
			return
		}
		if ended := caller.Err(); ended != nil {
			err = errors.Join(ended, err)
		} else {
			err = withCause(ctx, err)
		}
	}()
	t, err := p.s.Begin(ctx, p.write, &dialect.Update)
	if err != nil {
		return 0, sqlstore.Failed, err
	}
	defer t.SQL.Rollback()
	var settings, noStatementTimeout, noTransactionTimeout sql.NullString
	var id string
	var now int64
	if err := t.SQL.QueryRowContext(ctx, beginSQL, strconv.FormatInt(lockTimeout.Milliseconds(), 10), bool(d)).Scan(&settings, &noStatementTimeout, &noTransactionTimeout, &id, &now); err != nil {
		return 0, sqlstore.Failed, err
	}
	t.Now = time.UnixMicro(now).UTC()
	tooLong.Reset(txTimeout)
	err = f(t)
	switch {
	case t.Broken() != nil:
		return 0, sqlstore.Failed, t.Broken()
	case err != nil:
		return 0, sqlstore.Aborted, err
	}
	// From now on the caller can't interrupt the transaction, because it would be unknown whether an
	// interrupted commit happened.
	if !stop() {
		return 0, sqlstore.Failed, caller.Err()
	}
	timeout := time.AfterFunc(commitTimeout, cancel)
	err = t.SQL.Commit()
	timeout.Stop()
	if err != nil {
		if end, err = p.outcome(id, err); err != nil {
			return 0, end, err
		}
	}
	return t.Seq(), sqlstore.Failed, nil
}

// errNoAnswer is returned if the server accepted a connection and then did not answer in time.
var errNoAnswer = errors.New("the server does not answer")

// withCause returns errNoAnswer if errNoAnswer is the reason why ctx ended. Otherwise it returns err.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errNoAnswer) {
		return cause
	}
	return err
}

// outcome asks the server for the result of a transaction whose commit was not answered. err is nil if
// the commit happened. Otherwise the result Failed means that the commit did not happen, and
// FailedCommit means that the result is unknown.
func (p *database) outcome(id string, cause error) (sqlstore.Ending, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	for ctx.Err() == nil {
		var status sql.NullString
		err := p.conns.Read.QueryRowContext(ctx, `SELECT pg_xact_status($1::text::xid8)`, id).Scan(&status)
		switch {
		case err == nil && status.String == "committed":
			return sqlstore.Failed, nil
		case err == nil && status.String == "aborted":
			return sqlstore.Failed, cause
		case err == nil && !status.Valid, err != nil && code(err) != "" && !connectionLost(err):
			return sqlstore.FailedCommit, cause
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.s.Done():
			return sqlstore.FailedCommit, cause
		case <-ctx.Done():
		}
	}
	return sqlstore.FailedCommit, fmt.Errorf("it is unknown whether the change was written: %w", cause)
}

// dropStale closes idle connections if err means that they lead to a server that became a standby.
func (p *database) dropStale(err error) {
	if code(err) != codeReadOnly {
		return
	}
	p.closeIdle()
}

// Ping implements sqlstore.Database.
func (p *database) Ping(ctx context.Context) error {
	return p.Query(ctx, func(c *sqlstore.Conns) error {
		_, err := c.LastSeq(ctx)
		return err
	})
}

// Close implements sqlstore.Database.
func (p *database) Close(stopped func()) {
	p.closed.Store(true)
	close(p.conns.Stop)
	stopped()
	closed := make(chan struct{})
	go func() {
		// Closing the pool waits for running queries.
		p.conns.Read.Close()
		p.write.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(drainTimeout):
	}
}
