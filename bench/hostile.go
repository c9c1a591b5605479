package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// The contest "hostile" sends requests that are built to cost much processor time and hold no
// known key. It compares Keygate's processor time for them with that of a Caddy that rejects the
// same bytes with `respond 401`. Both write access logs of the same form.

// hostilePeer is one of the servers that the contest compares.
type hostilePeer struct {
	peer
	// path is put before the path of each request.
	path string
}

// runHostile runs the contest and prints its result.
func runHostile(ctx context.Context, dir, caddy string, how course) error {
	wanted, err := regexp.Compile(how.kinds)
	if err != nil {
		return err
	}
	plain := &hostilePeer{peer: peer{name: "Caddy respond 401", addr: freeAddr()}}
	own := &hostilePeer{peer: peer{name: "Keygate", addr: freeAddr()}}
	five := &hostilePeer{peer: peer{name: "all-five.Caddyfile", addr: freeAddr()}, path: "/converra"}
	peers := []*hostilePeer{plain, own, five}
	defer func() {
		for _, p := range peers {
			p.stop()
		}
	}()
	const servers = "\tservers {\n\t\tprotocols h1 h2c\n\t}\n"
	if err := plain.start(ctx, dir, caddy, "{\n\tadmin off\n\tauto_https off\n"+servers+"}\nhttp://"+plain.addr+" {\n\tlog\n\trespond 401\n}\n"); err != nil {
		return err
	}
	if err := own.start(ctx, dir, caddy, "{\n\tadmin off\n\tauto_https off\n"+servers+
		"\tkeygate {\n\t\tstore sqlite "+filepath.Join(dir, "own.db")+"\n\t\tcredentials {\n\t\t\tauthorization Bearer\n\t\t\theader X-API-Key\n\t\t\tquery api_key\n\t\t\tcookie session_key\n\t\t}\n\t\tplan free\n\t\tdefault_plan free\n\t}\n}\n"+
		"http://"+own.addr+" {\n\tlog\n\tkeygate {\n\t\tpublic /docs/* /open/*/tracking\n\t\tpaths {\n\t\t\tallow encoded_slash /projects/*\n\t\t\tas_sent /s3/*\n\t\t}\n\t}\n\trespond OK\n}\n"); err != nil {
		return err
	}
	config, err := os.ReadFile("configs/all-five.Caddyfile")
	if err != nil {
		return err
	}
	text := strings.Replace(string(config), "\tadmin {$KEYGATE_ADMIN:localhost:2019}\n", "\tadmin off\n"+servers, 1)
	if err := five.start(ctx, dir, caddy, text); err != nil {
		return err
	}
	all := kinds()
	if how.fuzzed > 0 {
		fmt.Fprintf(os.Stderr, "looking for the costliest of %d texts\n", how.fuzzed)
		worst := costliest(how.fuzzed)
		fmt.Printf("the costliest of %d texts: %.40q…\n", how.fuzzed, worst)
		all = append(all, kind{"the costliest of the fuzzed texts", request{headers: []header{{"x-a", worst, 4}}}},
			kind{"the same in the path", request{path: "/" + strings.Map(inPath, worst)}})
	}
	fmt.Printf("%-34s %-7s %28s %22s %22s\n", "", "", plain.name+", µs CPU", own.name, five.name)
	worst := make([]float64, len(peers))
	for _, k := range all {
		if !wanted.MatchString(k.name) {
			continue
		}
		for _, protocol := range []string{"HTTP/1", "HTTP/2"} {
			cpu := make([][]float64, len(peers))
			for range how.rounds {
				for i, p := range peers {
					t, err := p.measure(k.request, protocol == "HTTP/2")
					if err != nil {
						return fmt.Errorf("%s over %s, %s: %w", k.name, protocol, p.name, err)
					}
					cpu[i] = append(cpu[i], t)
				}
			}
			fmt.Printf("%-34s %-7s %28.1f", k.name, protocol, slices.Min(cpu[0]))
			for i := range peers[1:] {
				// The smallest measurement is the one that other processes disturbed least.
				ratio := slices.Min(cpu[i+1]) / slices.Min(cpu[0])
				worst[i+1] = max(worst[i+1], ratio)
				fmt.Printf(" %14.1f (%5.2f)", slices.Min(cpu[i+1]), ratio)
			}
			fmt.Println()
		}
	}
	fmt.Printf("the highest ratio: %s %.2f, %s %.2f\n", own.name, worst[1], five.name, worst[2])
	return nil
}

// start starts the peer with the Caddyfile in config and returns when the peer is ready. The
// peer's log is discarded.
func (p *hostilePeer) start(ctx context.Context, dir, caddy, config string) error {
	path := filepath.Join(dir, strings.ReplaceAll(p.name, " ", "-"))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	p.cmd = exec.Command(caddy, "run", "--adapter", "caddyfile", "--config", path)
	p.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"KEYGATE_LISTEN=http://"+p.addr, "KEYGATE_DB="+filepath.Join(dir, "five.db"))
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	if err := reachable(ctx, p.addr); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	// A gateway answers 503 until it is ready, and then 401, since the request has no key.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + p.addr + p.path + "/v1/things")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusUnauthorized {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s answers %s", p.name, resp.Status)
		}
	}
}

// turn is the least processor time that the peer must use in one measurement.
const turn = 100 * time.Millisecond

// measure returns how much processor time the peer uses for one request, in microseconds.
func (p *hostilePeer) measure(r request, h2 bool) (float64, error) {
	send, done, err := p.sender(r, h2)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := send(5); err != nil { // warms up the peer and fills HTTP/2's header table
		return 0, err
	}
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	for n, sent := 20, 0; ; n *= 2 {
		if err := send(n); err != nil {
			return 0, err
		}
		sent += n
		now, err := p.cpu()
		if err != nil {
			return 0, err
		}
		if used := now - before; used >= turn {
			return float64(used.Nanoseconds()) / 1000 / float64(sent), nil
		}
	}
}

// cpu returns the processor time that the peer has used so far.
func (p *hostilePeer) cpu() (time.Duration, error) {
	// The clock of another process is read as clock_getcpuclockid defines it. It is exact; /proc
	// counts in 1/100 s.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// sender opens a connection. send sends the request n times over the connection and reads the
// responses; done closes it.
func (p *hostilePeer) sender(r request, h2 bool) (send func(n int) error, done func(), err error) {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, nil, err
	}
	done = func() { conn.Close() }
	path := p.path + "/v1/things"
	if r.path != "" {
		path = p.path + r.path
	}
	method := r.method
	if method == "" {
		method = http.MethodGet
	}
	if h2 {
		send, err = sendHTTP2(conn, method, p.addr, path, r.headers)
		return send, done, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, p.addr)
	for _, h := range r.headers {
		for range h.times {
			fmt.Fprintf(&b, "%s: %s\r\n", h.name, h.value)
		}
	}
	b.WriteString("\r\n")
	in := bufio.NewReader(conn)
	return func(n int) error {
		for range n {
			if _, err := conn.Write(b.Bytes()); err != nil {
				return err
			}
			resp, err := http.ReadResponse(in, &http.Request{Method: method})
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return err
			}
			if err := rejected(resp.StatusCode); err != nil {
				return err
			}
			if resp.Close {
				return errors.New("the server closes the connection")
			}
		}
		return nil
	}, done, nil
}

// rejected returns an error unless status is one that rejects a request: 401, 400 or 429.
func rejected(status int) error {
	if status == http.StatusUnauthorized || status == http.StatusBadRequest || status == http.StatusTooManyRequests {
		return nil
	}
	return fmt.Errorf("the answer is %d", status)
}

// atOnce is how many HTTP/2 streams are open at a time.
const atOnce = 20

func sendHTTP2(conn net.Conn, method, host, path string, headers []header) (func(n int) error, error) {
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	f := http2.NewFramer(conn, bufio.NewReader(conn))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}); err != nil {
		return nil, err
	}
	if err := f.WriteWindowUpdate(0, 1<<30); err != nil {
		return nil, err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	stream := uint32(1)
	open := func() error {
		block.Reset()
		for _, h := range append([]header{{":method", method, 1}, {":scheme", "http", 1}, {":authority", host, 1}, {":path", path, 1}}, headers...) {
			if strings.EqualFold(h.name, "connection") {
				continue // HTTP/2 requests have no such header, so it is left out.
			}
			for range h.times {
				if err := enc.WriteField(hpack.HeaderField{Name: strings.ToLower(h.name), Value: h.value}); err != nil {
					return err
				}
			}
		}
		first, rest := block.Bytes(), []byte(nil)
		const most = 16 << 10
		if len(first) > most {
			first, rest = first[:most], first[most:]
		}
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: true, EndHeaders: len(rest) == 0}); err != nil {
			return err
		}
		for len(rest) > 0 {
			part := rest[:min(most, len(rest))]
			rest = rest[len(part):]
			if err := f.WriteContinuation(stream, len(rest) == 0, part); err != nil {
				return err
			}
		}
		stream += 2
		return nil
	}
	return func(n int) error {
		for opened, ended := 0, 0; ended < n; {
			for opened < n && opened-ended < atOnce {
				if err := open(); err != nil {
					return err
				}
				opened++
			}
			frame, err := f.ReadFrame()
			if err != nil {
				return err
			}
			switch frame := frame.(type) {
			case *http2.MetaHeadersFrame:
				for _, h := range frame.Fields {
					if h.Name == ":status" && h.Value != "401" && h.Value != "400" && h.Value != "429" {
						return fmt.Errorf("the answer is %s", h.Value)
					}
				}
				if frame.StreamEnded() {
					ended++
				}
			case *http2.DataFrame:
				if frame.StreamEnded() {
					ended++
				}
			case *http2.RSTStreamFrame:
				return fmt.Errorf("the stream ends with %s", frame.ErrCode)
			case *http2.GoAwayFrame:
				return fmt.Errorf("the connection ends with %s", frame.ErrCode)
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					if err := f.WriteSettingsAck(); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}, nil
}
