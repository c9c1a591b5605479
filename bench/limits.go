package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
)

// startLimits starts three gateways with the same limit, counted in three places: in the gateway's
// memory, in Redis for each request, and in Redis by batches. The Redis server serves these
// gateways only, and stops when ctx is done.
func startLimits(ctx context.Context, dir, caddy, upstream string) ([]*peer, error) {
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is needed: apt-get install redis-server")
	}
	addr := freeAddr()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.CommandContext(ctx, redis, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir,
		"--logfile", filepath.Join(dir, "redis.log"))
	server := &peer{name: "redis", cmd: cmd}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", redis, err)
	}
	if err := reachable(ctx, addr); err != nil {
		server.stop()
		return nil, err
	}
	var peers []*peer
	for i, limits := range []string{"local", "exact", "leased"} {
		p := &peer{name: "limits " + limits, addr: freeAddr()}
		if limits != "local" {
			p.name = "limits redis, " + limits
			p.options = fmt.Sprintf("limits redis redis://%s/%d {\n\t\t\tmode %s\n\t\t\ttimeout 1s\n\t\t}", addr, i, limits)
		}
		peers = append(peers, p)
		if _, err := p.launchKeygate(ctx, dir, caddy, "keygate\n\treverse_proxy "+upstream, "rate 100000/m"); err != nil {
			server.stop()
			return peers, err
		}
	}
	peers[0].helper = server
	return peers, nil
}
