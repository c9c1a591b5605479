package sqlstore

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
)

// How many connections a node has to PostgreSQL: these, and one that listens. Many nodes
// share a server's few hundred, or a pooler's.
const (
	// pgReaders is how many look-ups and lists run at once.
	pgReaders = 4
	// pgWriters is how many transactions that write run at once. They have connections of
	// their own, so that who waits for another's lock keeps nobody from reading.
	pgWriters = 3
)

const (
	// pgConnectTimeout is how long making a connection may take where the address says
	// nothing of it.
	pgConnectTimeout = 5 * time.Second
	// pgIdleTimeout is after how long an unused connection is closed.
	pgIdleTimeout = 5 * time.Minute
	// pgLockTimeout is how long a transaction waits for a lock, and how long one may pause that
	// holds some. Those of a node that stands still, or was cut off, end then.
	pgLockTimeout = 5 * time.Second
	// pgBeginTimeout is how long beginning a transaction may take, waiting for a connection included,
	// and pgTxTimeout the rest of one that writes: a server that stands still would else be waited for without end.
	pgBeginTimeout = 10 * time.Second
	pgTxTimeout    = time.Minute
	// pgCommitTimeout is how long a commit may take, and after that finding out whether it happened.
	pgCommitTimeout = 5 * time.Second
	// pgAttempts is how often a transaction is tried that others got in the way of.
	pgAttempts = 4
	// pgMinVersion is the oldest server that has all that is asked of it.
	pgMinVersion = 130000
)

// PostgresConfig says how PostgreSQL is reached.
type PostgresConfig struct {
	// Address is postgres://user:password@host:port/database?… or user=… host=… …, as
	// libpq and pgx know it. It may lead to PgBouncer in transaction mode. Of several
	// hosts, the one that can be written is used.
	Address string
	// Listen is the address of the same database that is listened on for changes. It must
	// not lead through a pooler. Default: Address.
	Listen string
	// Logger hears what operators should know. Default: slog.Default.
	Logger *slog.Logger
}

// postgresDB is a PostgreSQL database.
type postgresDB struct {
	s *Store
	// route is how connections are made from now on.
	route         atomic.Pointer[route]
	conns         conns
	write         *sql.DB
	ready, closed atomic.Bool

	mu sync.Mutex
	// opening is closed when looking at the schema, which is under way, has ended.
	opening  chan struct{}
	broken   error
	nextOpen time.Time
	// id is the store's, from when the schema was looked at; "" before.
	id string
	// capTimer ends what narrow did; nil while it did nothing.
	capTimer *time.Timer

	moving sync.Mutex
	// routes are those whose connections may be used. Under moving.
	routes []*route

	// notified says that commits are heard of from the server: they need not be asked for so often.
	notified atomic.Bool
}

// NewPostgres returns a store in a PostgreSQL database, without connecting to it. The
// first call that needs the database connects and migrates it; where that fails, it is
// tried again, and until then every call fails with an error that wraps
// gateway.ErrStore. An address that cannot be read is an error here. Close it after use.
func NewPostgres(c PostgresConfig) (*Store, error) {
	r, err := newRoute(c.Address, c.Listen)
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	s := newStore(postgresDialect, r.name, c.Logger)
	p := &postgresDB{s: s, routes: []*route{r}}
	p.route.Store(r)
	p.conns.stop = make(chan struct{})
	p.conns.read = p.openPool(pgReaders)
	p.write = p.openPool(pgWriters)
	// What is prepared on a connection is not there on the pooler's next one.
	if err := p.conns.hot.prepare(func(text string) (query, error) {
		return query{db: p.conns.read, text: text}, nil
	}); err != nil {
		return nil, err
	}
	s.db = p
	s.watcher.Go(p.listen)
	s.watcher.Go(p.poll)
	s.watcher.Go(p.prune)
	return s, nil
}

// open sees to it, once, that the database has this binary's schema. It waits for
// whoever does so already, and tries again only after a while.
func (p *postgresDB) open(ctx context.Context) error {
	if p.closed.Load() {
		return errClosed
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
		case <-p.s.done:
			return errClosed
		}
	}
}

// sameFailure says that two failures are alike but for the ports they name.
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

// startOpening migrates the database, beside the caller. p.mu is held.
func (p *postgresDB) startOpening() {
	opening := make(chan struct{})
	p.opening = opening
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		ctx, end := p.s.alive(ctx)
		defer end()
		id, err := p.migrate(ctx)

		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			p.id = id
			p.ready.Store(true)
		} else if p.broken == nil || !sameFailure(p.broken, err) {
			p.s.log.Error("the database cannot be opened; trying again", "path", p.s.Identity(), "error", explain("opening", p.s.Identity(), err))
		}
		p.broken = err
		p.nextOpen = time.Now().Add(reopenInterval)
		p.opening = nil
		close(opening)
	}()
}

// migrate brings the schema up to date, and returns the store's id.
func (p *postgresDB) migrate(ctx context.Context) (id string, err error) {
	var version int
	if err := p.write.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return "", err
	}
	if version < pgMinVersion {
		return "", &schemaError{fmt.Sprintf("the server is PostgreSQL %d: it must be 13 or later", version/10000)}
	}
	applied, err := migrate(ctx, p.write, p.s.d, true)
	if err != nil {
		return "", err
	}
	if applied > 0 {
		p.s.log.Info("database migrated", "path", p.s.Identity(), "migrations", applied)
	}
	err = p.write.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'store_id'`).Scan(&id)
	return id, err
}

// alive returns a context that ends with ctx, with the store, or when end is called.
func (s *Store) alive(ctx context.Context) (_ context.Context, end func()) {
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

// reading implements database. Connections that were lost are noticed only by using them,
// so what failed on one is asked again on another.
func (p *postgresDB) reading(ctx context.Context, f func(*conns) error) error {
	for try := 1; ; try++ {
		if err := p.open(ctx); err != nil {
			return err
		}
		err := f(&p.conns)
		if err == nil || try > pgReaders || ctx.Err() != nil || !connectionLost(err) && !p.capPool(p.conns.read, err) {
			return err
		}
		p.dropStale(err)
	}
}

// streaming implements database.
func (p *postgresDB) streaming(ctx context.Context, f func(*conns) error) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	return f(&p.conns)
}

// viewing implements database.
func (p *postgresDB) viewing(ctx context.Context, f func(*tx) error) error {
	return p.reading(ctx, func(c *conns) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		beginning := time.AfterFunc(pgBeginTimeout, func() { cancel(errNoAnswer) })
		t, err := p.s.begin(ctx, c.read, p.s.d.snapshot())
		if !beginning.Stop() && err == nil {
			err = errNoAnswer
			t.sql.Rollback()
		}
		if err != nil {
			return withCause(ctx, err)
		}
		defer t.sql.Rollback()
		t.d = postgresViews
		return f(t)
	})
}

// writing implements database.
func (p *postgresDB) writing(ctx context.Context, d durability, f func(*tx) error) (seq int64, end ending, err error) {
	for try := 1; ; try++ {
		if err := p.open(ctx); err != nil {
			return 0, failed, err
		}
		seq, end, err := p.transact(ctx, d, f)
		if err == nil || end != failed || try == pgAttempts || ctx.Err() != nil || !connectionLost(err) && !conflicted(err) && !p.capPool(p.write, err) {
			return seq, end, err
		}
		p.dropStale(err)
		if conflicted(err) {
			time.Sleep(time.Duration(rand.IntN(try*20)) * time.Millisecond)
		}
	}
}

// beginSQL begins what is said of a transaction: that it gives up where it would hold
// others up, how sure its commit is to be, its number, and the server's clock, which all nodes share.
const beginSQL = `SELECT set_config('lock_timeout', $1, true) || set_config('idle_in_transaction_session_timeout', $1, true) ||
	set_config('synchronous_commit', CASE WHEN $2 THEN current_setting('synchronous_commit') ELSE 'off' END, true),
	pg_current_xact_id()::text, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

// transact is one attempt of writing.
func (p *postgresDB) transact(caller context.Context, d durability, f func(*tx) error) (seq int64, end ending, err error) {
	ctx, cancelCause := context.WithCancelCause(context.WithoutCancel(caller))
	cancel := func() { cancelCause(nil) }
	defer cancel()
	stop := context.AfterFunc(caller, cancel)
	tooLong := time.AfterFunc(pgBeginTimeout, func() { cancelCause(errNoAnswer) })
	defer func() {
		stop()
		tooLong.Stop()
		if err == nil || end == aborted {
			return
		}
		if ended := caller.Err(); ended != nil {
			err = errors.Join(ended, err)
		} else {
			err = withCause(ctx, err)
		}
	}()
	t, err := p.s.begin(ctx, p.write, nil)
	if err != nil {
		return 0, failed, err
	}
	defer t.sql.Rollback()
	var settings, id string
	var now int64
	if err := t.sql.QueryRowContext(ctx, beginSQL, strconv.FormatInt(pgLockTimeout.Milliseconds(), 10), bool(d)).Scan(&settings, &id, &now); err != nil {
		return 0, failed, err
	}
	t.now = time.UnixMicro(now).UTC()
	tooLong.Reset(pgTxTimeout)
	err = f(t)
	switch {
	case t.broken != nil:
		return 0, failed, t.broken
	case err != nil:
		return 0, aborted, err
	}
	// From here on no caller interrupts: whether an interrupted commit happened is unknown.
	if !stop() {
		return 0, failed, caller.Err()
	}
	impatience := time.AfterFunc(pgCommitTimeout, cancel)
	err = t.sql.Commit()
	impatience.Stop()
	if err != nil {
		if end, err = p.outcome(id, err); err != nil {
			return 0, end, err
		}
	}
	return t.seq, failed, nil
}

// errNoAnswer says that the server took a connection and then did not answer.
var errNoAnswer = errors.New("the server does not answer")

// withCause returns err, or why ctx was ended where that is known better.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause == errNoAnswer {
		return cause
	}
	return err
}

// outcome finds out what became of a transaction whose commit was not answered: it
// returns nil where it happened, failed where it did not, and failedCommit where that cannot be told.
func (p *postgresDB) outcome(id string, cause error) (ending, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pgCommitTimeout)
	defer cancel()
	for ctx.Err() == nil {
		var status sql.NullString
		err := p.conns.read.QueryRowContext(ctx, `SELECT pg_xact_status($1::text::xid8)`, id).Scan(&status)
		switch {
		case err == nil && status.String == "committed":
			return failed, nil
		case err == nil && status.String == "aborted":
			return failed, cause
		case err == nil && !status.Valid, err != nil && code(err) != "" && !connectionLost(err):
			return failedCommit, cause
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.s.done:
			return failedCommit, cause
		case <-ctx.Done():
		}
	}
	return failedCommit, fmt.Errorf("it is not known whether it was written: %w", cause)
}

// deleteRevocation closes the connections that nobody uses, where err says that they lead to a
// server that is not the one any more.
func (p *postgresDB) dropStale(err error) {
	if code(err) != codeReadOnly {
		return
	}
	p.closeIdle()
}

// ping implements database.
func (p *postgresDB) ping(ctx context.Context) error {
	return p.reading(ctx, func(c *conns) error {
		var seq int64
		return c.hot.lastSeq.QueryRowContext(ctx).Scan(&seq)
	})
}

// close implements database.
func (p *postgresDB) close(stopped func()) {
	p.closed.Store(true)
	close(p.conns.stop)
	stopped()
	closed := make(chan struct{})
	go func() {
		// What runs is waited for here.
		p.conns.read.Close()
		p.write.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(drainTimeout):
	}
}
