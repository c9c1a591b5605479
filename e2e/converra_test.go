package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestConverra checks what the web page of the product Converra promises in "Authentication".
func TestConverra(t *testing.T) {
	t.Parallel()
	s := startProduct(t, converra)
	body := func(message string) string {
		return `{"error": {"code": "UNAUTHORIZED", "message": "` + message + `"}}`
	}
	get := func(t *testing.T, key string, header ...string) *answer {
		t.Helper()
		return s.call(t, "GET", s.path, key, header...)
	}

	t.Run("sk_live_ and sk_test_", func(t *testing.T) {
		s.tenant(t, "envs", nil)
		live := s.key(t, "envs", nil)
		s.shaped(t, live.full)
		test := s.key(t, "envs", record{"environment": "test"})
		testing := s.product
		testing.prefix = "sk_test_"
		testing.shaped(t, test.full)
		if got := get(t, live.full).passed().reached.header.Get("X-Key-Environment"); got != "live" {
			t.Errorf("X-Key-Environment %q", got)
		}
		if got := get(t, test.full).passed().reached.header.Get("X-Key-Environment"); got != "test" {
			t.Errorf("X-Key-Environment %q", got)
		}
		if r := s.read(t, "/v1/keys/"+test.id); r["environment"] != "test" {
			t.Errorf("the record is %v", r)
		}
		byCommand := s.keygate(t, "key", "create", "--tenant", "envs", "--name", "x", "--env", "test", "--json").json()
		testing.shaped(t, s.made(t, byCommand).full)
		// The gateway rejects a key of one environment with the prefix of the other environment.
		get(t, "sk_live_"+strings.TrimPrefix(test.full, "sk_test_")).rejected(http.StatusUnauthorized).says(body("Invalid API key"))
		s.manage(t, "POST", "/v1/tenants/envs/keys", record{"name": "x", "environment": "staging"}).want(http.StatusUnprocessableEntity).problem("invalid_field")
	})

	t.Run("the page's error messages", func(t *testing.T) {
		s.tenant(t, "words", nil)
		revoked, disabled, ended := s.key(t, "words", nil), s.key(t, "words", nil), s.key(t, "words", record{"expires_at": after(300 * time.Millisecond)})
		get(t, "").rejected(http.StatusUnauthorized).says(body("Authorization header required"))
		for _, sent := range []string{"sk_live_your_api_key_here", "sk_prod_" + strings.Repeat("a", 32), s.unknown(), "x"} {
			get(t, sent).rejected(http.StatusUnauthorized).says(body("Invalid API key"))
		}
		s.post(t, revoked, "revoke", nil)
		s.post(t, disabled, "disable", nil)
		get(t, revoked.full).rejected(http.StatusUnauthorized).says(body("Invalid API key"))
		get(t, disabled.full).rejected(http.StatusUnauthorized).says(body("Invalid API key"))
		testkit.Eventually(t, "the key has expired", func() bool { return get(t, ended.full).status == http.StatusUnauthorized })
		get(t, ended.full).rejected(http.StatusUnauthorized).says(body("API key has expired"))
	})

	t.Run("requests a minute", func(t *testing.T) {
		s.tenant(t, "free", record{"plan": "free"})
		s.tenant(t, "pro", record{"plan": "pro"})
		s.tenant(t, "corp", record{"plan": "enterprise", "rate": "7/m"})
		s.tenant(t, "unlimited", record{"plan": "enterprise"})
		for _, tt := range []struct {
			tenant string
			limit  int
		}{{"free", 60}, {"pro", 300}, {"corp", 7}} {
			k, second := s.key(t, tt.tenant, nil), s.key(t, tt.tenant, nil)
			perMinute(t, s, k, tt.limit)
			// Each key has a limit of its own: requests with one key do not use up the limit of another.
			if left := get(t, second.full).passed().number("X-RateLimit-Remaining"); left != int64(tt.limit-1) {
				t.Errorf("%s: another key has %d left", tt.tenant, left)
			}
		}
		// A key's own limit applies in addition to its plan's limit, so the key's limit can only be stricter.
		perMinute(t, s, s.key(t, "free", record{"rate": "5/m"}), 5)
		if a := get(t, s.key(t, "free", record{"rate": "1000/m"}).full).passed(); a.number("X-RateLimit-Limit") != 60 {
			t.Errorf("a key loosens its plan: %v", a.header)
		}
		// The tenant's record holds a custom limit. The limit may change while the tenant's keys are in use.
		k := s.key(t, "corp", nil)
		for range 5 {
			get(t, k.full).passed()
		}
		s.patch(t, "/v1/tenants/corp", record{"rate": "20/h"})
		if left := get(t, k.full).passed().number("X-RateLimit-Remaining"); left != 14 {
			t.Errorf("six of 20 were spent, and %d are left", left)
		}
		s.patch(t, "/v1/tenants/corp", record{"rate": "4/h"})
		get(t, k.full).rejected(http.StatusTooManyRequests)
		// If the plan has no limit, the response has no header about limits.
		free := get(t, s.key(t, "unlimited", nil).full).passed()
		for name := range free.header {
			if strings.HasPrefix(name, "X-Ratelimit") || strings.HasPrefix(name, "Ratelimit") || name == "Retry-After" {
				t.Errorf("without a limit there is %s: %q", name, free.header[name])
			}
		}
	})

	t.Run("headers of allowed and rejected requests", func(t *testing.T) {
		s.tenant(t, "headers", record{"plan": "enterprise", "rate": "3/h"})
		k := s.key(t, "headers", nil)
		s.upstream.answer("/own-headers", func(w http.ResponseWriter, r *http.Request) {
			for _, name := range []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy"} {
				w.Header().Add(name, "999")
			}
			w.WriteHeader(http.StatusTeapot)
		})
		for i := range 5 {
			now := time.Now().Unix()
			a := s.call(t, "GET", "/own-headers", k.full)
			left := int64(2 - i)
			if i < 3 {
				a.want(http.StatusTeapot)
			} else {
				left = 0
				a.rejected(http.StatusTooManyRequests)
				a.says(`{"error": {"code": "rate_limited", "message": "Rate limit exceeded."}}`)
				if wait := a.number("Retry-After"); wait > 1200 {
					t.Errorf("Retry-After %d, of three an hour", wait)
				}
				if got := a.one("X-RateLimit-Limit"); got != "3" {
					t.Errorf("X-RateLimit-Limit %q", got)
				}
			}
			if a.number("X-RateLimit-Limit") != 3 || a.number("X-RateLimit-Remaining") != left {
				t.Errorf("request %d: limit %q, remaining %q", i+1, a.header["X-Ratelimit-Limit"], a.header["X-Ratelimit-Remaining"])
			}
			// Each spent token of the limit takes 20 minutes to return.
			full := now + min(int64(i)+1, 3)*1200
			if reset := a.number("X-RateLimit-Reset"); reset < full-10 || reset > full+60 {
				t.Errorf("request %d: reset %d, want about %d", i+1, reset, full)
			}
			if p := a.one("RateLimit-Policy"); !strings.Contains(p, `"3/h";q=3;w=3600`) {
				t.Errorf("RateLimit-Policy %q", p)
			}
			if l := a.one("RateLimit"); !strings.Contains(l, fmt.Sprintf(`"3/h";r=%d;t=`, left)) {
				t.Errorf("RateLimit %q", l)
			}
		}
		if a := get(t, s.unknown()); a.header.Get("X-RateLimit-Limit") != "" {
			t.Error("the response to an unknown key has a limit")
		}
	})

	t.Run("MCP: events pass one by one", func(t *testing.T) {
		s.tenant(t, "mcp", record{"plan": "pro"})
		k := s.key(t, "mcp", nil)
		next := make(chan string)
		s.upstream.answer("/api/mcp", func(w http.ResponseWriter, r *http.Request) {
			var call record
			_ = json.NewDecoder(r.Body).Decode(&call)
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Mcp-Session-Id", "session-1")
			for text := range next {
				fmt.Fprintf(w, "event: message\ndata: {\"id\":%v,\"text\":%q}\n\n", call["id"], text)
				_ = http.NewResponseController(w).Flush()
			}
		})
		r, _ := s.request(t, "POST", "/api/mcp", `{"jsonrpc":"2.0","id":7,"method":"tools/call"}`,
			append(s.credential(k.full), "Accept", "application/json, text/event-stream", "Content-Type", "application/json", "Mcp-Session-Id", "session-1")...)
		done := make(chan struct{})
		var resp *http.Response
		var err error
		go func() { resp, err = s.client.Do(r); close(done) }()
		next <- "one"
		<-done
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Mcp-Session-Id") != "session-1" || resp.Header.Get("X-RateLimit-Limit") != "300" {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		// The client reads each event before the upstream writes the next event. If anything buffered events, the
		// test would wait until the request's deadline.
		lines := bufio.NewScanner(resp.Body)
		for i, text := range []string{"one", "two", "three"} {
			if i > 0 {
				next <- text
			}
			for lines.Scan() && !strings.HasPrefix(lines.Text(), "data:") {
			}
			if want := fmt.Sprintf(`data: {"id":7,"text":%q}`, text); lines.Text() != want {
				t.Fatalf("event %q, want %q", lines.Text(), want)
			}
		}
		close(next)
	})

	t.Run("MCP: uploads pass bit by bit", func(t *testing.T) {
		s.tenant(t, "upload", record{"plan": "pro"})
		k := s.key(t, "upload", nil)
		got := make(chan string)
		s.upstream.answer("/api/upload", func(w http.ResponseWriter, r *http.Request) {
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				got <- lines.Text()
			}
			close(got)
		})
		r, tag := s.request(t, "POST", "/api/upload", "-", s.credential(k.full)...)
		out, in := io.Pipe()
		r.Body, r.ContentLength = out, -1
		answered := make(chan *answer)
		go func() {
			defer close(answered)
			resp, err := s.client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			answered <- s.gateway.read(t, resp, tag)
		}()
		for _, line := range []string{"a", "b", "c"} {
			fmt.Fprintln(in, line)
			if l := receive(t, got); l != line {
				t.Errorf("the upstream got %q, want %q", l, line)
			}
		}
		in.Close()
		(<-answered).want(http.StatusOK)
	})

	t.Run("a revoked key's streams end", func(t *testing.T) {
		s.tenant(t, "streams", record{"plan": "pro"})
		ended := make(chan struct{})
		s.upstream.answer("/api/events", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: hello\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			ended <- struct{}{}
		})
		for _, verb := range []string{"revoke", "disable", "rotate", "suspend", "delete"} {
			k := s.key(t, "streams", nil)
			r, _ := s.request(t, "GET", "/api/events", "", s.credential(k.full)...)
			resp, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(resp.Body)
			if line, err := in.ReadString('\n'); line != "data: hello\n" {
				t.Fatalf("%q, %v", line, err)
			}
			switch verb {
			case "suspend":
				s.patch(t, "/v1/tenants/streams", record{"active": false})
			case "delete":
				s.manage(t, "DELETE", "/v1/keys/"+k.id, nil).want(http.StatusNoContent)
			case "rotate":
				s.made(t, s.post(t, k, verb, nil))
			default:
				s.post(t, k, verb, nil)
			}
			_, _ = io.Copy(io.Discard, in) // The copying ends when the stream ends, or at the request's deadline.
			resp.Body.Close()
			if err := r.Context().Err(); err != nil {
				t.Fatalf("%s: the stream did not end: %v", verb, err)
			}
			receive(t, ended)
			if verb == "suspend" {
				s.patch(t, "/v1/tenants/streams", record{"active": true})
			}
		}
	})

	t.Run("rotation without downtime", func(t *testing.T) {
		s.tenant(t, "rotate", record{"plan": "pro"})
		old := s.key(t, "rotate", nil)
		// A new key is created before the old one is revoked.
		fresh := s.key(t, "rotate", nil)
		get(t, old.full).passed()
		get(t, fresh.full).passed()
		s.post(t, old, "revoke", nil)
		get(t, old.full).rejected(http.StatusUnauthorized)
		get(t, fresh.full).passed()
		// As another way to rotate, one key has two valid secrets for a while.
		k := s.key(t, "rotate", nil)
		next := s.made(t, s.post(t, k, "rotate", record{"grace": "2s"}))
		get(t, k.full).passed()
		if a := get(t, next.full).passed(); a.reached.header.Get("X-Key-Id") != k.id {
			t.Errorf("the rotated key is %s, was %s", a.reached.header.Get("X-Key-Id"), k.id)
		}
		secrets := s.read(t, "/v1/keys/"+k.id).records("secrets")
		if len(secrets) != 2 {
			t.Errorf("the key has the secrets %v", secrets)
		}
		testkit.Eventually(t, "the grace period has ended", func() bool { return get(t, k.full).status == http.StatusUnauthorized })
		get(t, k.full).rejected(http.StatusUnauthorized)
		get(t, next.full).passed()
		byCommand := s.made(t, s.keygate(t, "key", "rotate", k.id, "--grace", "24h", "--json").json())
		get(t, next.full).passed()
		get(t, byCommand.full).passed()
		get(t, k.full).rejected(http.StatusUnauthorized)
	})

	t.Run("shown once", func(t *testing.T) {
		s.tenant(t, "once", nil)
		k := s.key(t, "once", nil)
		get(t, k.full).passed()
		s.shownOnce(t, k)
	})
}

// perMinute checks that a fresh key admits a burst up to its limit, and in t minutes at most limit
// + limit·t requests.
func perMinute(t *testing.T, s *site, k key, limit int) {
	t.Helper()
	begin := time.Now()
	passed := 0
	for {
		a := s.call(t, "GET", s.path, k.full)
		most := limit + int(math.Ceil(float64(limit)*time.Since(begin).Minutes()))
		switch a.status {
		case http.StatusOK:
			if passed++; passed > most {
				t.Fatalf("%d passed within %s of %d a minute", passed, time.Since(begin), limit)
			}
			if got := a.number("X-RateLimit-Limit"); got != int64(limit) {
				t.Fatalf("X-RateLimit-Limit %d, want %d", got, limit)
			}
		case http.StatusTooManyRequests:
			a.rejected(http.StatusTooManyRequests)
			if passed < limit {
				t.Errorf("only %d of %d passed", passed, limit)
			}
			if a.number("X-RateLimit-Limit") != int64(limit) || a.number("X-RateLimit-Remaining") != 0 || a.number("X-RateLimit-Reset") < time.Now().Unix() {
				t.Errorf("rejected with %v", a.header)
			}
			return
		default:
			t.Fatalf("answered %d %s", a.status, a.body)
		}
	}
}

// receive returns the next value of a channel. It ends the test if no value comes in time.
func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case v = <-c:
	case <-ctx.Done():
		t.Fatal("no value came")
	}
	return v
}

// TestConverraTestUpstream checks that the environment of a key chooses the upstream. The test enables the
// lines that the product's configuration file has as comments.
func TestConverraTestUpstream(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(shipped(t, "configs/converra.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	live, test := newUpstream(t), newUpstream(t)
	config := bytes.ReplaceAll(text, []byte("#   @test"), []byte("@test"))
	config = bytes.ReplaceAll(config, []byte("#   reverse_proxy @test localhost:9001"), []byte("reverse_proxy @test "+test.addr))
	if bytes.Count(config, []byte(test.addr)) != 1 {
		t.Fatal("the file shows no upstream for test keys")
	}
	s := &site{gateway: start(t, written(t, string(config)), live), product: converra}
	s.tenant(t, "acme", nil)
	s.call(t, "GET", s.path, s.key(t, "acme", nil).full).passed()
	a := s.call(t, "GET", s.path, s.key(t, "acme", record{"environment": "test"}).full).want(http.StatusOK)
	if a.reached != nil || test.count() != 1 || live.count() != 1 {
		t.Errorf("the live upstream got %d requests, the test one %d", live.count(), test.count())
	}
}
