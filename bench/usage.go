package main

import "context"

// startUsage starts the gateway with the same plan and keys three times over: with usage not counted, with
// usage, and with the keys' last requests remembered too, as both are unless turned off. What counting costs is the
// difference in processor time, that of writing the counts back included.
func startUsage(ctx context.Context, dir, caddy, upstream string) ([]*peer, error) {
	var peers []*peer
	for _, p := range []*peer{
		{name: "usage off, requests off", options: "usage off\n\t\trequests off"},
		{name: "usage, requests off", options: "requests off"},
		{name: "usage and requests"},
	} {
		p.addr = freeAddr()
		peers = append(peers, p)
		if _, err := p.launchKeygate(ctx, dir, caddy, "keygate\n\treverse_proxy "+upstream, "rate 1000/s"); err != nil {
			return peers, err
		}
	}
	return peers, nil
}
