package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// A client can't pay less than the actual cost by leaving before the upstream has stated it, or by
// breaking its own request.
func TestClientCannotAvoidTheCost(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	left := make(chan struct{})
	leftOnce := sync.OnceFunc(func() { close(left) })
	t.Cleanup(leftOnce)
	stream := func(w http.ResponseWriter, first string) {
		w.Header().Set("Trailer", "X-Credits-Used")
		_, _ = io.WriteString(w, first)
		_ = http.NewResponseController(w).Flush()
	}
	// The trailer comes after the client has left.
	up.answer("/late/trailer", func(w http.ResponseWriter, _ *http.Request) {
		stream(w, "token")
		<-left
		// Some writes to the closed connection succeed before one fails.
		for range 100 {
			_, _ = io.WriteString(w, strings.Repeat("more", 1000))
		}
		w.Header().Set("X-Credits-Used", "30")
	})
	// The upstream goes on without end and states no cost within the bytes that the gateway reads.
	endless := func(w http.ResponseWriter, r *http.Request) {
		stream(w, "token")
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	up.answer("/late/endless", endless)
	up.answer("/max/endless", endless)
	hanging := make(chan struct{})
	up.answer("/max/hang", func(w http.ResponseWriter, r *http.Request) {
		stream(w, "token")
		close(hanging)
		<-r.Context().Done()
	})
	up.answer("/job/broken", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	up.answer("/late/no-number", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Credits-Used", "1e3")
	})
	s := startOn(t, up, configText("", keyspaceText(`
			plan billed {
				credits
			}
			`), `keygate {
		cost /late/* 5 {
			actual X-Credits-Used
		}
		cost /max/* 5 {
			actual X-Credits-Used
			max 40
		}
		cost /job/* 5 {
			refund 5xx
		}
	}
	reverse_proxy {$KEYGATE_UPSTREAM} {
		flush_interval -1
	}`))
	leave := func(path string) func(t *testing.T, key string) {
		return func(t *testing.T, key string) {
			conn := dialed(t, s, path, key, "Content-Length: 0\r\n\r\n")
			buf, all := make([]byte, 4096), ""
			for !strings.Contains(all, "token") {
				n, err := conn.Read(buf)
				if all += string(buf[:n]); err != nil {
					t.Fatal(err, all)
				}
			}
			conn.Close()
		}
	}
	for name, tc := range map[string]struct {
		do    func(t *testing.T, key string)
		spent int64
	}{
		"leaves before the trailer":       {leave("/late/trailer"), 30},
		"leaves an endless response":      {leave("/late/endless"), 5},
		"leaves an endless one, with max": {leave("/max/endless"), 40},
		"breaks its body": {func(t *testing.T, key string) {
			conn := dialed(t, s, "/job/broken", key, "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZZZ\r\n")
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 5") {
				t.Errorf("the answer is %q, %v", answer, err)
			}
		}, 5},
		"gets no number": {func(t *testing.T, key string) {
			s.call(t, "GET", "/late/no-number", key).passed()
		}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			slug := strings.NewReplacer(" ", "-", ",", "").Replace(name)
			s.tenant(t, slug, record{"plan": "billed", "credits": 100})
			k := s.key(t, slug, nil)
			tc.do(t, k.full)
			if strings.HasSuffix(name, "trailer") {
				leftOnce()
			}
			// The usage counts a request when it ends. Its cost is then settled.
			testkit.Eventually(t, "the request is counted", func() bool {
				return sum(t, s.read(t, "/v1/keys/"+k.id+"/usage")).credits == tc.spent
			})
			testkit.Eventually(t, fmt.Sprintf("%d credits are spent", tc.spent), func() bool {
				return s.balance(t, slug) == 100-tc.spent
			})
		})
	}
	if metrics := s.pprof(t, "/metrics"); !strings.Contains(metrics, `keygate_actual_invalid_total{keyspace="house"} 1`) || !strings.Contains(s.log(), `"value":"1e3"`) {
		t.Errorf("the invalid cost is not counted and logged: %s", s.tail())
	}

	// A request whose client has left does not delay the exit, and its cost is settled.
	s.tenant(t, "exit", record{"plan": "billed", "credits": 100})
	leave("/max/hang")(t, s.key(t, "exit", nil).full)
	<-hanging
	s.restart()
	if got := s.balance(t, "exit"); got != 60 {
		t.Errorf("after the exit, the balance is %d, want 60", got)
	}
}

// dialed sends a POST over a new connection.
func dialed(t *testing.T, s *site, path, key, rest string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nX-API-Key: %s\r\n%s", path, s.host(), key, rest)
	return conn
}
