package webhook

import (
	"net"
	"net/netip"
)

// Listens reports whether this process listens at an address: at its port, on any interface of this machine. It
// asks the system for the process's sockets, so that it knows of every listener, whoever opened it and by whatever
// name. Where the system does not tell, every address of this machine counts as one at which it listens.
func Listens(to netip.AddrPort) bool {
	if !ofThisMachine(to.Addr()) {
		return false
	}
	ports, err := listeningPorts()
	return err != nil || ports[to.Port()]
}

// ofThisMachine reports whether an address, which has no zone, is one of this machine's.
func ofThisMachine(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, o := range own {
		if n, ok := o.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
				return true
			}
		}
	}
	return false
}
