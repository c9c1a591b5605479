//go:build linux || darwin || freebsd || netbsd || openbsd

package sqlite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// The bytes that SQLite locks on a database: a process that has it open holds a shared lock on some of
// them in WAL mode all the time (https://www.sqlite.org/src/file/src/os.h, PENDING_BYTE).
const (
	lockStart  = 0x40000000
	lockLength = 512
)

// lockDatabase locks the database against all use until f is closed, or fails where it is
// in use. It uses the system's locks and not SQLite, which can't lock a damaged file.
func lockDatabase(f *os.File) error {
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: lockStart, Len: lockLength}
	err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%s is in use: stop the gateway, and whatever else has it open, first", f.Name())
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

// chownLike gives f the owner of another file, where this process may.
func chownLike(f *os.File, other os.FileInfo) error {
	stat, ok := other.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// SyncDir syncs the names in dir to the disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
