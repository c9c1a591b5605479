//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package sqlite

import (
	"os"
)

// lockDatabase does nothing on systems without POSIX locks. On these systems a database that is in use
// can't be renamed, so Restore fails by itself.
func lockDatabase(*os.File) error { return nil }

// chownLike does nothing on systems without POSIX file owners.
func chownLike(*os.File, os.FileInfo) error { return nil }

// SyncDir does nothing on systems other than Unix, because not all of them can sync a directory.
func SyncDir(string) error { return nil }
