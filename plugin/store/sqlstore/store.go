// Package sqlstore keeps tenants, keys and everything about them in SQL: SQLite, in one
// file beside the gateway.
//
// Every method may be called from many goroutines. Reads run beside each other and
// beside a write; writes run one after another. What was committed is on the disk
// (synchronous=FULL). Several processes may use one file at once.
//
// Times are kept to the microsecond and returned in UTC.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"

	_ "modernc.org/sqlite" // registers the driver
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	_ gateway.Store    = (*Store)(nil)
	_ management.Store = (*Store)(nil)
)

const (
	// busyTimeout is how long a write waits for another process's.
	busyTimeout = 5 * time.Second
	// lockedTimeout is how long a write waits where the one before found the file locked: who
	// queues behind others that wait would else be answered after many times busyTimeout.
	lockedTimeout = 200 * time.Millisecond
	// lockedFor is how long that holds after the last write that found it so.
	lockedFor = 5 * time.Second
	// reopenEvery bounds how often a database that fails is opened anew.
	reopenEvery = 500 * time.Millisecond
	// drainTimeout is how long closing connections wait for those who use them.
	drainTimeout = time.Second
	// openTimeout bounds opening anew, which no caller's context does.
	openTimeout = 10 * time.Second
)

// Store is a store in one SQLite file. It implements gateway.Store and management.Store.
type Store struct {
	path string
	d    *dialect
	log  *slog.Logger
	busy time.Duration
	// now is the clock of leases and of the change sequence.
	now func() time.Time

	mu sync.Mutex
	// cur is nil while the database is being opened anew or could not be.
	cur *file
	// opening is closed when an opening under way has ended; nil when none is.
	opening chan struct{}
	// broken is why cur is nil.
	broken error
	// nextOpen is the earliest time of the next opening.
	nextOpen time.Time
	closed   bool

	// locked is when and how a write last found the file locked by another process; nil
	// since one did not.
	locked atomic.Pointer[lock]

	done    chan struct{}
	watcher sync.WaitGroup
	feed    feed
}

// lock is a write's failure to get the file for itself.
type lock struct {
	at  time.Time
	err error
}

// Open opens the database at path, creating or migrating it as needed; the directory
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
	f, err := openFile(ctx, id, create, busy, logger)
	if err != nil {
		return nil, explain("opening the database", id, err)
	}
	s := &Store{path: id, d: sqliteDialect, log: logger, busy: busy, now: time.Now, cur: f, done: make(chan struct{})}
	s.feed.init()
	s.watcher.Go(s.watch)
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

// Identity returns the path of the database: absolute, without symbolic links.
func (s *Store) Identity() string { return s.path }

// Close waits shortly for what is under way and closes the database.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	f := s.cur
	s.cur = nil
	if f != nil {
		s.retire(f)
	}
	s.mu.Unlock()
	close(s.done)
	s.watcher.Wait()
	if f != nil {
		f.drain()
		f.close()
	}
	return nil
}

// Ping says whether the database can be read, and whether what would be written to it
// would be found again.
func (s *Store) Ping(ctx context.Context) error {
	return s.reading(ctx, "asking the database", func(f *file) error {
		if err := f.inPlace(); err != nil {
			return err
		}
		var seq int64
		return f.hot.lastSeq.QueryRowContext(ctx).Scan(&seq)
	})
}

// acquire returns the open database, which the caller releases. Where it could not be
// opened the last time, and that is a while ago, it is tried again.
func (s *Store) acquire(ctx context.Context) (*file, error) {
	for {
		s.mu.Lock()
		switch {
		case s.closed:
			s.mu.Unlock()
			return nil, errClosed
		case s.cur != nil:
			f := s.cur
			f.users++
			s.mu.Unlock()
			return f, nil
		case s.opening == nil && time.Now().Before(s.nextOpen):
			err := s.broken
			s.mu.Unlock()
			return nil, err
		case s.opening == nil:
			s.startOpening(nil)
		}
		wait := s.opening
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Store) release(f *file) {
	s.mu.Lock()
	if f.users--; f.users == 0 && f.retired {
		close(f.drained)
	}
	s.mu.Unlock()
}

// retire marks a file that nobody can acquire any more. s.mu is held.
func (s *Store) retire(f *file) {
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
func (s *Store) reopen(ctx context.Context, f *file, cause error) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	if s.cur == f {
		if time.Now().Before(s.nextOpen) {
			s.mu.Unlock()
			return false
		}
		s.log.Warn("opening the database anew", "path", s.path, "because", cause)
		s.cur = nil
		s.retire(f)
		s.startOpening(f)
	}
	wait := s.opening
	s.mu.Unlock()
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
// s.mu is held, and cur is nil.
func (s *Store) startOpening(old *file) {
	opening := make(chan struct{})
	s.opening = opening
	s.nextOpen = time.Now().Add(reopenEvery)
	go func() {
		if old != nil {
			old.drain()
			old.close()
			old.discardLog(s.log)
		}
		ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
		defer cancel()
		f, err := openFile(ctx, s.path, false, s.busy, s.log)

		s.mu.Lock()
		defer s.mu.Unlock()
		s.opening = nil
		close(opening)
		switch {
		case err != nil:
			if s.broken == nil || s.broken.Error() != err.Error() {
				s.log.Error("the database cannot be opened; trying again", "path", s.path, "error", explain("opening", s.path, err))
			}
			s.broken = err
		case s.closed:
			f.close()
		default:
			if s.broken != nil {
				s.log.Info("the database is open again", "path", s.path)
			}
			s.cur, s.broken = f, nil
		}
		s.nextOpen = time.Now().Add(reopenEvery)
	}()
}

// reading calls f with the open database, once more with a newly opened one where that
// may help, and explains its error. f may run twice.
func (s *Store) reading(ctx context.Context, doing string, f func(*file) error) error {
	for again := true; ; again = false {
		db, err := s.acquire(ctx)
		if err != nil {
			return explain(doing, s.path, err)
		}
		err = func() error {
			defer s.release(db)
			return f(db)
		}()
		if err == nil {
			return nil
		}
		if !again || !reopens(err) || !s.reopen(ctx, db, err) {
			return explain(doing, s.path, err)
		}
	}
}

// writing runs f in a transaction that writes, and commits it when f returns nil. f may
// run twice, never after a commit was tried. What f refuses is returned as it is.
func (s *Store) writing(ctx context.Context, doing string, f func(*tx) error) error {
	for again := true; ; again = false {
		db, err := s.acquire(ctx)
		if err != nil {
			return explain(doing, s.path, err)
		}
		seq, end, err := s.transact(ctx, db, f)
		switch {
		case err == nil:
			if seq != 0 {
				s.feed.written(seq)
			}
			return nil
		case end == refused:
			return err
		case !reopens(err) || !s.reopen(ctx, db, err) || end == failedCommit || !again:
			return explain(doing, s.path, err)
		}
	}
}

// ending is how a transaction that was not committed ended.
type ending int

const (
	failed       ending = iota // the store's fault
	failedCommit               // the same, and it was tried to commit
	refused                    // f's decision
)

// transact is one attempt of writing. It releases db and returns the newest change's
// seq, 0 where f made none.
func (s *Store) transact(ctx context.Context, db *file, f func(*tx) error) (seq int64, end ending, err error) {
	defer s.release(db)
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
	t, err := s.beginWriting(ctx, cancel, db)
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
		return 0, refused, err
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
func (s *Store) beginWriting(ctx context.Context, cancel func(), db *file) (*tx, error) {
	before := s.locked.Load()
	if before == nil || time.Since(before.at) > lockedFor {
		t, err := s.begin(ctx, db.write, nil)
		s.noteLock(err)
		return t, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	impatience := time.AfterFunc(lockedTimeout, cancel)
	t, err := s.begin(ctx, db.write, nil)
	if !impatience.Stop() {
		if err == nil {
			t.sql.Rollback()
		}
		return nil, before.err
	}
	s.noteLock(err)
	return t, err
}

// noteLock notes whether a write found the file locked.
func (s *Store) noteLock(err error) {
	switch {
	case err == nil:
		if s.locked.Load() != nil {
			s.locked.Store(nil)
		}
	case primary(err) == sqlite3.SQLITE_BUSY:
		s.locked.Store(&lock{time.Now(), err})
	}
}

// Update implements management.Store. Updates of one store run one after another, so f
// must not itself call anything that writes. f runs again where the database had to be
// opened anew before anything was committed.
func (s *Store) Update(ctx context.Context, f func(management.Tx) error) error {
	return s.writing(ctx, "writing to the database", func(t *tx) error { return f(t) })
}

// View implements management.Store.
func (s *Store) View(ctx context.Context, f func(management.Tx) error) error {
	var fault error
	err := s.reading(ctx, "reading the database", func(db *file) error {
		fault = nil
		t, err := s.begin(ctx, db.read, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer t.sql.Rollback()
		if fault = f(t); t.broken != nil {
			return t.broken
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fault
}
