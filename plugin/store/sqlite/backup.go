package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Backup writes the database as of one moment to a new file, and returns the file's size in bytes. Only
// the file's owner may read it. The file must not exist before. After an error the file does not exist
// either. If the process crashes during Backup, an empty file remains.
//
// Backup blocks until it has read and written all of the database. Writers continue meanwhile, and their
// changes stay in the write-ahead log. All changes committed before the call are in the backup
// (https://www.sqlite.org/lang_vacuum.html#vacuum_with_an_into_clause).
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
		case <-db.Stop: // The store is closing the database.
			cancel()
		case <-ctx.Done():
		}
	}()

	// The empty file reserves the name: Backup overwrites no existing file, and no reader sees half a backup
	// under this name.
	if err := CreatePrivate(file); err != nil {
		return 0, fmt.Errorf("backing up to a new file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(file)
		}
	}()
	// SQLite accepts an existing empty file as the backup and keeps its mode, which is 0600.
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".partial-")
	if err != nil {
		return 0, fmt.Errorf("backing up: %w", err)
	}
	partial := f.Name()
	f.Close()
	defer os.Remove(partial) // Remove deletes the partial file if Backup did not rename it.
	// The error of VACUUM INTO is not explained as an error of the database, because its cause is more
	// likely the disk of the backup.
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

// CreatePrivate creates an empty file that only its owner may read. It fails if the file exists.
func CreatePrivate(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// SyncFile syncs a file to the disk and returns its size. The file must not be an open database,
// because closing it would drop SQLite's locks.
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
