//go:build linux || darwin

package webhook

import (
	"os"
	"strconv"
	"syscall"
)

// listeningPorts returns the TCP ports at which this process listens. It skips files that are closed during the call.
func listeningPorts() (map[uint16]bool, error) {
	dir, err := os.Open("/dev/fd")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	ports := map[uint16]bool{}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if on, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); err != nil || on == 0 {
			continue
		}
		at, err := syscall.Getsockname(fd)
		if err != nil {
			continue
		}
		switch at := at.(type) {
		case *syscall.SockaddrInet4:
			ports[uint16(at.Port)] = true
		case *syscall.SockaddrInet6:
			ports[uint16(at.Port)] = true
		}
	}
	return ports, nil
}
