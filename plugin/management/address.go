package management

import "net/netip"

// notPublic are the blocks of addresses that are not reached over the Internet, or that
// stand for others that may not be, as IANA's special-purpose registries (RFC 6890) have them.
var notPublic = func() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8",       // this network; 0.0.0.0 reaches this machine
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // shared by carriers' customers
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local, and the metadata of clouds
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarks
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved, broadcast
		"2001::/23",       // protocol assignments, with Teredo, which wraps IPv4
		"2001:db8::/32",   // documentation
		"2002::/16",       // 6to4, which wraps IPv4
		"3fff::/20",       // documentation
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

// globalV6 is all that is given out of IPv6. Loopback, link-local, unique local (fc00::/7),
// multicast, IPv4-mapped and -compatible addresses and NAT64 (64:ff9b::/96, 64:ff9b:1::/48) are outside of it.
var globalV6 = netip.MustParsePrefix("2000::/3")

// PublicAddr says whether an address is one of the Internet: the only ones that webhooks go
// to unless the configuration allows others.
func PublicAddr(a netip.Addr) bool {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.Is6() && !globalV6.Contains(a) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
