package clients

import (
	"encoding/binary"
	"net/netip"
)

// client is an IPv4 address or an IPv6 /64, since one client can use all addresses of a /64.
// IPv4-mapped IPv6 counts as IPv4; zones are ignored.
type client struct {
	bits uint64
	v4   bool
}

func clientOf(a netip.Addr) client {
	a = a.Unmap()
	b := a.As16()
	if a.Is4() {
		return client{uint64(binary.BigEndian.Uint32(b[12:])), true}
	}
	return client{binary.BigEndian.Uint64(b[:8]), false}
}

// String returns the address or the prefix, for a subject's id.
func (c client) String() string {
	var b [16]byte
	if c.v4 {
		binary.BigEndian.PutUint32(b[12:], uint32(c.bits))
		return netip.AddrFrom4([4]byte(b[12:])).String()
	}
	binary.BigEndian.PutUint64(b[:8], c.bits)
	return netip.AddrFrom16(b).String() + "/64"
}
