//go:build linux || darwin || freebsd || netbsd || openbsd

package sqlite

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile opens a file, which it creates if needed, and locks the file until it is closed or the process ends. It
// returns errOwned if the lock is held, and an error that wraps errors.ErrUnsupported if the file system has no locks. It
// does not block. flock(2) locks the open file, so other descriptors of the file do not affect the lock.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errOwned
	case errors.Is(err, syscall.ENOLCK):
		return nil, fmt.Errorf("locking %s: %w: %w", path, err, errors.ErrUnsupported)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}
