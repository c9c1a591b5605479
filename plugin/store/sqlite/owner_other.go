//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package sqlite

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// lockFile always returns an error that wraps errors.ErrUnsupported.
func lockFile(string) (*os.File, error) {
	return nil, fmt.Errorf("locking a file on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
