package sqlite

import (
	"fmt"
	"os"
	"strings"
)

// mountEscapes undoes how the kernel writes blanks and backslashes in mountinfo (proc_pid_mountinfo(5)).
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// checkMount rejects a database file that is a mount of its own, such as a container's bind mount of that one
// file. The write-ahead log is then in another file system. Where that is deleted with the container, all
// changes since the last checkpoint are lost, and in a small database those are all. path is
// absolute, without symbolic links. It returns nil where the mounts can't be read.
func checkMount(path string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return mountedAlone(string(mounts), path)
}

// mountedAlone is checkMount for the mounts of a mountinfo.
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
