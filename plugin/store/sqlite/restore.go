package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// Restored is the result of Restore.
type Restored struct {
	// Aside is the new path of the former database, "" where there was none.
	Aside string
	// Revocations is how many revocations of the former database were written into the backup's copy.
	Revocations int
	// Unread is why the former database could not be read completely: some or all of its later
	// revocations are lost. nil where it was read, was not there, or was
	// not to be read.
	Unread error
}

// RevocationWriter writes a revocation into a database, with its event.
type RevocationWriter func(ctx context.Context, s *Store, r management.Revocation) error

// Restore puts a backup in the place of the database at path, which may be missing or
// damaged. No process may have that open; its locks show one that does. The backup
// itself stays unchanged: a copy of it is checked, migrated, passed to check and then put in
// place. Nothing has changed before. The former database, with its write-ahead
// log, is renamed.
//
// Revocations of the former database that the backup lacks (keys revoked, disabled or deleted, tenants
// suspended or deleted, secrets and management tokens ended) are
// written into the copy by keep, before it is put in place. Those without a row in the backup
// are stored for the case that a later backup is restored. The console's sessions
// end. With keep nil the content is the backup's. The epoch rises in any case.
//
// Restore must not be called in a process that has the database at path open. It blocks for as
// long as reading both takes.
func Restore(ctx context.Context, backup, path string, logger *slog.Logger, check func(context.Context, *Store) error, keep RevocationWriter) (done Restored, err error) {
	id, err := Identity(path)
	if err != nil {
		return done, err
	}
	locked, old, err := lockOut(id)
	if err != nil {
		return done, err
	}
	if locked != nil {
		defer locked.Close()
	}
	copied, err := copyBackup(backup, id, old)
	if err != nil {
		return done, fmt.Errorf("copying the backup: %w", err)
	}
	defer Remove(copied) // what is still there
	if err := checkCopy(ctx, copied, logger, check); err != nil {
		return done, fmt.Errorf("the backup %s can't be used: %w", backup, err)
	}
	if err := takeOver(ctx, copied, locked, old, logger, keep, &done); err != nil {
		return done, fmt.Errorf("carrying over the revocations since the backup: %w", err)
	}
	aside := id + ".replaced-" + time.Now().UTC().Format("20060102T150405.000Z")
	if err := swap(id, copied, aside, old != nil); err != nil || old == nil {
		return done, err
	}
	done.Aside = aside
	return done, nil
}

// lockOut locks the database until f is closed, and fails where a process has it
// open. Where there is no database, it returns nil twice and locks nothing.
func lockOut(path string) (f *os.File, old os.FileInfo, err error) {
	f, err = os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if old, err = f.Stat(); err == nil && !old.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil {
		err = lockDatabase(f)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, old, nil
}

// copyBackup copies the backup to a private file in the database's directory.
func copyBackup(backup, id string, old os.FileInfo) (copied string, err error) {
	from, err := os.Open(backup)
	if err != nil {
		return "", err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", backup)
	}
	if old != nil && os.SameFile(info, old) {
		return "", fmt.Errorf("%s is the database itself", backup)
	}
	if wal, err := os.Stat(backup + "-wal"); err == nil && wal.Size() > 0 {
		return "", fmt.Errorf("%s has a write-ahead log next to it: it is a database in use, or the copy of one, and no backup", backup)
	}
	to, err := os.CreateTemp(filepath.Dir(id), filepath.Base(id)+".restoring-") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	if err == nil && old != nil {
		err = chownLike(to, old)
	}
	if err == nil {
		err = to.Sync()
	}
	if closed := to.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(to.Name())
		return "", err
	}
	return to.Name(), nil
}

// checkCopy opens the copy of a backup, which migrates it, and checks all of it.
func checkCopy(ctx context.Context, copied string, logger *slog.Logger, check func(context.Context, *Store) error) error {
	s, err := OpenExisting(ctx, copied, logger)
	if err != nil {
		return err
	}
	defer s.Close()
	err = s.Query(ctx, "checking the database", func(f *sqlstore.Conns) error {
		var found string
		if err := f.Read.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&found); err != nil {
			return err
		}
		if found != "ok" {
			return &sqlstore.SchemaError{Text: "it is damaged: " + found}
		}
		return nil
	})
	if err == nil && check != nil {
		err = check(ctx, s)
	}
	if err != nil {
		return err
	}
	return closeWhole(s, copied)
}

// closeWhole closes a database whose file alone is used from then on.
func closeWhole(s *Store, file string) error {
	if err := s.Close(); err != nil {
		return err
	}
	// Closing moves the log into the database; what is put in place is that alone.
	if wal, err := os.Stat(file + "-wal"); err == nil && wal.Size() > 0 {
		return errors.New("its write-ahead log could not be moved into it")
	}
	return nil
}

// swap renames the database at id to aside, where there is one, and puts copied in its place. It
// undoes a failure.
func swap(id, copied, aside string, exists bool) (err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
			err = fmt.Errorf("putting the backup in place: %w", err)
		}
	}()
	if exists {
		// A second name, so that at no moment a starting gateway finds no database there,
		// and makes a new one.
		if err := os.Link(id, aside); err != nil {
			return err
		}
		undo = append(undo, func() { os.Remove(aside) })
	}
	// Before the new database is there: SQLite would take the old one's log for its.
	for _, ext := range []string{"-wal", "-shm"} {
		err := os.Rename(id+ext, aside+ext)
		if err == nil {
			undo = append(undo, func() { os.Rename(aside+ext, id+ext) })
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(copied, id); err != nil {
		return err
	}
	undo = nil
	return SyncDir(filepath.Dir(id))
}
