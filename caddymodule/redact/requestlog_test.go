package redact

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/gorilla/websocket"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/apikey"
)

// plantedKey is the key in every place of the tests' requests.
const plantedKey = "kg_live_Zx81QpLm77TtRrVvNn3344Hh55Gg66Ff"

func init() {
	caddy.RegisterModule(&logProbe{})
	httpcaddyfile.RegisterHandlerDirective("logprobe", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := new(logProbe)
		return p, p.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("logprobe", httpcaddyfile.Before, "basic_auth")
}

// logProbe is a handler that uses RequestLog as the handler keygate does. With Mode "off" it
// leaves logging to Caddy.
type logProbe struct {
	Mode string `json:"mode"`
	logs *Logs
}

func (*logProbe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.logprobe", New: func() caddy.Module { return new(logProbe) }}
}

func (p *logProbe) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&p.Mode) {
		return d.ArgErr()
	}
	return nil
}

func (p *logProbe) Provision(ctx caddy.Context) error {
	g, places := logGrammar()
	p.logs = NewLogs(ctx, NewSecrets(apikey.NewCleaner(g), places.List()), nil)
	return nil
}

// watch, if not nil, is called with each request of a logProbe after its log has begun.
var watch func(r *http.Request)

func logGrammar() (*apikey.Grammar, *apikey.Places) {
	g, err := apikey.NewGrammar(nil, apikey.Format{}, nil)
	if err != nil {
		panic(err)
	}
	places, err := apikey.NewPlaces(
		apikey.Place{Kind: apikey.InAuthorization, Name: "Bearer"}, apikey.Place{Kind: apikey.InHeader, Name: "X-API-Key"},
		apikey.Place{Kind: apikey.InQuery, Name: "token"}, apikey.Place{Kind: apikey.InCookie, Name: "session"},
	)
	if err != nil {
		panic(err)
	}
	return g, places
}

func (p *logProbe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	handle := func() error {
		switch r.URL.Path {
		case "/refused":
			return caddyhttp.Error(401, errors.New("bad key "+plantedKey))
		case "/plain":
			return fmt.Errorf("no status for %s", plantedKey)
		case "/failed":
			return caddyhttp.Error(500, fmt.Errorf("looking up %s", plantedKey))
		case "/panics":
			w.WriteHeader(200)
			panic(http.ErrAbortHandler)
		case "/hijack":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
			return conn.Close()
		case "/echoes":
			w.Header().Set("X-Echo", plantedKey)
			w.Header().Set("Set-Cookie", "k="+plantedKey)
		}
		return next.ServeHTTP(w, r)
	}
	if p.Mode == "off" {
		return handle()
	}
	log := Begin(p.logs, r)
	defer log.End(w)
	for name, values := range r.Header {
		log.CleanHeader(r.Header, name, values)
	}
	log.CleanHeaders(r.Header)
	if watch != nil {
		watch(r)
	}
	log.CleanURI(r)
	for _, name := range []string{"X-Api-Key", "Authorization", "Cookie"} {
		r.Header.Del(name)
	}
	r.URL.RawQuery = ""
	return log.ServeError(w, r, handle())
}

// logHarness is a Caddy in this process that logs to files.
type logHarness struct {
	dir, addr  string
	client, h2 *http.Client
}

// upstream starts the server behind the harness's proxies. In mode "off" it always reads the whole
// body.
func upstream(t *testing.T, mode string) string {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/dies", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "only this")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		if mode == "off" {
			// Caddy 2.11 reads its count of body bytes for the log line while the proxy may still
			// change it. The race detector would report that data race of Caddy, so the upstream
			// reads the body first.
			_, _ = io.Copy(io.Discard, r.Body)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// startHarness starts sites whose directive has this mode.
func startHarness(t *testing.T, mode string) *logHarness {
	t.Helper()
	free, err := testserver.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(free)
	addr := "127.0.0.1:" + port
	dir, up := t.TempDir(), upstream(t, mode)
	site := `
		bind 127.0.0.1
		logprobe ` + mode + `
		log_append late {http.request.header.Referer}
		log_append size {http.response.header.X-Size}
		@skip path /skip
		log_skip @skip
		@named path /named
		log_name @named special
		@level path /level
		vars @level log_level DEBUG
		header /level X-Size 5
		respond /down-own "x" 503
		respond /ok hello
		respond /level hello
		respond /echoes hello
		respond /named hello
		respond /skip hello
		reverse_proxy /down 127.0.0.1:1
		rewrite /rewritten /ok
		handle_path /up/* {
			reverse_proxy ` + up + ` {
				flush_interval -1
			}
		}
	`
	config := `{
		admin off
		persist_config off
		auto_https off
		grace_period 1s
		storage file_system ` + dir + `/storage
		log default {
			output file ` + dir + `/default.log
			format json
			level DEBUG
			# What comes before the directive can't be cleaned by it.
			exclude http.handlers.rewrite
		}
		log special {
			output file ` + dir + `/special.log
			include http.log.access.special
		}
		servers {
			protocols h1 h2 h2c
			log_credentials
		}
	}
	http://site.test:` + port + ` {
		log {
			output file ` + dir + `/site.log
			format json
		}
		log second {
			output file ` + dir + `/console.log
			format console
		}` + site + `
	}
	http://errors.test:` + port + ` {
		log {
			output file ` + dir + `/errors.log
			format json
		}` + site + `
		handle_errors 401 {
			respond "{err.status_code} {err.message}" 418
		}
		handle_errors 502 {
			reverse_proxy 127.0.0.1:1
		}
	}
	http://quiet.test:` + port + ` {` + site + `
	}
	`
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	dialer := &net.Dialer{}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	}
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	return &logHarness{
		dir, addr,
		&http.Client{Transport: &http.Transport{DialContext: dial}},
		&http.Client{Transport: &http.Transport{DialContext: dial, Protocols: h2}},
	}
}

func (g *logHarness) stop(t *testing.T) {
	g.client.CloseIdleConnections()
	g.h2.CloseIdleConnections()
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
}

// plant returns a request with plantedKey in every place.
func (g *logHarness) plant(method, host, path, id string, body io.Reader) *http.Request {
	r, err := http.NewRequest(method, "http://"+host+path, body)
	if err != nil {
		panic(err)
	}
	r.URL.RawQuery = "a=1&token=" + plantedKey + "&b=%6bg_live_" + strings.TrimPrefix(plantedKey, "kg_live_")
	r.Header.Set("X-Id", id)
	r.Header.Set("Authorization", "Bearer "+plantedKey)
	r.Header.Set("X-Api-Key", plantedKey)
	r.Header.Set("X-Custom", "prefix "+plantedKey+" suffix")
	r.Header.Set("Referer", "http://x/?k="+plantedKey)
	r.Header.Set("Cookie", "a=b; session="+plantedKey+"; c="+plantedKey)
	return r
}

// send sends a planted request and returns the response's status and body.
func (g *logHarness) send(t *testing.T, method, host, path, id string, body io.Reader) (int, string) {
	t.Helper()
	res, err := g.client.Do(g.plant(method, host, path, id, body))
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err.Error()
	}
	return res.StatusCode, string(b)
}

// lines returns the JSON lines about requests in a log file, by request id.
func (g *logHarness) lines(t *testing.T, file string) map[string][]map[string]any {
	t.Helper()
	out := make(map[string][]map[string]any)
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for text := range bytes.Lines(b) {
		if !bytes.HasSuffix(text, []byte("\n")) {
			break // The last line of the file is incomplete, because Caddy is still writing it.
		}
		var line map[string]any
		if err := json.Unmarshal(text, &line); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		logger, _ := line["logger"].(string)
		if !strings.HasPrefix(logger, "http.log.access") && !strings.HasPrefix(logger, "http.log.error") {
			continue
		}
		req, _ := line["request"].(map[string]any)
		headers, _ := req["headers"].(map[string]any)
		id := fmt.Sprint(headers["X-Id"])
		out[id] = append(out[id], flat("", line))
	}
	return out
}

// flat converts nested objects to paths and values, and omits values that differ between any two
// requests, such as times.
func flat(path string, v any) map[string]any {
	out := make(map[string]any)
	if m, ok := v.(map[string]any); ok {
		for k, v := range m {
			maps.Copy(out, flat(path+">"+k, v))
		}
		return out
	}
	for _, vary := range []string{">ts", ">duration", ">remote_port", ">Date", ">err_id", ">err_trace", ">Sec-Websocket-Key"} {
		if strings.HasSuffix(path, vary) {
			v = "varies"
		}
	}
	out[path] = errorID.ReplaceAllString(fmt.Sprint(v), "{id}")
	return out
}

var errorID = regexp.MustCompile(`\{id=\w+\}`)

// logCase is one request for which Caddy and RequestLog must log the same.
type logCase struct {
	id   string
	send func(t *testing.T, g *logHarness)
	// files maps each log file to its number of lines.
	files map[string]int
	// varies is true if the byte counts and the status depend on timing.
	varies bool
}

func logCases() []logCase {
	simple := func(method, host, path, body string, status int, files map[string]int) logCase {
		id := strings.Trim(strings.ReplaceAll(method+host+path, "/", "-"), "-")
		return logCase{id: id, files: files, send: func(t *testing.T, g *logHarness) {
			var b io.Reader
			if body != "" {
				b = strings.NewReader(body)
			}
			if got, text := g.send(t, method, host, path, id, b); got != status {
				t.Errorf("%s: status %d (%s), want %d", id, got, text, status)
			}
		}}
	}
	// site.test has two access logs. Its error lines go to its own loggers and to the default log.
	both := map[string]int{"site.log": 1}
	failed := map[string]int{"site.log": 1, "default.log": 2}
	cases := []logCase{
		simple("GET", "site.test", "/ok", "", 200, both),
		simple("HEAD", "site.test", "/ok", "", 200, both),
		simple("POST", "site.test", "/ok", "unread", 200, both),
		simple("GET", "site.test", "/level", "", 200, map[string]int{}),
		simple("GET", "site.test", "/echoes", "", 200, both),
		simple("GET", "site.test", "/rewritten", "", 200, both),
		simple("GET", "site.test", "/nothing", "", 200, both),
		simple("GET", "site.test", "/down-own", "", 503, both),
		simple("POST", "site.test", "/up/echo", strings.Repeat("body ", 100), 200, both),
		simple("GET", "site.test", "/skip", "", 200, map[string]int{}),
		simple("GET", "site.test", "/named", "", 200, map[string]int{"special.log": 1}),
		simple("GET", "site.test", "/refused", "", 401, failed),
		simple("GET", "site.test", "/plain", "", 500, failed),
		simple("GET", "site.test", "/failed", "", 500, failed),
		simple("GET", "site.test", "/down", "", 502, failed),
		simple("GET", "errors.test", "/refused", "", 418, map[string]int{"errors.log": 1, "default.log": 1}),
		simple("GET", "errors.test", "/failed", "", 500, map[string]int{"errors.log": 1, "default.log": 1}),
		simple("GET", "errors.test", "/down", "", 502, map[string]int{"errors.log": 1, "default.log": 1}),
		simple("GET", "errors.test", "/ok", "", 200, map[string]int{"errors.log": 1}),
		simple("GET", "quiet.test", "/ok", "", 200, map[string]int{}),
	}
	one := func(id string, varies bool, files map[string]int, send func(t *testing.T, g *logHarness)) {
		cases = append(cases, logCase{id, send, files, varies})
	}
	one("quiet-down", true, map[string]int{"default.log": 1}, func(t *testing.T, g *logHarness) {
		g.send(t, "GET", "quiet.test", "/down", "quiet-down", nil)
	})
	one("dies", true, both, func(t *testing.T, g *logHarness) { g.send(t, "GET", "site.test", "/up/dies", "dies", nil) })
	one("panics", true, both, func(t *testing.T, g *logHarness) { g.send(t, "GET", "site.test", "/panics", "panics", nil) })
	one("path", false, both, func(t *testing.T, g *logHarness) { g.send(t, "GET", "site.test", "/x/"+plantedKey, "path", nil) })
	one("hijack", false, both, func(t *testing.T, g *logHarness) {
		if status, text := g.send(t, "GET", "site.test", "/hijack", "hijack", nil); status != 200 || text != "hi" {
			t.Errorf("hijacked: %d %s", status, text)
		}
	})
	// The client closes the connection while the upstream still sends, over HTTP/1 and HTTP/2.
	abort := func(id string, client func(*logHarness) *http.Client) {
		one(id, true, both, func(t *testing.T, g *logHarness) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			res, err := client(g).Do(g.plant("GET", "site.test", "/up/slow", id, nil).WithContext(ctx))
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = bufio.NewReader(res.Body).ReadString('\n')
			cancel()
			_ = res.Body.Close()
		})
	}
	abort("abort", func(g *logHarness) *http.Client { return g.client })
	abort("h2-abort", func(g *logHarness) *http.Client { return g.h2 })
	for _, method := range []string{"GET", "HEAD", "POST"} {
		id := "h2-" + method
		one(id, false, both, func(t *testing.T, g *logHarness) {
			res, err := g.h2.Do(g.plant(method, "site.test", "/ok", id, strings.NewReader(map[string]string{"POST": "body"}[method])))
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.ProtoMajor != 2 {
				t.Errorf("%s", res.Proto)
			}
		})
	}
	one("early", true, both, func(t *testing.T, g *logHarness) {
		pr, pw := io.Pipe()
		go func() { _, _ = pw.Write(make([]byte, 1<<20)); _ = pw.Close() }()
		g.send(t, "POST", "site.test", "/up/early", "early", pr)
		_ = pr.Close()
	})
	one("ws", true, both, func(t *testing.T, g *logHarness) {
		h := g.plant("GET", "site.test", "/up/ws", "ws", nil).Header
		d := websocket.Dialer{NetDialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, g.addr)
		}}
		c, _, err := d.Dial("ws://site.test/up/ws", h)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if err := c.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Error(err)
		}
		if _, b, err := c.ReadMessage(); err != nil || string(b) != "hello" {
			t.Errorf("%s %v", b, err)
		}
	})
	return cases
}

// RequestLog writes the same lines as Caddy's own logging, except for keys. The test sends the
// same requests through both.
func TestAccessLog(t *testing.T) {
	files := []string{"site.log", "errors.log", "special.log", "default.log"}
	got := make(map[string]map[string]map[string][]map[string]any)
	for _, mode := range []string{"off", "on"} {
		g := startHarness(t, mode)
		for _, c := range logCases() {
			c.send(t, g)
			waitLines(t, g, c)
		}
		// A duplicate line would be written after the last contexts have ended, so the test waits
		// a moment.
		g.stop(t)
		time.Sleep(20 * time.Millisecond)
		got[mode] = make(map[string]map[string][]map[string]any)
		for _, f := range files {
			got[mode][f] = g.lines(t, f)
		}
		leak := false
		entries, err := os.ReadDir(g.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			b, err := os.ReadFile(filepath.Join(g.dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if len(b) == 0 {
				t.Errorf("%s is empty", e.Name())
			}
			for line := range bytes.Lines(b) {
				if bytes.Contains(line, []byte(plantedKey)) || bytes.Contains(line, []byte(plantedKey[12:28])) {
					leak = true
					if mode == "on" {
						t.Errorf("%s holds the key: %s", e.Name(), line)
					}
				}
			}
		}
		if mode == "off" && !leak {
			t.Error("Caddy's own logs show no key: the test would see none anyway")
		}
	}
	g, places := logGrammar()
	s := NewSecrets(apikey.NewCleaner(g), places.List())
	for _, c := range logCases() {
		for _, f := range files {
			ours, theirs := got["on"][f]["["+c.id+"]"], got["off"][f]["["+c.id+"]"]
			if len(ours) != len(theirs) {
				t.Errorf("%s: %d lines in %s, Caddy writes %d", c.id, len(ours), f, len(theirs))
				continue
			}
			for i := range ours {
				if strings.HasPrefix(c.id, "quiet") {
					continue // Without an access log, the error line shows the header as handlers have changed it, so the headers are not compared.
				}
				compareLines(t, c, f, &s, ours[i], theirs[i])
			}
		}
	}
}

func compareLines(t *testing.T, c logCase, file string, s *Secrets, ours, theirs map[string]any) {
	t.Helper()
	if a, b := slices.Sorted(maps.Keys(ours)), slices.Sorted(maps.Keys(theirs)); !slices.Equal(a, b) {
		t.Errorf("%s in %s: fields\n%q, Caddy's\n%q", c.id, file, a, b)
		return
	}
	for k, v := range theirs {
		want := s.Text(v.(string))
		if k == ">request>headers>Cookie" || k == ">request>headers>X-Api-Key" || k == ">request>headers>Authorization" {
			continue
		}
		if c.varies && !strings.HasPrefix(k, ">request") && k != ">msg" && k != ">logger" && k != ">late" {
			continue
		}
		if ours[k] != want {
			t.Errorf("%s in %s: %s is %v, Caddy's %v", c.id, file, k, ours[k], want)
		}
	}
}

// waitLines waits until all lines of the case are written.
func waitLines(t *testing.T, g *logHarness, c logCase) {
	t.Helper()
	for f, n := range c.files {
		testkit.Eventually(t, fmt.Sprintf("%s has %d lines of %s", f, n, c.id), func() bool { return len(g.lines(t, f)["["+c.id+"]"]) >= n })
	}
}
