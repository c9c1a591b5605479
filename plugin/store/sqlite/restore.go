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
	// Aside is the new path of the former database, or "" if there was none.
	Aside string
	// Revocations counts the former database's revocations that Restore wrote to the copy of the backup.
	Revocations int
	// Unread is the reason why the former database could not be read completely. Then some or all
	// revocations made after the backup are lost. Unread is nil if the database was read or did not exist,
	// or if keep was nil.
	Unread error
}

// RevocationWriter writes a revocation to a database, with its audit event.
type RevocationWriter func(ctx context.Context, s *Store, r management.Revocation) error

// Restore replaces the database at path, which may be missing or damaged, by a backup. The backup
// itself stays unchanged. Restore copies the backup, checks and migrates the copy, passes the copy to
// check, and moves the copy to path. Restore changes nothing at path before that move. Restore renames
// the former database and its write-ahead log.
//
// Restore calls keep to write those revocations of the former database that the backup lacks to the
// copy: revoked, disabled and deleted keys, suspended and deleted tenants, and ended secrets and
// management tokens. Revocations without a row in the backup are stored, in case a later backup is
// restored. All sessions of the console end. If keep is nil, the content is the backup's. The epoch
// rises in any case.
//
// No process may have the database at path open. Restore detects other processes by their locks, but
// does not detect its own process. Restore owns the database meanwhile, so no gateway can start on it. Restore blocks until it has read both databases.
func Restore(ctx context.Context, backup, path string, logger *slog.Logger, check func(context.Context, *Store) error, keep RevocationWriter) (done Restored, err error) {
	id, err := Identity(path)
	if err != nil {
		return done, err
	}
	own, err := Own(ctx, id, OwnOptions{Node: "restore", Log: logger})
	if owned := (*OwnerError)(nil); errors.As(err, &owned) {
		return done, fmt.Errorf("%s uses the database: first stop the gateway", owned.Owner())
	}
	if err != nil {
		return done, err
	}
	defer own.Release()
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
	defer Remove(copied) // Remove deletes the copy if Restore did not move it to the database's path.
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

// lockOut locks the database until f is closed, and fails if a process has the database open. If the
// database does not exist, lockOut locks nothing and returns nil for f and old.
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
		return "", fmt.Errorf("%s has a write-ahead log next to it: it is a database in use or a copy of one, not a backup", backup)
	}
	to, err := os.CreateTemp(filepath.Dir(id), filepath.Base(id)+".restoring-") // os.CreateTemp creates the file with mode 0600.
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

// checkCopy opens a backup's copy, which migrates the copy's schema, and then runs every integrity
// check on the copy.
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

// closeWhole closes a database so that its main file holds everything. The caller then uses the main
// file without the write-ahead log.
func closeWhole(s *Store, file string) error {
	if err := s.Close(); err != nil {
		return err
	}
	// Closing normally moves the write-ahead log into the database. A log that is left is an error, because
	// only the database file is moved to the final path.
	if wal, err := os.Stat(file + "-wal"); err == nil && wal.Size() > 0 {
		return errors.New("its write-ahead log could not be moved into the database file")
	}
	return nil
}

// swap renames the database at id to aside, if the database exists, and then renames copied to id. If a
// step fails, swap undoes the earlier steps.
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
		// The link gives the old database a second name. So the path id always leads to a database, and a
		// gateway that starts meanwhile does not create a new one.
		if err := os.Link(id, aside); err != nil {
			return err
		}
		undo = append(undo, func() { os.Remove(aside) })
	}
	// The old write-ahead log is moved first, because SQLite would apply it to the new database.
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
