package sqlite

import (
	"context"
	"os"
	"time"
)

// SQLite moves the write-ahead log into the database when the log has grown to 4 MB, and then overwrites the log from its
// beginning. So erased data could stay in the log for long. And while a reader always uses the log, the log grows
// (https://www.sqlite.org/wal.html, section 6). So the store empties the log itself.
const (
	// logInterval is the time after which a log that is not empty is emptied.
	logInterval = time.Minute
	// logBusy is how long an attempt to empty the log waits for readers. Writers wait meanwhile.
	logBusy = 100 * time.Millisecond
	// logRetry is the pause after the first attempt that met a reader. Each further pause is twice as long, up to logInterval.
	logRetry = 200 * time.Millisecond
)

// emptyLogs empties the write-ahead log every logInterval, and after each transaction that erased data, until the store is
// closed.
func (l *database) emptyLogs() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wait := logInterval
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-l.s.Done():
			return
		case <-l.erased:
			wait = 0
		case <-timer.C:
		}
		switch done := l.emptyLog(ctx); {
		case done:
			wait = logInterval
		case wait == 0 || wait == logInterval:
			wait = logRetry
		default:
			wait = min(2*wait, logInterval)
		}
		timer.Reset(wait)
	}
}

// emptyLog moves the write-ahead log into the database and truncates the log. It reports whether the log is empty.
func (l *database) emptyLog(ctx context.Context) bool {
	if info, err := os.Stat(l.path + "-wal"); err == nil && info.Size() == 0 {
		return true
	}
	db, err := l.acquire(ctx)
	if err != nil {
		return false
	}
	defer l.release(db)
	var busy, frames, moved int
	err = db.checkpoint.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved)
	return err == nil && busy == 0
}

// logErasure makes emptyLogs empty the log at once. It does not block.
func (l *database) logErasure() {
	select {
	case l.erased <- struct{}{}:
	default:
	}
}
