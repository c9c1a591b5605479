package main

import "context"

// startUsage starts three gateways with the same plan and keys: without usage, with usage, and
// with usage and the keys' last requests. The last is the default. The differences in processor
// time are the cost of counting, which includes writing the counts to the store.
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
