package sqlite

import (
	"fmt"
	"os"
	"strings"
)

// mountEscapes undoes the kernel's escapes of spaces and backslashes in the file mountinfo
// (proc_pid_mountinfo(5)).
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// CheckMount rejects a database file that is itself a mount point, such as a single file that is
// bind-mounted into a container. The write-ahead log of such a file is in the container's file system.
// If the container is deleted, all changes since the last checkpoint of the log are lost. In a small
// database all changes are lost. path must be absolute, without symbolic links. CheckMount returns nil
// if it can't read the mounts.
func CheckMount(path string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return mountedAlone(string(mounts), path)
}

// mountedAlone returns an error if path is itself a mount point according to mounts, the text of the
// file mountinfo.
func mountedAlone(mounts, path string) error {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		switch mountEscapes.Replace(fields[4]) {
		case path, path + "-wal", path + "-shm":
			return fmt.Errorf("the file %s is mounted by itself: its write-ahead log would be lost with the container, and the changes in it; mount the directory that holds the file instead", mountEscapes.Replace(fields[4]))
		}
	}
	return nil
}
