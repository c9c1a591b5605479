package sqlstore

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

	_ "modernc.org/sqlite" // registers the driver
	sqlite3 "modernc.org/sqlite/lib"
)

// driverName is what the SQLite driver is registered as.
var driverName = "sqlite"

const (
	// busyTimeout is how long a write waits for another process's.
	busyTimeout = 5 * time.Second
	// lockedTimeout is how long a write waits where the one before found the file locked: who
	// queues behind others that wait would else be answered after many times busyTimeout.
	lockedTimeout = 200 * time.Millisecond
	// lockedFor is how long that holds after the last write that found it so.
	lockedFor = 5 * time.Second
	// reopenInterval bounds how often a database that fails is opened anew.
	reopenInterval = 500 * time.Millisecond
	// drainTimeout is how long closing connections wait for those who use them.
	drainTimeout = time.Second
	// openTimeout bounds opening anew, which no caller's context does.
	openTimeout = 10 * time.Second
)

// watchInterval is how often it is looked whether another process has committed. One look
// takes some microseconds.
const watchInterval = 50 * time.Millisecond

// sqliteDB is an SQLite file, opened anew where that may help.
type sqliteDB struct {
	s    *Store
	busy time.Duration

	mu sync.Mutex
	// cur is nil while the database is being opened anew or could not be.
	cur *file
	// opening is closed when an opening under way has ended; nil when none is.
	opening chan struct{}
	// connectionBroken is why cur is nil.
	broken error
	// nextOpen is the earliest time of the next opening.
	nextOpen time.Time
	closed   bool

	// locked is when and how a write last found the file locked by another process; nil
	// since one did not.
	locked atomic.Pointer[lockFailure]
}

// lockFailure is a write's failure to get the file for itself.
type lockFailure struct {
	at  time.Time
	err error
}

// Open opens the SQLite database at path, creating or migrating it as needed; the directory
// must exist. It blocks for as long as another process holds the file locked, at most
// 5 s or until ctx ends. A database written by a newer version is refused, as is a
// file that is no database of Keygate's. Errors wrap gateway.ErrStore.
func Open(ctx context.Context, path string, logger *slog.Logger) (*Store, error) {
	return open(ctx, path, logger, busyTimeout)
}

// OpenExisting is Open for a database that is there: a missing or empty file is an error.
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
	if err := checkMount(id); err != nil {
		return nil, explain("opening the database", id, err)
	}
	f, err := openFile(ctx, id, create, busy, logger)
	if err != nil {
		return nil, explain("opening the database", id, err)
	}
	s := newStore(sqliteDialect, id, logger)
	l := &sqliteDB{s: s, busy: busy, cur: f}
	s.db = l
	s.watcher.Go(l.watch)
	return s, nil
}

// Identity returns what two paths have in common when they name the same database:
// the absolute path without symbolic links. The file itself need not exist.
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
	// Another process may have made the file just now; only a link is in the way.
	if info, err := os.Lstat(abs); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a symbolic link to nothing", abs)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// close implements database.
func (l *sqliteDB) close(stopped func()) {
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

// ping implements database. It also says whether what would be written would be found again.
func (l *sqliteDB) ping(ctx context.Context) error {
	return l.readingFile(ctx, func(f *file) error {
		if err := f.inPlace(); err != nil {
			return err
		}
		var seq int64
		return f.hot.lastSeq.QueryRowContext(ctx).Scan(&seq)
	})
}

// acquire returns the open database, which the caller releases. Where it could not be
// opened the last time, and that is a while ago, it is tried again.
func (l *sqliteDB) acquire(ctx context.Context) (*file, error) {
	for {
		l.mu.Lock()
		switch {
		case l.closed:
			l.mu.Unlock()
			return nil, errClosed
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

func (l *sqliteDB) release(f *file) {
	l.mu.Lock()
	if f.users--; f.users == 0 && f.retired {
		close(f.drained)
	}
	l.mu.Unlock()
}

// retire marks a file that nobody can acquire any more. l.mu is held.
func (l *sqliteDB) retire(f *file) {
	f.retired = true
	close(f.stop)
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

// reopen replaces f, whose use failed, and says whether there is now another to try.
// It gives up f's connections before it opens new ones: those of one process share
// their view of the write-ahead log, which is what may be wrong.
func (l *sqliteDB) reopen(ctx context.Context, f *file, cause error) bool {
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
		l.s.log.Warn("opening the database anew", "path", l.s.path, "because", cause)
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

// startOpening closes old, if there is one, and opens the database, beside the caller.
// l.mu is held, and cur is nil.
func (l *sqliteDB) startOpening(old *file) {
	opening := make(chan struct{})
	l.opening = opening
	l.nextOpen = time.Now().Add(reopenInterval)
	go func() {
		if old != nil {
			old.drain()
			old.close()
			old.discardLog(l.s.log)
		}
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		f, err := openFile(ctx, l.s.path, false, l.busy, l.s.log)

		l.mu.Lock()
		defer l.mu.Unlock()
		l.opening = nil
		close(opening)
		switch {
		case err != nil:
			if l.broken == nil || l.broken.Error() != err.Error() {
				l.s.log.Error("the database cannot be opened; trying again", "path", l.s.path, "error", explain("opening", l.s.path, err))
			}
			l.broken = err
		case l.closed:
			f.close()
		default:
			if l.broken != nil {
				l.s.log.Info("the database is open again", "path", l.s.path)
			}
			l.cur, l.broken = f, nil
		}
		l.nextOpen = time.Now().Add(reopenInterval)
	}()
}

// reading implements database. f runs once more with a newly opened database where that
// may help.
func (l *sqliteDB) reading(ctx context.Context, f func(*conns) error) error {
	return l.readingFile(ctx, func(db *file) error { return f(&db.conns) })
}

func (l *sqliteDB) readingFile(ctx context.Context, f func(*file) error) error {
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

// streaming implements database.
func (l *sqliteDB) streaming(ctx context.Context, f func(*conns) error) error {
	db, err := l.acquire(ctx)
	if err != nil {
		return err
	}
	defer l.release(db)
	return f(&db.conns)
}

// writing implements database.
func (l *sqliteDB) writing(ctx context.Context, _ durability, f func(*tx) error) (seq int64, end ending, err error) {
	for again := true; ; again = false {
		db, err := l.acquire(ctx)
		if err != nil {
			return 0, failed, err
		}
		seq, end, err := l.transact(ctx, db, f)
		if err == nil || end == aborted ||
			!reopens(err) || !l.reopen(ctx, db, err) || end == failedCommit || !again {
			return seq, end, err
		}
	}
}

// viewing implements database.
func (l *sqliteDB) viewing(ctx context.Context, f func(*tx) error) error {
	return l.reading(ctx, func(db *conns) error {
		t, err := l.s.begin(ctx, db.read, l.s.d.snapshot())
		if err != nil {
			return err
		}
		defer t.sql.Rollback()
		return f(t)
	})
}

// transact is one attempt of writing. It releases db and returns the newest change's
// seq, 0 where f made none.
func (l *sqliteDB) transact(ctx context.Context, db *file, f func(*tx) error) (seq int64, end ending, err error) {
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
		return 0, failed, err
	}
	defer t.sql.Rollback()
	// Looked at now that no other connection writes.
	if err := db.inPlace(); err != nil {
		return 0, failed, err
	}
	err = f(t)
	switch {
	case t.broken != nil:
		return 0, failed, t.broken
	case err != nil:
		return 0, aborted, err
	}
	// From here on nobody interrupts: the driver reports an interrupted commit as failed
	// though it may have happened, and whoever counts on that would do it again.
	if !stop() {
		return 0, failed, caller.Err()
	}
	if err := t.sql.Commit(); err != nil {
		return 0, failedCommit, err
	}
	return t.seq, failed, nil
}

// beginWriting begins a transaction that writes. cancel ends ctx.
func (l *sqliteDB) beginWriting(ctx context.Context, cancel func(), db *file) (*tx, error) {
	before := l.locked.Load()
	if before == nil || time.Since(before.at) > lockedFor {
		t, err := l.s.begin(ctx, db.write, nil)
		l.recordLock(err)
		return t, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	impatience := time.AfterFunc(lockedTimeout, cancel)
	t, err := l.s.begin(ctx, db.write, nil)
	if !impatience.Stop() {
		if err == nil {
			t.sql.Rollback()
		}
		return nil, before.err
	}
	l.recordLock(err)
	return t, err
}

// recordLock notes whether a write found the file locked.
func (l *sqliteDB) recordLock(err error) {
	switch {
	case err == nil:
		if l.locked.Load() != nil {
			l.locked.Store(nil)
		}
	case primary(err) == sqlite3.SQLITE_BUSY:
		l.locked.Store(&lockFailure{time.Now(), err})
	}
}

// watch notices commits of other processes, and a database that was replaced or came
// back, until the store is closed.
func (l *sqliteDB) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var last *file
	var version int64
	for {
		select {
		case <-l.s.done:
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
			var v, seq int64
			if err := db.watchConn.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&v); err != nil {
				return err
			}
			if v == version && db == last {
				return nil
			}
			if err := db.hot.lastSeq.QueryRowContext(ctx).Scan(&seq); err != nil {
				return err
			}
			l.s.feed.observe(seq, db != last)
			version, last = v, db
			return nil
		}()
		if reopens(err) {
			l.reopen(ctx, db, err)
		}
	}
}
