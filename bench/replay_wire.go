package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
)

// received is a request as the upstream received it.
type received struct {
	method, target, host, body string
	header, trailer            http.Header
}

// recorder is the upstream. It records the requests that it receives.
type recorder struct {
	server *httptest.Server
	addr   string
	mu     sync.Mutex
	seen   []received
}

func newRecorder() *recorder {
	r := &recorder{}
	r.server = httptest.NewServer(r)
	r.addr = strings.TrimPrefix(r.server.URL, "http://")
	return r
}

// take returns the requests received since the last call of take.
func (u *recorder) take() []received {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// ServeHTTP answers as the request's header "Want" asks. The header holds a status and a kind of
// response.
func (u *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = append(body, " (broken)"...)
	}
	u.mu.Lock()
	u.seen = append(u.seen, received{r.Method, r.RequestURI, r.Host, string(body), r.Header, r.Trailer})
	u.mu.Unlock()
	want, kind, _ := strings.Cut(r.Header.Get("Want"), " ")
	status, err := strconv.Atoi(want)
	if err != nil {
		status = http.StatusOK
	}
	if r.Header.Get("Upgrade") != "" && status == http.StatusOK {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err == nil {
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
			rw.Flush()
			conn.Close()
		}
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain")
	switch kind {
	case "public":
		h.Set("Cache-Control", "public, max-age=60")
	case "vary":
		h.Set("Vary", "Accept-Encoding")
		h.Set("Cache-Control", "max-age=5")
	case "star":
		h.Set("Vary", "*")
	case "nostore":
		h.Set("Cache-Control", "no-store")
	case "limits":
		h.Set("X-RateLimit-Limit", "1")
		h.Set("RateLimit", "x")
		h.Set("Retry-After", "3")
	case "credits":
		h.Set("X-Credits-Used", "2")
	case "cookie":
		h.Set("Set-Cookie", "a=b; Path=/")
		h.Set("X-Tenant-ID", "of the upstream")
	case "cors":
		h.Set("Access-Control-Allow-Origin", "https://app.example.com")
	case "location":
		h.Set("Location", "/elsewhere")
	}
	w.WriteHeader(status)
	if status != http.StatusNoContent && status != http.StatusNotModified {
		_, _ = io.WriteString(w, "answered\n")
	}
}

// readResponse reads the final response to a request with the given method.
func readResponse(conn net.Conn, method string) (int, http.Header, string, error) {
	in := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return 0, nil, "", err
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body := []byte("(switched)")
		if resp.StatusCode != http.StatusSwitchingProtocols {
			if body, err = io.ReadAll(resp.Body); err != nil {
				body = append(body, " (broken)"...)
			}
		}
		return resp.StatusCode, resp.Header, string(body), nil
	}
}
