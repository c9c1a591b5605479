package webhook

import (
	"net"
	"net/netip"
)

// Listens reports whether this process listens at an address: at its port, on any interface of
// this machine. It asks the system for the sockets of the process, and so finds every listener.
// Where the system has no answer, Listens returns true for each address of this machine.
func Listens(to netip.AddrPort) bool {
	if !isLocal(to.Addr()) {
		return false
	}
	ports, err := listeningPorts()
	return err != nil || ports[to.Port()]
}

// isLocal reports whether an address without a zone belongs to this machine.
func isLocal(a netip.Addr) bool {
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
