package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// streamSite starts a gateway that forwards streams of every kind to an HTTP/1.1 upstream and to
// an HTTP/2 upstream.
func streamSite(t testing.TB) (*site, *streams) {
	t.Helper()
	up := newUpstream(t)
	st := newStreams(t)
	st.serve(up)
	s := startOn(t, up, configText(`servers {
		protocols h1 h2c
	}`, keyspaceText(""), `keygate {
		cost /bill/* 5 {
			refund 5xx
		}
	}
	handle_path /h2/* {
		reverse_proxy h2c://{$KEYGATE_H2C}
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`), "KEYGATE_H2C="+http2Upstream(t, up))
	s.tenant(t, "acme", nil)
	return s, st
}

// every opens one stream of each kind with the key.
func (s *site) every(t testing.TB, st *streams, h2 *http.Client, key string) []*live {
	t.Helper()
	all := []*live{
		s.events(t, "events", s.client, key),
		s.events(t, "events over HTTP/2", h2, key),
		s.socket(t, key),
		s.echo(t, "echo over HTTP/2", h2, st.upstream2+"/echo", key),
		s.download(t, key),
		s.waits(t, st, "for headers", s.client, "/wait", key),
		s.waits(t, st, "for headers over HTTP/2", h2, "/h2/wait", key),
		s.waits(t, st, "with an upload", s.client, "/upload", key),
		s.waits(t, st, "with an upload over HTTP/2", h2, st.upstream2+"/upload", key),
	}
	for _, l := range all {
		l.continues()
	}
	return all
}

func TestStreamsEndWithTheirKey(t *testing.T) {
	t.Parallel()
	s, st := streamSite(t)
	h2 := http2Client(t)
	for _, tc := range []struct {
		name, code string
		status     int
		end        func(t *testing.T, k key, tenant string)
	}{
		{"revoked", "revoked_key", 401, func(t *testing.T, k key, _ string) { s.post(t, k, "revoke", nil) }},
		{"disabled", "disabled_key", 401, func(t *testing.T, k key, _ string) { s.post(t, k, "disable", nil) }},
		{"deleted", "invalid_key", 401, func(t *testing.T, k key, _ string) {
			if a := s.manage(t, "DELETE", "/v1/keys/"+k.id, nil); a.status >= 300 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}},
		{"expired", "expired_key", 401, func(t *testing.T, k key, _ string) {
			s.patch(t, "/v1/keys/"+k.id, record{"expires_at": after(500 * time.Millisecond)})
		}},
		{"rotated", "revoked_key", 401, func(t *testing.T, k key, _ string) {
			s.made(t, s.post(t, k, "rotate", record{"grace": "1s"}))
		}},
		{"rotated at once", "revoked_key", 401, func(t *testing.T, k key, _ string) {
			s.made(t, s.post(t, k, "rotate", record{"grace": "0s"}))
		}},
		{"suspended", "tenant_inactive", 403, func(t *testing.T, _ key, tenant string) {
			s.patch(t, "/v1/tenants/"+tenant, record{"active": false})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tenant := strings.ReplaceAll(tc.name, " ", "-")
			s.tenant(t, tenant, nil)
			k, other := s.key(t, tenant, nil), s.key(t, "acme", nil)
			ending, remaining := s.every(t, st, h2, k.full), s.every(t, st, h2, other.full)
			tc.end(t, k, tenant)
			begin := time.Now()
			for _, l := range ending {
				l.ended(st, tc.status, tc.code)
			}
			t.Logf("all %d ended after %v", len(ending), time.Since(begin).Round(time.Millisecond))
			for _, l := range remaining {
				l.continues()
				l.drop()
			}
		})
	}
}

// A stream continues when its key is renamed, gets a later expiry, or is rotated with a grace
// period.
func TestStreamsContinue(t *testing.T) {
	t.Parallel()
	s, st := streamSite(t)
	h2 := http2Client(t)
	k := s.key(t, "acme", record{"expires_at": after(time.Second)})
	all := s.every(t, st, h2, k.full)
	s.patch(t, "/v1/keys/"+k.id, record{"expires_at": after(time.Hour)})
	s.patch(t, "/v1/keys/"+k.id, record{"name": "renamed", "rate": "1/h"})
	s.made(t, s.post(t, k, "rotate", record{"grace": "1h"}))
	time.Sleep(1100 * time.Millisecond)
	for _, l := range all {
		l.continues()
	}
	s.post(t, k, "revoke", nil)
	for _, l := range all {
		l.ended(st, 401, "revoked_key")
	}
}

// A stream that began before a reload ends when its key is revoked, like any other stream.
func TestStreamsOutliveReloads(t *testing.T) {
	t.Parallel()
	s, st := streamSite(t)
	h2 := http2Client(t)
	k, other := s.key(t, "acme", nil), s.key(t, "acme", nil)
	open := func(key string) []*live {
		return []*live{
			s.events(t, "events", s.client, key),
			s.echo(t, "echo over HTTP/2", h2, st.upstream2+"/echo", key),
			s.download(t, key),
			s.waits(t, st, "for headers", s.client, "/wait", key),
			s.waits(t, st, "with an upload", s.client, "/upload", key),
		}
	}
	ending, remaining := open(k.full), open(other.full)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		text = bytes.Replace(text, []byte("plan free {"), []byte("plan more"+randomText(3)+" {\n}\nplan free {\nrate 100000/s"), 1)
		text = bytes.Replace(text, []byte("rate 100000/s\nrate 100000/s"), []byte("rate 100000/s"), 1)
		if err := os.WriteFile(s.config, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s.command(t, "", "reload", "--config", s.config, "--adapter", "caddyfile", "--address", s.adminAddr).exits(0)
	}
	for _, l := range append(ending, remaining...) {
		l.continues()
	}
	s.post(t, k, "revoke", nil)
	for _, l := range ending {
		l.ended(st, 401, "revoked_key")
	}
	for _, l := range remaining {
		l.continues()
		l.drop()
	}
}

func TestStreamsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	s, st := streamSite(t)
	h2 := http2Client(t)
	round := func(n int) {
		k, other := s.key(t, "acme", nil), s.key(t, "acme", nil)
		var ended, dropped []*live
		for range n {
			ended = append(ended, s.every(t, st, h2, k.full)...)
			dropped = append(dropped, s.every(t, st, h2, other.full)...)
		}
		s.post(t, k, "revoke", nil)
		for _, l := range ended {
			l.ended(st, 401, "revoked_key")
		}
		for _, l := range dropped {
			l.drop()
		}
		for _, l := range dropped {
			select {
			case <-st.ended(l.tag):
			case <-time.After(patience):
				t.Errorf("%s did not end for the upstream", l.kind)
			}
		}
		s.client.CloseIdleConnections()
		h2.CloseIdleConnections()
	}
	round(1)
	var before int
	testkit.Eventually(t, "the number of goroutines is stable", func() bool {
		n, _ := s.goroutines(t)
		quiet := n == before
		before = n
		return quiet
	})
	round(12)
	const slack = 8 // The gateway keeps a few idle connections to the upstream.
	var text string
	deadline := time.Now().Add(patience)
	for {
		n, all := s.goroutines(t)
		if text = all; n <= before+slack {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before\n%s", n, before, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestConcurrencySlotsAreFreed(t *testing.T) {
	t.Parallel()
	s, st := streamSite(t)
	h2 := http2Client(t)
	k := s.key(t, "acme", record{"concurrency": 1})
	busy := func(t *testing.T) {
		t.Helper()
		s.call(t, "GET", "/ping", k.full).rejected(http.StatusTooManyRequests).problem("concurrency_exceeded")
	}
	free := func(t *testing.T) {
		t.Helper()
		testkit.Eventually(t, "a free slot", func() bool { return s.call(t, "GET", "/ping", k.full).status == http.StatusOK })
	}
	kinds := map[string]func() *live{
		"events":        func() *live { return s.events(t, "events", s.client, k.full) },
		"events, HTTP2": func() *live { return s.events(t, "events over HTTP/2", h2, k.full) },
		"websocket":     func() *live { return s.socket(t, k.full) },
		"echo":          func() *live { return s.echo(t, "echo", h2, st.upstream2+"/echo", k.full) },
		"download":      func() *live { return s.download(t, k.full) },
		"waiting":       func() *live { return s.waits(t, st, "for headers", s.client, "/wait", k.full) },
		"upload":        func() *live { return s.waits(t, st, "with an upload", s.client, "/upload", k.full) },
		"upload, HTTP2": func() *live { return s.waits(t, st, "with an upload", h2, st.upstream2+"/upload", k.full) },
	}
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			free(t)
			l := open()
			busy(t)
			l.drop()
			free(t)
			l = open()
			busy(t)
			s.post(t, k, "disable", nil)
			l.ended(st, 401, "disabled_key")
			s.post(t, k, "enable", nil)
			free(t)
		})
	}
	t.Run("the upstream", func(t *testing.T) {
		free(t)
		for range 3 {
			resp, _, _, err := s.begin(t, s.client, "GET", "/die", k.full, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err == nil || n != 1000 {
				t.Errorf("%d bytes, %v, of an upstream that died", n, err)
			}
			free(t)
		}
		conn, _, err := websocket.DefaultDialer.Dial("ws://"+s.host()+"/socket", http.Header{"Authorization": {"Bearer " + k.full}, tagHeader: {newTag()}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		busy(t)
		_ = conn.WriteMessage(websocket.TextMessage, []byte("stop"))
		if _, _, err := conn.ReadMessage(); err == nil {
			t.Error("the upstream closed the socket, and a message came")
		}
		// Caddy keeps the client's side open until the client closes it, as every client does.
		conn.Close()
		free(t)
	})
}

func TestStreamsPass(t *testing.T) {
	t.Parallel()
	s, st := streamSite(t)
	h2 := http2Client(t)
	k := s.key(t, "acme", nil)
	auth := []string{"Authorization", "Bearer " + k.full}

	t.Run("events come before the answer ends", func(t *testing.T) {
		next := make(chan string)
		s.upstream.answer("/slow-events", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for text := range next {
				fmt.Fprintf(w, "data: %s\n\n", text)
				http.NewResponseController(w).Flush()
			}
		})
		go func() { next <- "one" }()
		resp, _, _, err := s.begin(t, s.client, "GET", "/slow-events", k.full, nil)
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		for _, text := range []string{"one", "two", "three"} {
			if line, err := in.ReadString('\n'); line != "data: "+text+"\n" {
				t.Fatalf("%q, %v", line, err)
			}
			_, _ = in.ReadString('\n')
			if text == "one" {
				next <- "two"
			} else if text == "two" {
				next <- "three"
			}
		}
		close(next)
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v after the end", rest, err)
		}
	})

	t.Run("two ways at once, and trailers", func(t *testing.T) {
		for _, path := range []string{"/h2/echo"} {
			body, out := io.Pipe()
			resp, _, _, err := s.begin(t, h2, "POST", path, k.full, body)
			if err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(resp.Body)
			for i := range 50 {
				want := fmt.Sprintln("message", i)
				if _, err := io.WriteString(out, want); err != nil {
					t.Fatal(err)
				}
				if got, err := in.ReadString('\n'); got != want {
					t.Fatalf("%q, %v", got, err)
				}
			}
			out.Close()
			if _, err := io.Copy(io.Discard, in); err != nil {
				t.Error(err)
			}
			if got := resp.Trailer.Get("Grpc-Status"); got != "0" {
				t.Errorf("the trailer is %q", got)
			}
		}
	})

	t.Run("trailers of requests", func(t *testing.T) {
		for name, client := range map[string]*http.Client{"HTTP/1.1": s.client, "HTTP/2": h2} {
			for _, path := range []string{"/upload", "/h2/upload"} {
				r, err := http.NewRequest("POST", s.site+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+k.full)
				r.Header.Set(tagHeader, newTag())
				r.ContentLength = -1
				r.Trailer = http.Header{"Checksum": nil}
				in, out := io.Pipe()
				r.Body = in
				go func() {
					io.WriteString(out, "a line\n")
					r.Trailer.Set("Checksum", "1234")
					out.Close()
				}()
				resp, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(b) != "done map[Checksum:[1234]]" {
					t.Errorf("%s %s: %s", name, path, b)
				}
			}
		}
	})

	t.Run("the gateway asks for a body only if the upstream reads it", func(t *testing.T) {
		s.upstream.answer("/expect", func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		})
		text := "POST /expect HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n"
		a := s.raw(t, text+"Authorization: Bearer "+k.full+"\r\n\r\nhello")
		// The gateway and the upstream may each ask for the body.
		if a.want(200); a.body != "5" || len(a.informational) == 0 || a.informational[0].StatusCode != 100 {
			t.Errorf("%d %s, before it %v", a.status, a.body, a.informational)
		}
		// A client that is rejected is not asked for its body.
		a = s.raw(t, text+"\r\n")
		if a.rejected(401); len(a.informational) != 0 {
			t.Errorf("before the rejection came %v", a.informational)
		}
	})

	t.Run("whole bodies", func(t *testing.T) {
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // The body has 4 MiB.
		sum := sha256.Sum256(big)
		s.upstream.answer("/big", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				h := sha256.New()
				_, _ = io.Copy(h, r.Body)
				fmt.Fprintf(w, "%x", h.Sum(nil))
				return
			}
			if r.URL.Query().Get("length") != "" {
				w.Header().Set("Content-Length", strconv.Itoa(len(big)))
			}
			_, _ = io.Copy(w, bytes.NewReader(big))
		})
		for _, client := range []*http.Client{s.client, h2} {
			for _, path := range []string{"/big", "/big?length=1", "/h2/big"} {
				resp, _, _, err := s.begin(t, client, "GET", path, k.full, nil)
				if err != nil {
					t.Fatal(err)
				}
				h := sha256.New()
				n, err := io.Copy(h, resp.Body)
				if err != nil || [32]byte(h.Sum(nil)) != sum {
					t.Errorf("%s: %d bytes, %v", path, n, err)
				}
				resp, _, _, err = s.begin(t, client, "POST", path, k.full, struct{ io.Reader }{bytes.NewReader(big)})
				if err != nil {
					t.Fatal(err)
				}
				if b, _ := io.ReadAll(resp.Body); string(b) != fmt.Sprintf("%x", sum) {
					t.Errorf("%s: the upstream read another body", path)
				}
			}
		}
	})

	t.Run("a slow reader", func(t *testing.T) {
		l := s.download(t, k.full)
		for range 5 {
			l.continues()
			time.Sleep(30 * time.Millisecond)
		}
		l.drop()
	})

	t.Run("upgrades", func(t *testing.T) {
		s.socket(t, k.full).continues()
		tag := newTag()
		_, resp, err := websocket.DefaultDialer.Dial("ws://"+s.host()+"/socket", http.Header{tagHeader: {tag}})
		if err == nil || resp == nil || resp.StatusCode != 401 || s.upstream.got(tag) != nil {
			t.Errorf("a handshake without a key: %v %v", resp, err)
		}
		// A client must not upgrade the connection to a protocol whose requests the gateway would
		// not check.
		for _, proto := range []string{"h2c", "H2C", "HTTP/2.0", "websocket, h2c", "TLS/1.2"} {
			a := s.send(t, "GET", "/ping", "", append(auth, "Connection", "Upgrade, HTTP2-Settings", "Upgrade", proto, "HTTP2-Settings", "AAMAAABkAAQAAP__")...).passed()
			if up := a.reached.header.Get("Upgrade"); up != "" || a.reached.header.Get("Http2-Settings") != "" {
				t.Errorf("the upstream was asked to upgrade to %s", up)
			}
		}
	})

	t.Run("cancelled by the client", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r, _ := http.NewRequestWithContext(ctx, "GET", s.site+"/wait", nil)
		tag := newTag()
		r.Header.Set(tagHeader, tag)
		r.Header.Set("Authorization", "Bearer "+k.full)
		go func() {
			<-st.received(tag)
			cancel()
		}()
		if _, err := s.client.Do(r); err == nil {
			t.Error("an answer to a request that was cancelled")
		}
		select {
		case <-st.ended(tag):
		case <-time.After(patience):
			t.Error("the upstream's request did not end")
		}
	})
}
