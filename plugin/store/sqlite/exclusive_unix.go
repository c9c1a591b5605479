//go:build linux || darwin || freebsd || netbsd || openbsd

package sqlite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// The constants are the bytes of a database file that SQLite locks. In WAL mode a process holds a
// shared lock on some of these bytes for as long as the process has the database open
// (https://www.sqlite.org/src/file/src/os.h, PENDING_BYTE).
const (
	lockStart  = 0x40000000
	lockLength = 512
)

// lockDatabase locks the database against all use until f is closed. It fails if a process has the
// database open. It uses the locks of the operating system, because SQLite's functions can't lock a
// damaged file.
func lockDatabase(f *os.File) error {
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: lockStart, Len: lockLength}
	err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%s is in use: first stop the gateway and all other programs that have it open", f.Name())
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

// chownLike gives f the owner of the file other if this process runs as root. If not, chownLike does
// nothing.
func chownLike(f *os.File, other os.FileInfo) error {
	stat, ok := other.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// SyncDir syncs a directory to the disk, so that a rename in the directory survives a crash.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
