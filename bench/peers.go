package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// keyCount is the number of keys that each peer knows. The load uses them in turn.
const keyCount = 1000

// peer is one server that is compared with others.
type peer struct {
	name string
	addr string
	keys []string
	// request is the Lua expression by which wrk builds the request for a key. "" means a GET with
	// the key in X-API-Key.
	request string
	// core is the processor that runs the peer and nothing of the load; "" for any processor.
	core string
	// options are further lines of the gateway's global option.
	options string
	// helper is a server that the peers need, such as Redis. It is stopped with this peer; nil for
	// none.
	helper *peer
	cmd    *exec.Cmd
	rounds []measurement
}

func (p *peer) stop() {
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _, _ = p.cmd.Process.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
		}
	}
	if p.helper != nil {
		p.helper.stop()
	}
}

// launch starts the peer's process and waits until the peer accepts connections.
func (p *peer) launch(ctx context.Context, dir, name string, args ...string) error {
	if p.core != "" {
		name, args = "taskset", append([]string{"-c", p.core, name}, args...)
	}
	p.cmd = exec.Command(name, args...)
	p.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	out, err := os.Create(filepath.Join(dir, strings.NewReplacer(" ", "-", "/", "").Replace(p.name)+".log"))
	if err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	if err := reachable(ctx, p.addr); err != nil {
		b, _ := os.ReadFile(out.Name())
		return fmt.Errorf("starting %s: %w: %s", p.name, err, b)
	}
	return nil
}

// startProxies starts every proxy that is installed, plain Caddy first.
func startProxies(ctx context.Context, dir, caddy, upstream string) ([]*peer, error) {
	keys := make([]string, keyCount)
	for i := range keys {
		keys[i] = fmt.Sprintf("kg_live_bench%027d", i)
	}
	var peers []*peer
	add := func(p *peer, err error) error {
		peers = append(peers, p)
		return err
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			panic(err) // The file can be written, because this program has just made the directory.
		}
		return path
	}
	global := "{\n\tadmin off\n\tauto_https off\n\tlog {\n\t\tlevel ERROR\n\t}\n%s}\nhttp://%s {\n%s\treverse_proxy %s\n}\n"

	plain := &peer{name: "Caddy reverse_proxy", addr: freeAddr(), keys: keys}
	if err := add(plain, plain.launch(ctx, dir, caddy, "run", "--adapter", "caddyfile", "--config",
		write("plain.Caddyfile", fmt.Sprintf(global, "", plain.addr, "", upstream)))); err != nil {
		return peers, err
	}
	if err := add(keygate(ctx, dir, caddy, "Keygate: one rate", upstream, "rate 1000/s")); err != nil {
		return peers, err
	}
	if err := add(keygate(ctx, dir, caddy, "Keygate: rate, quota, slots", upstream, "rate 1000/s", "quota 1000000000/month", "concurrency 500")); err != nil {
		return peers, err
	}
	if limited, err := withRatelimit(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, "left out: Caddy with caddy-ratelimit:", err)
	} else {
		p := &peer{name: "Caddy and caddy-ratelimit", addr: freeAddr(), keys: keys}
		zone := "\trate_limit {\n\t\tzone keys {\n\t\t\tkey {http.request.header.X-Api-Key}\n\t\t\tevents 1000\n\t\t\twindow 1s\n\t\t}\n\t}\n"
		if err := add(p, p.launch(ctx, dir, limited, "run", "--adapter", "caddyfile", "--config",
			write("ratelimit.Caddyfile", fmt.Sprintf(global, "\torder rate_limit before basic_auth\n", p.addr, zone, upstream)))); err != nil {
			return peers, err
		}
	}
	if bin, err := exec.LookPath("nginx"); err != nil {
		fmt.Fprintln(os.Stderr, "left out: nginx: not installed")
	} else {
		p := &peer{name: "nginx map and limit_req", addr: freeAddr(), keys: keys}
		if err := add(p, p.launch(ctx, dir, bin, "-p", dir, "-c", write("nginx.conf", nginxConfig(dir, p.addr, upstream, keys)))); err != nil {
			return peers, err
		}
	}
	if bin, err := exec.LookPath("haproxy"); err != nil {
		fmt.Fprintln(os.Stderr, "left out: HAProxy: not installed")
	} else {
		p := &peer{name: "HAProxy map and stick table", addr: freeAddr(), keys: keys}
		var table strings.Builder
		for _, k := range keys {
			fmt.Fprintf(&table, "%s tenant\n", k)
		}
		if err := add(p, p.launch(ctx, dir, bin, "-db", "-f", write("haproxy.cfg", haproxyConfig(p.addr, upstream, write("keys.map", table.String()))))); err != nil {
			return peers, err
		}
	}
	return peers, nil
}

// build builds a command of this module in dir and returns the binary's path.
func build(ctx context.Context, dir, name, pkg string) (string, error) {
	path := filepath.Join(dir, name)
	out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w: %s", pkg, err, out)
	}
	return path, nil
}

// withRatelimit returns the path of a Caddy with caddy-ratelimit. The binary is built once and
// kept in build/.
func withRatelimit(ctx context.Context, dir string) (string, error) {
	path, err := filepath.Abs("build/caddy-ratelimit")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	version, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		return "", err
	}
	// The build is the one that xcaddy does, in a module of its own.
	work := filepath.Join(dir, "ratelimit")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return "", err
	}
	module := "module caddy\n\ngo 1.26\n\nrequire (\n\tgithub.com/caddyserver/caddy/v2 " + strings.TrimSpace(string(version)) +
		"\n\tgithub.com/mholt/caddy-ratelimit v0.1.0\n)\n"
	main := "package main\n\nimport (\n\tcaddycmd \"github.com/caddyserver/caddy/v2/cmd\"\n\n\t_ \"github.com/caddyserver/caddy/v2/modules/standard\"\n" +
		"\t_ \"github.com/mholt/caddy-ratelimit\"\n)\n\nfunc main() { caddycmd.Main() }\n"
	for name, text := range map[string]string{"go.mod": module, "main.go": main} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out[max(0, len(out)-500):]))
	}
	return path, nil
}

// keygate starts a gateway whose plan has the given limits, and creates its keys.
func keygate(ctx context.Context, dir, caddy, name, upstream string, limits ...string) (*peer, error) {
	p := &peer{name: name, addr: freeAddr()}
	_, err := p.launchKeygate(ctx, dir, caddy, "keygate\n\treverse_proxy "+upstream, limits...)
	return p, err
}

// launchKeygate starts the gateway as p, with a site that holds the directives in site, and
// creates the keys. It returns the address of the admin endpoint.
func (p *peer) launchKeygate(ctx context.Context, dir, caddy, site string, limits ...string) (admin string, err error) {
	dir = filepath.Join(dir, strings.NewReplacer(" ", "-", ":", "", "/", "").Replace(p.name))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return admin, err
	}
	admin = freeAddr()
	config := fmt.Sprintf("{\n\tadmin %s\n\tauto_https off\n\tlog {\n\t\tlevel ERROR\n\t}\n\tkeygate {\n\t\tstore sqlite %s\n\t\t%s\n\t\tplan bench {\n\t\t\t%s\n\t\t}\n\t}\n}\nhttp://%s {\n\t%s\n}\n",
		admin, filepath.Join(dir, "keygate.db"), p.options, strings.Join(limits, "\n\t\t\t"), p.addr, site)
	path := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return admin, err
	}
	if err := p.launch(ctx, dir, caddy, "run", "--adapter", "caddyfile", "--config", path); err != nil {
		return admin, err
	}
	// The gateway accepts connections before it has finished starting.
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + admin + "/keygate/v1/status")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			return admin, fmt.Errorf("%s is not ready after 15 s", p.name)
		}
	}
	// Each key belongs to a tenant of its own.
	for i := range keyCount {
		slug := fmt.Sprintf("tenant-%d", i)
		if _, err := post("http://"+admin+"/keygate/v1/tenants", map[string]string{"slug": slug}); err != nil {
			return admin, err
		}
		key, err := post("http://"+admin+"/keygate/v1/tenants/"+slug+"/keys", map[string]string{"name": "bench"})
		if err != nil {
			return admin, err
		}
		p.keys = append(p.keys, key.Key)
	}
	return admin, nil
}

// post creates a record through the management API and returns the secret in the response.
func post(url string, body any) (created struct{ Key, Token string }, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return created, err
	}
	resp, err := http.Post(url, "application/json", bytes.NewReader(b))
	if err != nil {
		return created, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, text)
	}
	if err != nil {
		return created, err
	}
	return created, json.Unmarshal(text, &created)
}

func nginxConfig(dir, addr, upstream string, keys []string) string {
	var table strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&table, "    %s tenant;\n", k)
	}
	return fmt.Sprintf(`daemon off;
worker_processes 2;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx-error.log;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path %[1]s/nginx-body; proxy_temp_path %[1]s/nginx-proxy; fastcgi_temp_path %[1]s/nginx-fastcgi;
  uwsgi_temp_path %[1]s/nginx-uwsgi; scgi_temp_path %[1]s/nginx-scgi;
  map_hash_bucket_size 128; map_hash_max_size 8192;
  map $http_x_api_key $tenant {
    default "";
%[4]s  }
  limit_req_zone $http_x_api_key zone=keys:10m rate=1000r/s;
  upstream api { server %[3]s; keepalive 64; }
  server {
    listen %[2]s;
    keepalive_requests 1000000;
    location / {
      if ($tenant = "") { return 401; }
      limit_req zone=keys burst=1000 nodelay;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-API-Key "";
      proxy_set_header X-Tenant-ID $tenant;
      proxy_pass http://api;
    }
  }
}
`, dir, addr, upstream, table.String())
}

func haproxyConfig(addr, upstream, table string) string {
	return fmt.Sprintf(`global
  nbthread 2
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 5s
  http-reuse always
backend keys
  stick-table type string len 64 size 100k expire 60s store http_req_rate(1s)
frontend in
  bind %s
  http-request set-var(txn.tenant) req.hdr(X-API-Key),map(%s)
  http-request deny deny_status 401 unless { var(txn.tenant) -m found }
  http-request track-sc0 req.hdr(X-API-Key) table keys
  http-request deny deny_status 429 if { sc_http_req_rate(0,keys) gt 1000 }
  http-request set-header X-Tenant-ID %%[var(txn.tenant)]
  http-request del-header X-API-Key
  default_backend api
backend api
  server api %s
`, addr, table, upstream)
}
