package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// startVerifiers starts a plain Caddy that only responds, and a gateway that verifies keys at two
// addresses: through keygate_api with a management token, and at the admin endpoint. Each gets the
// same body. All run on the first core, and the load runs on the others.
func startVerifiers(ctx context.Context, dir, caddy, _ string) ([]*peer, error) {
	core := ""
	if _, err := exec.LookPath("taskset"); err == nil && runtime.NumCPU() > 1 {
		core = "0"
	} else {
		fmt.Fprintln(os.Stderr, "not pinned to a processor: this needs taskset and two processors")
	}
	keys := make([]string, keyCount)
	for i := range keys {
		keys[i] = fmt.Sprintf("kg_live_bench%027d", i)
	}
	var peers []*peer

	plain := &peer{name: "Caddy respond", addr: freeAddr(), keys: keys, core: core, request: verifyRequest("/v1/verify", "")}
	peers = append(peers, plain)
	path := filepath.Join(dir, "plain.Caddyfile")
	config := fmt.Sprintf("{\n\tadmin off\n\tauto_https off\n\tlog {\n\t\tlevel ERROR\n\t}\n}\nhttp://%s {\n\trespond OK\n}\n", plain.addr)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return peers, err
	}
	if err := plain.launch(ctx, dir, caddy, "run", "--adapter", "caddyfile", "--config", path); err != nil {
		return peers, err
	}

	site := &peer{name: "Keygate: keygate_api", addr: freeAddr(), core: core}
	peers = append(peers, site)
	admin, err := site.launchKeygate(ctx, dir, caddy, "keygate_api", "rate 1000/s", "quota 1000000000/month")
	if err != nil {
		return peers, err
	}
	token, err := post("http://"+admin+"/keygate/v1/tokens", map[string]any{"name": "bench", "scopes": []string{"verify"}})
	if err != nil {
		return peers, err
	}
	site.request = verifyRequest("/v1/verify", token.Token)

	// This peer is the admin endpoint of the process above, so it shares that process and is
	// stopped with it.
	local := &peer{name: "Keygate: admin endpoint", addr: admin, keys: site.keys, core: core, cmd: site.cmd}
	local.request = verifyRequest("/keygate/v1/verify", "")
	return append(peers, local), nil
}

// verifyRequest returns the Lua expression of a request to verify a key. token may be "".
func verifyRequest(path, token string) string {
	headers := `["Content-Type"] = "application/json"`
	if token != "" {
		headers += `, ["Authorization"] = "Bearer ` + token + `"`
	}
	return fmt.Sprintf(`wrk.format("POST", %q, {%s}, '{"key":"' .. key .. '","method":"GET","path":"/v1/things","ip":"192.0.2.7"}')`, path, headers)
}

// otherCores returns all processors but core, in the form that taskset takes.
func otherCores(core string) string {
	var others []string
	for i := range runtime.NumCPU() {
		if c := strconv.Itoa(i); c != core {
			others = append(others, c)
		}
	}
	return strings.Join(others, ",")
}
