package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wireUpstream is an upstream that answers with the exact bytes of the request's target and the id
// of the key. It parses requests itself, so that no library cleans the target.
type wireUpstream struct{ addr string }

func newWireUpstream(t testing.TB) *wireUpstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serveWire(conn)
		}
	}()
	return &wireUpstream{ln.Addr().String()}
}

func serveWire(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		_, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		target := rest[:max(0, strings.LastIndexByte(rest, ' '))]
		key, length := "", int64(0)
		for {
			field, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if field = strings.TrimRight(field, "\r\n"); field == "" {
				break
			}
			name, value, _ := strings.Cut(field, ":")
			switch strings.ToLower(name) {
			case "x-key-id":
				key = strings.TrimSpace(value)
			case "content-length":
				length, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			}
		}
		if _, err := io.CopyN(io.Discard, in, length); err != nil {
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 204 No Content\r\nLab-Target: %s\r\nLab-Key: %s\r\n\r\n", base64.StdEncoding.EncodeToString([]byte(target)), key)
	}
}

// arrival is the result of one request.
type arrival struct {
	sent   string
	status int
	// reached is true if the request reached the upstream. target and key are what arrived there.
	reached     bool
	target, key string
	// cost is what the request took from the key's quota, by the response's headers.
	cost int64
}

// wire sends requests as raw bytes over one connection, several before their responses are read.
type wire struct {
	t      testing.TB
	addr   string
	method string
	key    string
	// left is the rest of the key's quota; -1 while it is unknown.
	left int64
}

// batch is the number of requests that are sent before their responses are read.
const batch = 64

func (w *wire) request(target string) string {
	credential := ""
	if w.key != "" {
		credential = "X-API-Key: " + w.key + "\r\n"
	}
	length := ""
	if w.method == http.MethodPost {
		length = "Content-Length: 0\r\n"
	}
	return w.method + " " + target + " HTTP/1.1\r\nHost: lab.test\r\n" + credential + length + "\r\n"
}

// wellFormed reports whether Go's server accepts the target. After any other target, the server
// closes the connection.
func (w *wire) wellFormed(target string) bool {
	_, err := http.ReadRequest(bufio.NewReader(strings.NewReader(w.request(target))))
	return err == nil
}

// send sends all targets in order, except those that are not well-formed.
func (w *wire) send(targets []string) []arrival {
	w.t.Helper()
	var out []arrival
	var todo []string
	for _, target := range targets {
		if w.wellFormed(target) {
			todo = append(todo, target)
		}
	}
	for len(todo) > 0 {
		done := w.connection(todo)
		if len(done) == 0 {
			w.t.Fatalf("no answer to %.200q", todo[0])
		}
		out = append(out, done...)
		todo = todo[len(done):]
	}
	return out
}

// alone sends one target over a new connection, well-formed or not. It returns the status, or 0 if
// the connection was closed without a response.
func (w *wire) alone(target string) int {
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, w.request(target)); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: w.method})
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

// connection sends targets until all are answered or the gateway closes the connection.
func (w *wire) connection(targets []string) []arrival {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64<<10)
	var out []arrival
	for len(targets) > 0 {
		_ = conn.SetDeadline(time.Now().Add(patience))
		some := targets[:min(batch, len(targets))]
		targets = targets[len(some):]
		var text strings.Builder
		for _, target := range some {
			text.WriteString(w.request(target))
		}
		if _, err := io.WriteString(conn, text.String()); err != nil {
			return out
		}
		for _, target := range some {
			resp, err := http.ReadResponse(in, &http.Request{Method: w.method})
			if err != nil {
				return out
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				w.t.Fatalf("%.200q: %v", target, err)
			}
			out = append(out, w.arrived(target, resp))
			if resp.Close {
				return out
			}
		}
	}
	return out
}

func (w *wire) arrived(sent string, resp *http.Response) arrival {
	a := arrival{sent: sent, status: resp.StatusCode, key: resp.Header.Get("Lab-Key")}
	if encoded := resp.Header.Get("Lab-Target"); encoded != "" {
		b, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			w.t.Fatal(err)
		}
		a.reached, a.target = true, string(b)
	}
	if left, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Remaining"), 10, 64); err == nil {
		if w.left >= 0 {
			a.cost = w.left - left
		}
		w.left = left
	}
	return a
}
