//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package sqlite

import (
	"os"
)

// lockDatabase does nothing: on these systems a database that is in use can't be renamed, so that
// Restore fails by itself.
func lockDatabase(*os.File) error { return nil }

// chownLike does nothing on these systems.
func chownLike(*os.File, os.FileInfo) error { return nil }

// SyncDir does nothing, since not all of these systems can sync a directory.
func SyncDir(string) error { return nil }
