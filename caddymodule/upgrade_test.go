package caddymodule

//lint:file-ignore SA1019 The transport of net/http rejects the header :protocol of an extended CONNECT.

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"golang.org/x/net/http2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// site is a running Caddy with one site in front of an upstream.
type site struct {
	addr, key, logFile string
}

// newSite runs a Caddy until the test ends. The word UPSTREAM in text is replaced by the
// upstream's address.
func newSite(t *testing.T, upstream, text string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), logFile: filepath.Join(dir, "log")}
	config := `{
	admin off
	persist_config off
	auto_https off
	log {
		output file ` + s.logFile + `
	}
	servers {
		protocols h1 h2c
	}
	keygate {
		store sqlite ` + filepath.Join(dir, "keygate.db") + `
		scopes read write admin
		plan p
		default_plan p
	}
}
http://` + s.addr + " {\n" + strings.ReplaceAll(text, "UPSTREAM", upstream) + "\n}\n"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	m, ctx, actor := current(t).engine.Manager(), context.Background(), management.Actor{Name: "test", Via: "cli"}
	if _, err := m.CreateTenant(ctx, actor, "", "acme", management.TenantFields{}); err != nil {
		t.Fatal(err)
	}
	s.key = s.newKey(t, "write")
	return s
}

// newKey returns a new key with these scopes.
func (s *site) newKey(t *testing.T, scopes ...string) string {
	t.Helper()
	key, err := current(t).engine.Manager().CreateKey(context.Background(), management.Actor{Name: "test", Via: "cli"}, "", "acme",
		management.KeyFields{Name: management.Some("ci"), Scopes: management.Some(scopes)})
	if err != nil {
		t.Fatal(err)
	}
	return key.Key
}

// log returns everything that was logged so far.
func (s *site) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(s.logFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// switching starts an upstream that accepts an upgrade on any path and then echoes, like the
// example of the package ws. It answers other requests with their request line and body. switching
// returns the upstream's address.
func switching(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				if r.Header.Get("Upgrade") != "" {
					fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
					_, _ = io.Copy(conn, in)
					return
				}
				body, _ := io.ReadAll(r.Body)
				text := fmt.Sprintf("%s %s, connection %q, body %q", r.Method, r.URL, r.Header["Connection"], body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			}()
		}
	}()
	return l.Addr().String()
}

// upgrade asks for a WebSocket over HTTP/1. It returns the response's status, and the echo or the
// body.
func (s *site) upgrade(t *testing.T, target, header string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: %s\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", target, s.addr, header)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		fmt.Fprint(conn, "ping")
		echo := make([]byte, 4)
		if _, err := io.ReadFull(in, echo); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(echo)
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

const upgradeSite = `
	keygate {
		public /health /ws
		optional /app/*
		allow_upgrade /ws /socket/*
	}
	reverse_proxy UPSTREAM
	handle_errors {
		rewrite * /error
		reverse_proxy UPSTREAM
	}`

func TestUpgradesNeedACheck(t *testing.T) {
	s := newSite(t, switching(t), upgradeSite)
	const ws = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
	key := "X-API-Key: " + s.key + "\r\n"
	const preflight = "Origin: https://a.test\r\nAccess-Control-Request-Method: GET\r\n"
	for _, tt := range []struct {
		name, target, header string
		want                 int
	}{
		{"with a key", "GET /v1/stream", ws + key, 101},
		{"with a key, on an optional path", "GET /app/x", ws + key, 101},
		{"where allow_upgrade names the path", "GET /ws", ws, 101},
		{"on a public path", "GET /health", ws, 200},
		{"on a public path, with a key", "GET /health", ws + key, 200},
		{"on a public path, another protocol", "GET /health", strings.Replace(ws, "websocket", "mqtt", 1), 200},
		{"on a public path, in capitals", "GET /health", strings.ToUpper(ws), 200},
		{"on a public path, two of them", "GET /health", ws + "Upgrade: mqtt\r\n", 200},
		{"on an optional path without a key", "GET /app/x", ws, 200},
		{"as a preflight", "OPTIONS /v1/stream", ws + preflight, 200},
	} {
		status, text := s.upgrade(t, tt.target, tt.header)
		if status != tt.want || tt.want == 101 && text != "ping" || strings.Contains(strings.ToLower(text), "upgrade") {
			t.Errorf("%s: answered %d %s, want %d", tt.name, status, text, tt.want)
		}
	}
	// An error route with a proxy opens no WebSocket for a rejected request.
	if status, text := s.upgrade(t, "GET /v1/stream", ws); status != 200 || strings.Contains(text, "ping") {
		t.Errorf("rejected: answered %d %s", status, text)
	}
	logged := s.log(t)
	if n := strings.Count(logged, "allow_upgrade /health"); n != 1 || strings.Count(logged, "allow_upgrade") != 1 {
		t.Errorf("the line to add was logged %d times in:\n%s", n, logged)
	}
}

// A directive whose matcher excludes a request removes the upgrade from it. If a later directive
// checks the request, that directive restores the upgrade.
func TestUpgradesOutsideOfAMatcher(t *testing.T) {
	s := newSite(t, switching(t), `
	@told header X-Told *
	@also header X-Also *
	route {
		keygate @told {
			allow_upgrade /ws
		}
		keygate @also {
			public /health
		}
		reverse_proxy UPSTREAM
	}`)
	const ws = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	key := "X-API-Key: " + s.key + "\r\n"
	for _, tt := range []struct {
		name, target, header string
		want                 int
	}{
		{"excluded", "GET /x", ws, 200},
		{"excluded, with a key", "GET /x", ws + key, 200},
		{"excluded, with allow_upgrade for the path", "GET /ws", ws, 200}, // the second directive has no allow_upgrade for the path
		{"checked by the first", "GET /x", ws + key + "X-Told: 1\r\n", 101},
		{"checked by the second", "GET /x", ws + key + "X-Also: 1\r\n", 101},
		{"public in the second", "GET /health", ws + key + "X-Also: 1\r\n", 200},
	} {
		if status, text := s.upgrade(t, tt.target, tt.header); status != tt.want {
			t.Errorf("%s: answered %d %s, want %d", tt.name, status, text, tt.want)
		}
	}
}

// WebSockets over HTTP/2, which begin with an extended CONNECT, need a checked request too. Go's
// server accepts them only if an environment variable is set when the process starts, so the test
// runs itself in a new process.
func TestExtendedConnectsNeedACheck(t *testing.T) {
	const setting = "http2xconnect=1"
	if os.Getenv("GODEBUG") != setting {
		cmd := exec.Command(os.Args[0], "-test.run=^TestExtendedConnectsNeedACheck$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+setting)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestExtendedConnectsNeedACheck") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	s := newSite(t, switching(t), upgradeSite)
	// net/http's own transport can't send the field ":protocol".
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	for _, tt := range []struct {
		path, key string
		opens     bool
		text      string
	}{
		{"/v1/stream", s.key, true, "ping"},
		{"/ws", "", true, "ping"},
		{"/health", "", false, `GET /health, connection [], body ""`},
		{"/app/x", "", false, `GET /app/x, connection [], body ""`},
		{"/v1/stream", "", false, `GET /error, connection [], body ""`}, // answered by the error route
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		out, in := io.Pipe()
		r, err := http.NewRequestWithContext(ctx, http.MethodConnect, "http://"+s.addr+tt.path, out)
		if err != nil {
			t.Fatal(err)
		}
		r.Header[pseudoProtocol] = []string{"websocket"}
		if tt.key != "" {
			r.Header.Set("X-Api-Key", tt.key)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s: %v", tt.path, err)
		}
		if tt.opens {
			go func() { _, _ = in.Write([]byte("ping")) }()
		}
		got := make([]byte, len(tt.text))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != tt.text {
			t.Errorf("%s: answered %d %q, %v, want %q", tt.path, resp.StatusCode, got, err, tt.text)
		}
		cancel()
		_ = in.Close()
		_ = resp.Body.Close()
	}
}

// WebSockets over HTTP/3 need a checked request too. The HTTP/3 server passes an extended CONNECT
// in another form than the HTTP/2 server.
func TestExtendedConnectOverHTTP3(t *testing.T) {
	g := newHarness(t, freePlan, config.HandlerConfig{Config: rules.Config{Public: []rules.Pattern{{Path: "/ws"}}}})
	for _, tt := range []struct {
		path, method, proto             string
		wantMethod, wantProto, wantBody string
	}{
		{"/v1", "CONNECT", "websocket", "CONNECT", "websocket", "frames"},
		{"/ws", "CONNECT", "websocket", "GET", "HTTP/3.0", ""},
		{"/ws", "CONNECT", "connect-udp", "GET", "HTTP/3.0", ""},
		{"/ws", "POST", "HTTP/3.0", "POST", "HTTP/3.0", "frames"},
	} {
		r := httptest.NewRequest("POST", tt.path, strings.NewReader("frames"))
		r.Method, r.ProtoMajor, r.Proto, r.ContentLength = tt.method, 3, tt.proto, -1
		r.Header.Set("X-Api-Key", g.key)
		u, w := g.ask(t, r)
		if u.Request == nil {
			t.Fatalf("%v: answered %d", tt, w.Code)
		}
		if u.Method != tt.wantMethod || u.Proto != tt.wantProto || u.body != tt.wantBody {
			t.Errorf("%v: the upstream got %s %s %q", tt, u.Method, u.Proto, u.body)
		}
	}
}
