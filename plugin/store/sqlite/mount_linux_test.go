package sqlite

import (
	"strings"
	"testing"
)

func TestMountedAlone(t *testing.T) {
	// mounts lists the mounts of a container. Two of them are bind-mounted files, and one is a directory
	// whose name holds a space.
	const mounts = `1210 1036 0:94 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
1221 1210 254:1 /home/op/keygate.db /data/keygate.db rw,relatime - ext4 /dev/vda1 rw
1222 1210 254:1 /home/op/wal /var/other.db-wal rw,relatime - ext4 /dev/vda1 rw
1223 1210 254:1 /home/op/data /with\040blank rw,relatime - ext4 /dev/vda1 rw
1224 1223 254:1 /home/op/own.db /with\040blank/own.db rw,relatime - ext4 /dev/vda1 rw
`
	for path, alone := range map[string]bool{
		"/data/keygate.db": true, "/var/other.db": true, "/with blank/own.db": true,
		"/with blank/keygate.db": false, "/data/other.db": false, "/keygate.db": false, "/data": false,
	} {
		err := mountedAlone(mounts, path)
		if (err != nil) != alone {
			t.Errorf("%s: %v", path, err)
		}
		if alone && !strings.Contains(err.Error(), "mount the directory") {
			t.Errorf("%s: the error names no remedy: %v", path, err)
		}
	}
}
