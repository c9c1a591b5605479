package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // The import registers the SQLite driver.
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// driverName is the name under which the SQLite driver is registered. Tests replace it.
var driverName = "sqlite"

const (
	// busyTimeout is how long a write waits for another process's write.
	busyTimeout = 5 * time.Second
	// lockedTimeout is how long a write waits for the lock after an earlier write found the file locked.
	// Without the shorter time, queued writes would each wait for busyTimeout, one after another.
	lockedTimeout = 200 * time.Millisecond
	// lockedFor is how long lockedTimeout applies after the last write that found the file locked.
	lockedFor = 5 * time.Second
	// reopenInterval is the least time between two attempts to open a failing database.
	reopenInterval = 500 * time.Millisecond
	// drainTimeout bounds how long the closing of connections waits for calls that use them.
	drainTimeout = time.Second
	// openTimeout bounds opening the database again. Opening runs in the background, so no caller's context
	// bounds it.
	openTimeout = 10 * time.Second
)

// watchInterval is how often the store checks for commits of other processes. One check takes some
// microseconds.
const watchInterval = 50 * time.Millisecond

// Store is a store in an SQLite file.
type Store struct {
	*sqlstore.Store
	replication.Source
	db *database
}

// database is an SQLite file. After a failure that new connections may solve, the file is opened again.
type database struct {
	s    *sqlstore.Store
	path string
	busy time.Duration

	mu sync.Mutex
	// cur is the open file. It is nil while the file is being opened again, or if it could not be opened.
	cur *file
	// opening is closed when the present attempt to open the file has ended. It is nil while no attempt
	// runs.
	opening chan struct{}
	// broken is the reason why cur, the open file, is nil.
	broken error
	// nextOpen is the earliest time of the next attempt to open the file.
	nextOpen time.Time
	closed   bool
	// erased receives a value after a transaction that erased data.
	erased chan struct{}

	// locked is the last write that failed because another process had locked the file. It is nil after a
	// write that succeeded.
	locked atomic.Pointer[lockFailure]
}

// lockFailure is a write that failed because another process had locked the file.
type lockFailure struct {
	at  time.Time
	err error
}

// Open opens the SQLite database at path, and creates or migrates it if needed. The directory must
// exist. While another process holds a lock, Open blocks for at most 5 s, or until ctx ends. Open
// rejects databases of other programs, and databases that a newer Keygate has made unusable for this
// program. Its errors wrap gateway.ErrStore.
func Open(ctx context.Context, path string, logger *slog.Logger) (*Store, error) {
	return open(ctx, path, logger, busyTimeout)
}

// OpenExisting opens an existing database as Open does, but a missing or empty file is an error.
func OpenExisting(ctx context.Context, path string, logger *slog.Logger) (*Store, error) {
	return openAs(ctx, path, logger, busyTimeout, false)
}

func open(ctx context.Context, path string, logger *slog.Logger, busy time.Duration) (*Store, error) {
	return openAs(ctx, path, logger, busy, true)
}

func openAs(ctx context.Context, path string, logger *slog.Logger, busy time.Duration, create bool) (*Store, error) {
	id, err := Identity(path)
	if err != nil {
		return nil, explain("opening the database", path, err)
	}
	if err := CheckMount(id); err != nil {
		return nil, explain("opening the database", id, err)
	}
	f, err := openFile(ctx, id, create, busy, logger)
	if err != nil {
		return nil, explain("opening the database", id, err)
	}
	s := sqlstore.New(Dialect, logger)
	l := &database{s: s, path: id, busy: busy, cur: f, erased: make(chan struct{}, 1)}
	s.SetDatabase(l)
	s.Go(l.watch)
	s.Go(l.emptyLogs)
	return &Store{s, replication.NewSource(s), l}, nil
}

// Identity returns the absolute path of a database without symbolic links. The result is the same for
// all paths of one database. The file need not exist.
func Identity(path string) (string, error) {
	if path == "" {
		return "", errors.New("the path is empty")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	// Another process may have created the file in the meantime, so only a symbolic link is an error.
	if info, err := os.Lstat(abs); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a symbolic link to nothing", abs)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// Name implements sqlstore.Database.
func (l *database) Name() string { return l.path }

// Close implements sqlstore.Database.
func (l *database) Close(stopped func()) {
	l.mu.Lock()
	l.closed = true
	f := l.cur
	l.cur = nil
	if f != nil {
		l.retire(f)
	}
	l.mu.Unlock()
	stopped()
	if f != nil {
		f.drain()
		f.close()
	}
}

// Ping implements sqlstore.Database. Ping also fails if the file was removed or replaced, because writes
// would be lost.
func (l *database) Ping(ctx context.Context) error {
	return l.readingFile(ctx, func(f *file) error {
		if err := f.inPlace(); err != nil {
			return err
		}
		_, err := f.LastSeq(ctx)
		return err
	})
}

// acquire returns the open database, which the caller must release. If the database is not open, acquire
// opens it, but starts at most one attempt per reopenInterval. If it is too early for an attempt,
// acquire returns the last failure.
func (l *database) acquire(ctx context.Context) (*file, error) {
	for {
		l.mu.Lock()
		switch {
		case l.closed:
			l.mu.Unlock()
			return nil, sqlstore.ErrClosed
		case l.cur != nil:
			f := l.cur
			f.users++
			l.mu.Unlock()
			return f, nil
		case l.opening == nil && time.Now().Before(l.nextOpen):
			err := l.broken
			l.mu.Unlock()
			return nil, err
		case l.opening == nil:
			l.startOpening(nil)
		}
		wait := l.opening
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *database) release(f *file) {
	l.mu.Lock()
	if f.users--; f.users == 0 && f.retired {
		close(f.drained)
	}
	l.mu.Unlock()
}

// retire marks a file so that no caller can acquire it any more. The caller of retire holds l.mu.
func (l *database) retire(f *file) {
	f.retired = true
	close(f.Stop)
	if f.users == 0 {
		close(f.drained)
	}
}

func (f *file) drain() {
	select {
	case <-f.drained:
	case <-time.After(drainTimeout):
	}
}

// reopen replaces the open file f, whose use failed, and reports whether the caller should try again. It
// closes the connections of f before it opens new ones. The order matters because all connections of a
// process share their view of the write-ahead log, and that view may be wrong.
func (l *database) reopen(ctx context.Context, f *file, cause error) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	if l.cur == f {
		if time.Now().Before(l.nextOpen) {
			l.mu.Unlock()
			return false
		}
		l.s.Log().Warn("the database file was removed, replaced or damaged, or can't be read: the gateway opens it again", "path", l.path, "error", cause)
		l.cur = nil
		l.retire(f)
		l.startOpening(f)
	}
	wait := l.opening
	l.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// startOpening closes old, if it is not nil, and then opens the database. Both steps run in the
// background. The caller holds l.mu, and cur is nil.
func (l *database) startOpening(old *file) {
	opening := make(chan struct{})
	l.opening = opening
	l.nextOpen = time.Now().Add(reopenInterval)
	go func() {
		if old != nil {
			old.drain()
			old.close()
			old.discardLog(l.s.Log())
		}
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		f, err := openFile(ctx, l.path, false, l.busy, l.s.Log())

		l.mu.Lock()
		defer l.mu.Unlock()
		l.opening = nil
		close(opening)
		switch {
		case err != nil:
			if l.broken == nil || l.broken.Error() != err.Error() {
				l.s.Log().Error("the database cannot be opened; trying again: requests that need the database get 503 until it is open", "path", l.path, "error", explain("opening", l.path, err))
			}
			l.broken = err
		case l.closed:
			f.close()
		default:
			if l.broken != nil {
				l.s.Log().Info("the database is open again", "path", l.path)
			}
			l.cur, l.broken = f, nil
		}
		l.nextOpen = time.Now().Add(reopenInterval)
	}()
}

// Query implements sqlstore.Database. If opening the database again may solve a failure, Query calls f a
// second time.
func (l *database) Query(ctx context.Context, f func(*sqlstore.Conns) error) error {
	return l.readingFile(ctx, func(db *file) error { return f(&db.Conns) })
}

func (l *database) readingFile(ctx context.Context, f func(*file) error) error {
	for again := true; ; again = false {
		db, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		err = func() error {
			defer l.release(db)
			return f(db)
		}()
		if err == nil || !again || !reopens(err) || !l.reopen(ctx, db, err) {
			return err
		}
	}
}

// Stream implements sqlstore.Database.
func (l *database) Stream(ctx context.Context, f func(*sqlstore.Conns) error) error {
	db, err := l.acquire(ctx)
	if err != nil {
		return err
	}
	defer l.release(db)
	return f(&db.Conns)
}

// Write implements sqlstore.Database.
func (l *database) Write(ctx context.Context, _ sqlstore.Durability, f func(*sqlstore.Tx) error) (seq int64, end sqlstore.Ending, err error) {
	for again := true; ; again = false {
		db, err := l.acquire(ctx)
		if err != nil {
			return 0, sqlstore.Failed, err
		}
		seq, end, err := l.transact(ctx, db, f)
		if err == nil || end == sqlstore.Aborted ||
			!reopens(err) || !l.reopen(ctx, db, err) || end == sqlstore.FailedCommit || !again {
			return seq, end, err
		}
	}
}

// Snapshot implements sqlstore.Database.
func (l *database) Snapshot(ctx context.Context, f func(*sqlstore.Tx) error) error {
	return l.Query(ctx, func(db *sqlstore.Conns) error {
		t, err := l.s.BeginSnapshot(ctx, db.Read)
		if err != nil {
			return err
		}
		defer t.SQL.Rollback()
		return f(t)
	})
}

// transact makes one attempt to run a writing transaction, and releases db. It returns the number of the
// newest change, or 0 if f made none.
func (l *database) transact(ctx context.Context, db *file, f func(*sqlstore.Tx) error) (seq int64, end sqlstore.Ending, err error) {
	defer l.release(db)
	caller := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	defer cancel()
	stop := context.AfterFunc(caller, cancel)
	defer func() {
		stop()
		if ended := caller.Err(); ended != nil && errors.Is(err, context.Canceled) {
			err = ended
		}
	}()
	t, err := l.beginWriting(ctx, cancel, db)
	if err != nil {
		return 0, sqlstore.Failed, err
	}
	defer t.SQL.Rollback()
	// The file is checked after the transaction has begun, because from then on no other connection can
	// write.
	if err := db.inPlace(); err != nil {
		return 0, sqlstore.Failed, err
	}
	err = f(t)
	switch {
	case t.Broken() != nil:
		return 0, sqlstore.Failed, t.Broken()
	case err != nil:
		return 0, sqlstore.Aborted, err
	}
	// From now on the caller can't interrupt the transaction. The driver reports an interrupted commit as
	// failed although it may have happened, and the caller would repeat the write.
	if !stop() {
		return 0, sqlstore.Failed, caller.Err()
	}
	if err := t.SQL.Commit(); err != nil {
		return 0, sqlstore.FailedCommit, err
	}
	if t.Erased() {
		l.logErasure()
	}
	return t.Seq(), sqlstore.Failed, nil
}

// beginWriting begins a transaction that writes. A call of cancel must end ctx.
func (l *database) beginWriting(ctx context.Context, cancel func(), db *file) (*sqlstore.Tx, error) {
	before := l.locked.Load()
	if before == nil || time.Since(before.at) > lockedFor {
		t, err := l.s.Begin(ctx, db.write, nil)
		l.recordLock(err)
		return t, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	timeout := time.AfterFunc(lockedTimeout, cancel)
	t, err := l.s.Begin(ctx, db.write, nil)
	if !timeout.Stop() {
		if err == nil {
			t.SQL.Rollback()
		}
		return nil, before.err
	}
	l.recordLock(err)
	return t, err
}

// recordLock records whether a write found the file locked. err is the error of the write.
func (l *database) recordLock(err error) {
	switch {
	case err == nil:
		if l.locked.Load() != nil {
			l.locked.Store(nil)
		}
	case primary(err) == sqlite3.SQLITE_BUSY:
		l.locked.Store(&lockFailure{time.Now(), err})
	}
}

// watch looks for commits of other processes until the store is closed. It also looks for a file that
// was replaced or put back.
func (l *database) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var last *file
	var version int64
	for {
		select {
		case <-l.s.Done():
			return
		case <-tick.C:
		}
		db, err := l.acquire(ctx)
		if err != nil {
			continue
		}
		err = func() error {
			defer l.release(db)
			if err := db.inPlace(); err != nil {
				return err
			}
			var v int64
			if err := db.watchConn.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&v); err != nil {
				return err
			}
			if v == version && db == last {
				return nil
			}
			seq, err := db.LastSeq(ctx)
			if err != nil {
				return err
			}
			l.s.Observe(seq, db != last)
			version, last = v, db
			return nil
		}()
		if reopens(err) {
			l.reopen(ctx, db, err)
		}
	}
}
