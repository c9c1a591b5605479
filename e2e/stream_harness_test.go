package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// house is the product of tests that need no special configuration.
var house = product{name: "house", prefix: "kt_live_", random: 32, checksum: 6, plan: "free", path: "/ping"}

// keyspaceText returns the keyspace block of the product house. lines are added to the block.
func keyspaceText(lines string) string {
	return `keyspace house {
			prefix kt_live_ live
			prefix kt_test_ test
			scopes admin > write > read
			plan free {
			}
			default_plan free
			` + lines + `
		}`
}

// configText returns a Caddyfile with lines for the global options, the keygate option and the
// site.
func configText(global, keygate, site string) string {
	return `{
	admin {$KEYGATE_ADMIN}
	` + global + `
	keygate {
		store sqlite {$KEYGATE_DB}
		` + keygate + `
	}
}
{$KEYGATE_LISTEN} {
	` + site + `
}
`
}

// startTestSite starts a gateway with a Caddyfile of one site. global, keyspace and site are the options of its parts.
func startTestSite(t testing.TB, global, keyspace, site string, env ...string) *site {
	t.Helper()
	return startOn(t, newUpstream(t), configText(global, keyspaceText(keyspace), site), env...)
}

func startOn(t testing.TB, up *upstream, config string, env ...string) *site {
	t.Helper()
	return &site{gateway: start(t, written(t, config), up, env...), product: house}
}

// host returns the host and port of the site.
func (g *gateway) host() string { return strings.TrimPrefix(g.site, "http://") }

// rawAnswer is the response to a raw request.
type rawAnswer struct {
	*answer
	// informational are the 1xx responses before the final response.
	informational []*http.Response
}

// raw sends text unchanged over a new connection, and reads one response. $HOST in text is
// replaced by the site's host, and $TAG by a tag header. Without $TAG, the answer's reached is
// nil.
func (g *gateway) raw(t testing.TB, text string) *rawAnswer {
	t.Helper()
	tag := newTag()
	text = strings.NewReplacer("$HOST", g.host(), "$TAG", tagHeader+": "+tag).Replace(text)
	conn, err := net.Dial("tcp", g.host())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	in := bufio.NewReader(conn)
	out := &rawAnswer{}
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%.200q: %v", text, err)
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != 101 {
			out.informational = append(out.informational, resp)
			continue
		}
		var body []byte
		if resp.StatusCode != 101 {
			if body, err = io.ReadAll(resp.Body); err != nil {
				t.Fatalf("%.200q: %v", text, err)
			}
		}
		line, _, _ := strings.Cut(text, "\r\n")
		out.answer = &answer{t: t, asked: line, status: resp.StatusCode, header: resp.Header, body: string(body), reached: g.upstream.got(tag)}
		return out
	}
}

// http2Upstream serves the upstream over HTTP/2 without TLS, and returns the address.
func http2Upstream(t testing.TB, u *upstream) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: u.server.Config.Handler, Protocols: &p}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	return ln.Addr().String()
}

// http2Client returns a client that uses HTTP/2 without TLS.
func http2Client(t testing.TB) *http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// live is an open stream through the gateway, as its client sees it.
type live struct {
	t    testing.TB
	kind string
	tag  string
	// step sends or receives something over the stream. It fails once the stream has ended.
	step func() error
	// end waits until the client sees the end of the stream. It returns the status and body of a
	// response, or status 0 if the stream was cut.
	end func() (int, string)
	// drop closes the stream on the client's side.
	drop func()
}

// continues checks that the stream is still open.
func (l *live) continues() {
	l.t.Helper()
	done := make(chan error, 1)
	go func() { done <- l.step() }()
	select {
	case err := <-done:
		if err != nil {
			l.t.Errorf("%s does not continue: %v", l.kind, err)
		}
	case <-time.After(patience):
		l.t.Errorf("%s hangs", l.kind)
	}
}

// ended checks that the stream ends for the client and for the upstream. If the response had not
// begun, it must have this status and code.
func (l *live) ended(s *streams, status int, code string) {
	l.t.Helper()
	type end struct {
		status int
		body   string
	}
	done := make(chan end, 1)
	go func() {
		status, body := l.end()
		done <- end{status, body}
	}()
	select {
	case e := <-done:
		if e.status != 0 && (e.status != status || !strings.Contains(e.body, `"code":"`+code+`"`)) {
			l.t.Errorf("%s ended with %d %s, want %d %s", l.kind, e.status, e.body, status, code)
		}
		if begins := strings.HasPrefix(l.kind, "waiting"); begins != (e.status != 0) {
			l.t.Errorf("%s ended with status %d", l.kind, e.status)
		}
	case <-time.After(patience):
		l.t.Errorf("%s did not end for the client", l.kind)
	}
	select {
	case <-s.ended(l.tag):
	case <-time.After(patience):
		l.t.Errorf("%s did not end for the upstream", l.kind)
	}
}

// streams holds the upstream's side of the streams, by tag.
type streams struct {
	mu    sync.Mutex
	ends  map[string]chan struct{}
	lines map[string]chan string
	// upstream2 is the path prefix of the upstream that uses HTTP/2.
	upstream2 string
}

func newStreams(t testing.TB) *streams {
	st := &streams{ends: map[string]chan struct{}{}, lines: map[string]chan string{}, upstream2: "/h2"}
	if raced(t) {
		// When a request with an open body to an HTTP/2 upstream is cancelled, Caddy's proxy
		// itself has a data race (bodyNopCloserIfNotRead.Close). Under the race detector, these
		// requests go to the other upstream.
		st.upstream2 = ""
	}
	return st
}

// ended returns a channel that is closed when the upstream has seen the end of the stream.
func (s *streams) ended(tag string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends[tag] == nil {
		s.ends[tag] = make(chan struct{})
	}
	return s.ends[tag]
}

// received returns a channel with the lines that the upstream has read from the request's body.
func (s *streams) received(tag string) chan string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines[tag] == nil {
		s.lines[tag] = make(chan string, 1000)
	}
	return s.lines[tag]
}

// serve makes the upstream u answer the paths of all kinds of streams.
func (s *streams) serve(u *upstream) {
	end := func(h func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			defer close(s.ended(r.Header.Get(tagHeader)))
			h(w, r)
		}
	}
	u.answer("/events", end(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for n := 0; ; n++ {
			fmt.Fprintf(w, "data: %d\n\n", n)
			http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}))
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	u.answer("/socket", end(func(w http.ResponseWriter, r *http.Request) {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, msg, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if string(msg) == "stop" {
				return
			}
			if conn.WriteMessage(kind, msg) != nil {
				return
			}
		}
	}))
	u.answer("/echo", end(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		rc.Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				if err == io.EOF {
					w.Header().Set("Grpc-Status", "0")
				}
				return
			}
			io.WriteString(w, line)
			rc.Flush()
		}
	}))
	u.answer("/upload", end(func(w http.ResponseWriter, r *http.Request) {
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err == io.EOF {
				fmt.Fprintf(w, "done %v", r.Trailer)
				return
			}
			if err != nil {
				return
			}
			s.received(r.Header.Get(tagHeader)) <- line
		}
	}))
	u.answer("/wait", end(func(_ http.ResponseWriter, r *http.Request) {
		s.received(r.Header.Get(tagHeader)) <- "begun"
		<-r.Context().Done()
	}))
	block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	u.answer("/download", end(func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(block); err != nil || r.Context().Err() != nil {
				return
			}
		}
	}))
	u.answer("/die", end(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(block[:1000])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
}

// begin sends a request whose response or body stays open.
func (s *site) begin(t testing.TB, client *http.Client, method, path, key string, body io.Reader) (*http.Response, string, context.CancelFunc, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, s.site+path, body)
	if err != nil {
		t.Fatal(err)
	}
	tag := newTag()
	r.Header.Set(tagHeader, tag)
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := client.Do(r)
	return resp, tag, cancel, err
}

// opened begins a stream whose response must begin with 200.
func (s *site) opened(t testing.TB, kind string, client *http.Client, method, path, key string, body io.Reader) (*live, *http.Response) {
	t.Helper()
	resp, tag, cancel, err := s.begin(t, client, method, path, key, body)
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %d %s", kind, resp.StatusCode, b)
	}
	drop := func() {
		cancel()
		// Go's HTTP/2 client does not notice the cancelled context while a request body is open.
		resp.Body.Close()
	}
	return &live{t: t, kind: kind, tag: tag, drop: drop, end: func() (int, string) {
		_, err := io.Copy(io.Discard, resp.Body)
		if err == nil {
			t.Errorf("%s ended as if it were complete", kind)
		}
		return 0, ""
	}}, resp
}

func (s *site) events(t testing.TB, kind string, client *http.Client, key string) *live {
	l, resp := s.opened(t, kind, client, "GET", "/events", key, nil)
	in := bufio.NewReader(resp.Body)
	l.step = func() error {
		line, err := in.ReadString('\n')
		if err == nil && line != "\n" && !strings.HasPrefix(line, "data: ") {
			err = fmt.Errorf("an event is %q", line)
		}
		return err
	}
	return l
}

func (s *site) socket(t testing.TB, key string) *live {
	t.Helper()
	tag := newTag()
	conn, resp, err := websocket.DefaultDialer.Dial("ws://"+s.host()+"/socket", http.Header{tagHeader: {tag}, "Authorization": {"Bearer " + key}})
	if err != nil {
		t.Fatalf("websocket: %v %v", err, resp)
	}
	t.Cleanup(func() { conn.Close() })
	return &live{t: t, kind: "websocket", tag: tag, drop: func() { conn.Close() },
		step: func() error {
			if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				return err
			}
			_, msg, err := conn.ReadMessage()
			if err == nil && string(msg) != "hello" {
				err = fmt.Errorf("the echo is %q", msg)
			}
			return err
		},
		end: func() (int, string) {
			for {
				if _, _, err := conn.ReadMessage(); err != nil {
					return 0, ""
				}
			}
		},
	}
}

func (s *site) echo(t testing.TB, kind string, client *http.Client, path, key string) *live {
	body, out := io.Pipe()
	t.Cleanup(func() { out.Close() })
	l, resp := s.opened(t, kind, client, "POST", path, key, body)
	in := bufio.NewReader(resp.Body)
	l.step = func() error {
		if _, err := io.WriteString(out, "hello\n"); err != nil {
			return err
		}
		line, err := in.ReadString('\n')
		if err == nil && line != "hello\n" {
			err = fmt.Errorf("the echo is %q", line)
		}
		return err
	}
	return l
}

func (s *site) download(t testing.TB, key string) *live {
	l, resp := s.opened(t, "download", s.client, "GET", "/download", key, nil)
	l.step = func() error {
		_, err := io.ReadFull(resp.Body, make([]byte, 16))
		return err
	}
	return l
}

// waits begins a request whose response does not come. For a path that ends in /upload, the
// request's body stays open too.
func (s *site) waits(t testing.TB, st *streams, kind string, client *http.Client, path, key string) *live {
	var out *io.PipeWriter
	var body io.Reader
	method := "GET"
	if strings.HasSuffix(path, "/upload") {
		method = "POST"
		body, out = io.Pipe()
		t.Cleanup(func() { out.Close() })
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, s.site+path, body)
	if err != nil {
		t.Fatal(err)
	}
	tag := newTag()
	r.Header.Set(tagHeader, tag)
	r.Header.Set("Authorization", "Bearer "+key)
	type end struct {
		status int
		body   string
	}
	done := make(chan end, 1)
	go func() {
		resp, err := client.Do(r)
		if err != nil {
			done <- end{0, err.Error()}
			return
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			b = append(b, err.Error()...)
		}
		done <- end{resp.StatusCode, string(b)}
	}()
	sendLine := func() error {
		if out != nil {
			if _, err := io.WriteString(out, "line\n"); err != nil {
				return err
			}
		}
		<-st.received(tag)
		return nil
	}
	l := &live{t: t, kind: "waiting " + kind, tag: tag, drop: cancel, step: sendLine, end: func() (int, string) {
		e := <-done
		if e.status == 0 {
			t.Errorf("waiting %s: %s", kind, e.body)
		}
		return e.status, e.body
	}}
	l.continues()
	if out == nil {
		l.step = func() error { return nil }
	}
	return l
}

// goroutines returns the number of the gateway's goroutines, and their stacks.
func (g *gateway) goroutines(t testing.TB) (n int, text string) {
	t.Helper()
	resp, err := g.client.Get("http://" + g.adminAddr + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(b), "goroutine profile: total %d", &n); err != nil {
		t.Fatal(err)
	}
	return n, string(b)
}
