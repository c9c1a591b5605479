package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Backup writes the database as it is at one moment to file, which only its owner may read,
// and returns its size in bytes. There must be no such file; where it can't be written
// whole, there is none afterwards either. A crash meanwhile leaves an empty one.
//
// It blocks for as long as reading and writing all of it takes. Writers go on, and what they
// write stays in the write-ahead log until then. What was committed before the call is in
// the backup (https://www.sqlite.org/lang_vacuum.html#vacuum_with_an_into_clause).
func (s *Store) Backup(ctx context.Context, file string) (size int64, err error) {
	file, err = filepath.Abs(file)
	if err != nil {
		return 0, err
	}
	l := s.db
	db, err := l.acquire(ctx)
	if err != nil {
		return 0, explain("backing up", s.Identity(), err)
	}
	defer l.release(db)
	if err := db.inPlace(); err != nil {
		return 0, explain("backing up", s.Identity(), err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-db.Stop: // the database is being closed
			cancel()
		case <-ctx.Done():
		}
	}()

	// It reserves the name: no other file is overwritten, and half a backup is never visible.
	if err := CreatePrivate(file); err != nil {
		return 0, fmt.Errorf("backing up to a new file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(file)
		}
	}()
	// SQLite takes an empty file for a new one, and leaves its mode, which is 0600.
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".partial-")
	if err != nil {
		return 0, fmt.Errorf("backing up: %w", err)
	}
	partial := f.Name()
	f.Close()
	defer os.Remove(partial) // where it was not renamed
	// Not explained: a failure here is rather due to the backup's disk than to the database's.
	if _, err := db.Read.ExecContext(ctx, `VACUUM INTO $1`, partial); err != nil {
		return 0, fmt.Errorf("backing up %s to %s: %w", s.Identity(), file, err)
	}
	if size, err = SyncFile(partial); err != nil {
		return 0, fmt.Errorf("backing up: %w", err)
	}
	if err := os.Rename(partial, file); err != nil {
		return 0, fmt.Errorf("backing up: %w", err)
	}
	if err := SyncDir(filepath.Dir(file)); err != nil {
		return 0, fmt.Errorf("backing up: %w", err)
	}
	return size, nil
}

// CreatePrivate makes an empty file that only its owner may read. The file must not exist.
func CreatePrivate(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// SyncFile syncs a file that is no open database to the disk, and returns its size.
func SyncFile(file string) (int64, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), f.Sync()
}
