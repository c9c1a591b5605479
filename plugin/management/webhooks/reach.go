package webhooks

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// specialBlocks are the blocks of addresses that the Internet does not route, or that embed
// another address. IANA's special-purpose registries (RFC 6890) list them.
var specialBlocks = prefixes(
	"0.0.0.0/8",        // "This network": the address 0.0.0.0 reaches this machine.
	"10.0.0.0/8",       // 10.0.0.0/8 is a block of private addresses.
	"100.64.0.0/10",    // shared address space of carriers (RFC 6598)
	"127.0.0.0/8",      // 127.0.0.0/8 is the block of loopback addresses.
	"169.254.0.0/16",   // link-local, with the metadata services of clouds
	"172.16.0.0/12",    // 172.16.0.0/12 is a block of private addresses.
	"192.0.0.0/24",     // protocol assignments
	"192.0.2.0/24",     // 192.0.2.0/24 is reserved for documentation.
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // 192.168.0.0/16 is a block of private addresses.
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // 198.51.100.0/24 is reserved for documentation.
	"203.0.113.0/24",   // 203.0.113.0/24 is reserved for documentation.
	"224.0.0.0/4",      // 224.0.0.0/4 is the block of multicast addresses.
	"240.0.0.0/4",      // reserved, broadcast
	"2001::/23",        // protocol assignments, including Teredo, which embeds IPv4
	"2001:db8::/32",    // 2001:db8::/32 is reserved for documentation.
	"2002::/16",        // 6to4, which embeds IPv4
	"3fff::/20",        // 3fff::/20 is reserved for documentation.
	"168.63.129.16/32", // 168.63.129.16 is the metadata service of Azure.
)

// guardedBlocks hold addresses that give control over a machine. A configured block allows such an
// address only if the configured block lies inside the guarded one.
var guardedBlocks = prefixes(
	"127.0.0.0/8", "::1/128", // These are the loopback addresses of IPv4 and IPv6.
	"169.254.0.0/16", "fe80::/10", // These are the link-local addresses of IPv4 and IPv6.
	// The metadata services of clouds show the credentials of a machine.
	"169.254.169.254/32", "fd00:ec2::254/128", "fd20:ce::254/128", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
)

// PrivateRanges returns the blocks of private addresses: RFC 1918, RFC 4193 and RFC 6598.
func PrivateRanges() []netip.Prefix {
	return prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// globalV6 is the part of IPv6 that holds public addresses. Loopback, link-local, unique local
// (fc00::/7), multicast, IPv4-mapped and -compatible addresses and NAT64 (64:ff9b::/96,
// 64:ff9b:1::/48) are outside of it.
var globalV6 = netip.MustParsePrefix("2000::/3")

// PublicAddr reports whether an address is public. Webhooks are delivered to no other address
// unless the configuration allows it.
func PublicAddr(a netip.Addr) bool {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.Is6() && !globalV6.Contains(a) {
		return false
	}
	return !slices.ContainsFunc(specialBlocks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// PublicBlock reports whether all addresses of a block are public.
func PublicBlock(p netip.Prefix) bool {
	if p.Addr().Is6() && (p.Bits() < globalV6.Bits() || !globalV6.Contains(p.Addr())) {
		return false
	}
	return !slices.ContainsFunc(specialBlocks, p.Overlaps)
}

// Reach is the set of addresses to which webhooks are delivered: the public addresses, and those
// in Private.
type Reach struct {
	// Private are blocks of addresses that are not public.
	Private []netip.Prefix
	// Listens reports whether this process listens at an address. Nothing is delivered there. nil:
	// the process listens nowhere.
	Listens func(netip.AddrPort) bool
}

// ErrOwnListener rejects an address at which this process itself listens.
var ErrOwnListener = errors.New("this gateway itself listens at the host and port, and never delivers webhooks to itself; name the address of the receiver")

// PrivateError rejects an address that is not public and that no block of the configuration allows.
type PrivateError struct {
	// Block is the widest block that would allow the address.
	Block netip.Prefix
}

// Error does not name the address, since the webhook's owner may not know which address the host's
// name has.
func (e *PrivateError) Error() string {
	return "the host is at an address that is not public; an operator can allow its block: webhooks { allow_private <block> }"
}

// Check returns the reason why webhooks are not delivered to an address, an ErrOwnListener or a
// *PrivateError; nil if they are.
func (r Reach) Check(to netip.AddrPort) error {
	all := effectiveAddrs(to.Addr())
	for _, a := range all {
		if r.Listens != nil && r.Listens(netip.AddrPortFrom(a, to.Port())) {
			return ErrOwnListener
		}
	}
	for _, a := range all {
		if err := r.check(a); err != nil {
			return err
		}
	}
	return nil
}

// check does the work of Check for an address without a zone. The caller has checked that the process does not listen at the
// address.
func (r Reach) check(a netip.Addr) error {
	within := guardedBlocks[:0:0]
	for _, g := range guardedBlocks {
		if g.Contains(a) {
			within = append(within, g)
		}
	}
	if len(within) == 0 && PublicAddr(a) {
		return nil
	}
	for _, p := range r.Private {
		inside := func(g netip.Prefix) bool { return p.Bits() >= g.Bits() && g.Contains(p.Addr()) }
		if p.Contains(a) && !slices.ContainsFunc(within, func(g netip.Prefix) bool { return !inside(g) }) {
			return nil
		}
	}
	return &PrivateError{widest(a, within)}
}

// widest returns the widest private block that would allow an address. within are the guarded
// blocks that contain the address.
func widest(a netip.Addr, within []netip.Prefix) netip.Prefix {
	block := netip.PrefixFrom(a, a.BitLen())
	if len(within) > 0 {
		block = within[0]
		for _, g := range within {
			if g.Bits() > block.Bits() {
				block = g
			}
		}
		return block
	}
	for _, p := range slices.Concat(PrivateRanges(), specialBlocks) {
		if p.Contains(a) {
			return p
		}
	}
	return block
}

// effectiveAddrs returns the addresses that a connection to a may reach: a without its zone, and
// the IPv4 address that it embeds, if any. For an unspecified address they are those of loopback.
func effectiveAddrs(a netip.Addr) []netip.Addr {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsUnspecified():
	case a.Is4():
		a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		a = netip.IPv6Loopback()
	}
	b := a.As16()
	for _, w := range wrappingBlocks {
		if w.block.Contains(a) {
			return append(effectiveAddrs(netip.AddrFrom4([4]byte(b[w.at:w.at+4]))), a)
		}
	}
	return []netip.Addr{a}
}

// wrappingBlocks are the blocks of IPv6 addresses that embed an IPv4 address, which begins at byte
// at.
var wrappingBlocks = []struct {
	block netip.Prefix
	at    int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // 64:ff9b::/96 is the block of NAT64, the translation from IPv6 to IPv4 (RFC 6052).
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // 64:ff9b:1::/48 is the block of NAT64 in a local network (RFC 8215).
	{netip.MustParsePrefix("2002::/16"), 2},       // 2002::/16 is the block of 6to4 addresses (RFC 3056).
}

// ParsePrivateBlock parses a block of addresses, such as 10.0.0.0/8, or a single address. A public
// block is an error.
func ParsePrivateBlock(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, notAddr := netip.ParseAddr(s); notAddr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return p, fmt.Errorf("'%s' is neither a block of addresses, such as 10.0.0.0/8 or fd00::/8, nor an address", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("'%s' is an IPv4 block written as IPv6: write it as IPv4", s)
	case p != p.Masked():
		return p, fmt.Errorf("'%s' is no block: it begins at %s; write that, or %s for the one address", s, p.Masked(), p.Addr())
	case PublicBlock(p):
		return p, fmt.Errorf("'%s' is public: webhooks are delivered there without this option", s)
	}
	return p, nil
}
