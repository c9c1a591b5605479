package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// hostileSite starts a gateway whose site has a rule of every kind.
func hostileSite(t testing.TB) *site {
	t.Helper()
	s := startTestSite(t, "", `plan limited {
				rate 100/h
				quota 1000/day
				concurrency 20
			}
			plan billed {
				credits
			}
			plan watched {
				rate 1/h
				observe
			}`, `@checked not path /observed/*
	keygate @checked {
		public /health /docs/*
		optional /app/*
		scope /admin/* admin
		scope GET /data/* read
		scope /data/* write
		cost POST /gen/* 5 {
			refund 5xx
			actual X-Credits-Used
		}
		cors https://app.example
	}
	handle /observed/* {
		keygate {
			observe
			scope /observed/admin/* admin
		}
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
	handle /gen/down {
		reverse_proxy 127.0.0.1:1
	}
	handle_errors 401 {
		@page header Accept text/html
		respond @page "<h1>{http.error.status_code} {http.error.message}</h1>"
	}
	handle_errors 403 {
		header X-Seen yes
	}
	handle_errors 500 {
		respond "never"
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
	for _, plan := range []string{"free", "limited", "billed", "watched"} {
		s.tenant(t, plan, record{"plan": plan})
	}
	return s
}

func TestHostileCredentials(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	k, other := s.key(t, "free", nil), s.key(t, "free", nil)
	long := strings.Repeat("a", 12<<10)
	for name, tc := range map[string]struct {
		header string
		status int
	}{
		"bearer":             {"Authorization: bearer " + k.full, 200},
		"BEARER, tab":        {"Authorization: BEARER\t" + k.full, 200},
		"spaces":             {"Authorization:   Bearer    " + k.full + "  ", 200},
		"Basic too":          {"Authorization: Basic dTpw\r\nX-API-Key: " + k.full, 200},
		"the same twice":     {"X-API-Key: " + k.full + "\r\nx-api-key: " + k.full, 200},
		"empty too":          {"Authorization: Bearer\r\nX-API-Key: " + k.full, 200},
		"two":                {"X-API-Key: " + k.full + "\r\nX-API-Key: " + other.full, 400},
		"two places":         {"Authorization: Bearer " + k.full + "\r\nX-API-Key: " + other.full, 400},
		"comma":              {"X-API-Key: " + k.full + "," + k.full, 401},
		"comma, space":       {"Authorization: Bearer " + k.full + ", Bearer " + k.full, 401},
		"NUL":                {"X-API-Key: " + k.full + "\x00", 400},
		"NUL inside":         {"X-API-Key: kt_live_\x00" + k.full[9:], 400},
		"CR":                 {"X-API-Key: " + k.full + "\rX: y", 400},
		"folded":             {"X-API-Key: " + k.full[:20] + "\r\n " + k.full[20:], 401},
		"control character":  {"X-API-Key: " + k.full + "\x01", 400},
		"DEL":                {"X-API-Key: " + k.full + "\x7f", 400},
		"UTF-8":              {"X-API-Key: " + k.full + "é", 401},
		"a look-alike":       {"X-API-Key: " + strings.Replace(k.full, "kt_live_", "kt＿live_", 1), 401},
		"no UTF-8":           {"X-API-Key: " + k.full + "\xff", 401},
		"long":               {"X-API-Key: kt_live_" + long, 401},
		"a long word":        {"Authorization: Bearer " + long, 401},
		"many":               {strings.TrimSuffix(strings.Repeat("X-API-Key: "+k.full+"\r\n", 64), "\r\n"), 200},
		"too many":           {strings.TrimSuffix(strings.Repeat("X-API-Key: "+k.full+"\r\n", 200), "\r\n"), 400},
		"many that differ":   {strings.Repeat("X-API-Key: "+k.full+"\r\n", 100) + "X-API-Key: " + other.full, 400},
		"quoted":             {`X-API-Key: "` + k.full + `"`, 401},
		"the scheme twice":   {"Authorization: Bearer Bearer " + k.full, 401},
		"Bearer in a header": {"X-API-Key: Bearer " + k.full, 401},
		"another scheme":     {"Authorization: Token " + k.full, 401},
		"no scheme":          {"Authorization: " + k.full, 401},
		"percent-encoded":    {"X-API-Key: %6bt_live_" + k.full[8:], 401},
		"upper case":         {"X-API-Key: " + strings.ToUpper(k.full), 401},
		"space before colon": {"X-API-Key : " + k.full, 400},
		"not a place":        {"Api-Key: " + k.full, 401},
		"an SQL quote":       {"X-API-Key: kt_live_' OR 1=1 --", 401},
	} {
		a := s.raw(t, "GET /ping HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nConnection: close\r\n"+tc.header+"\r\n\r\n")
		if a.status != tc.status || (a.reached != nil) != (tc.status == 200) {
			t.Errorf("%s: %d %s, reached %v, want %d", name, a.status, a.body, a.reached != nil, tc.status)
		}
	}
	// Caddy rejects a header of 64 KiB before any handler runs.
	conn, err := net.Dial("tcp", s.host())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /ping HTTP/1.1\r\nHost: %s\r\nX-API-Key: kt_live_%s\r\n\r\n", s.host(), strings.Repeat("a", 64<<10))
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode != 431 {
		t.Errorf("64 KiB of a key: %d", resp.StatusCode)
	}
	s.call(t, "GET", "/ping", k.full).passed()
}

func TestHostilePaths(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	reader := s.key(t, "free", record{"scopes": []string{"read"}})
	writer := s.key(t, "free", record{"scopes": []string{"write"}})
	ask := func(method, target, header string) *answer {
		return s.raw(t, method+" "+target+" HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nConnection: close\r\nContent-Length: 0\r\n"+header+"\r\n").answer
	}
	// These paths are public or optional and need no key. All other paths need one.
	for _, target := range []string{"/health", "/docs", "/docs/", "/docs/a", "/docs/a/b", "/docs//a", "/docs/../docs/a", "/docs/a?x=/../ping", "/health?y=%2e%2e", "http://$HOST/docs/a", "/app/a"} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			if a := ask(method, target, ""); a.status != 200 || a.reached == nil {
				t.Errorf("%s %s: %d %s", method, target, a.status, a.body)
			}
		}
	}
	for _, target := range []string{
		"/ping", "/", "//ping", "/./ping", "/docs/../ping", "/docs/%2e%2e/ping", "/docs/%2E%2E%2Fping", "/docs/..%2fping", "/docs/..%5cping", `/docs/..\ping`,
		"/docs/..;/ping", "/docs/..;x=y/ping", "/docs/%2e%2e;/ping", "/docs/%252e%252e/ping", "/docs/%252e%252e%252fping", "/docs/x/../../ping", "/docs//../ping",
		"/docs/./../ping", "/docs/..%00/ping", "/health/../ping", "/health/", "/health/x", "/health%2f..%2fping", "/health%00", "/health%20", "/health;/../ping", "/HEALTH", "/Docs/a",
		"/docs%2fa/..%2f..%2fping", "/docs/%c0%ae%c0%ae/ping", "/docs/\xc0\xae\xc0\xae/ping", "/docs/．．/ping", "//docs/../ping", "/app/../ping", "/app/%2e%2e/ping",
		"http://$HOST/ping", "http://$HOST/docs/../ping", "http://$HOST", "http:ping", "http:docs/../ping", "x:/ping", "/health/%2e%2e/", "/docs/%2e%2e",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "PURGE"} {
			a := ask(method, target, "")
			if a.reached != nil || a.status != 401 && a.status != 400 {
				t.Errorf("%s %s: %d %s without a key, reached %v", method, target, a.status, a.body, a.reached != nil)
			}
		}
	}
	for _, line := range []string{"OPTIONS *", "CONNECT $HOST", "CONNECT /ping", "GET *", "PRI *"} {
		method, target, _ := strings.Cut(line, " ")
		// Go's server itself answers OPTIONS *.
		if a := ask(method, target, ""); a.reached != nil || a.status < 400 && line != "OPTIONS *" {
			t.Errorf("%s: %d, reached %v", line, a.status, a.reached != nil)
		}
	}
	// A key without the scope is rejected, however the path is spelled.
	for _, target := range []string{
		"/admin/x", "/admin/", "//admin/x", "/./admin/x", "/x/../admin/x", "/ADMIN/x", "/Admin/x", "/%61dmin/x", "/admin%2fx", "/admin%2Fx", "/admin%5cx", `/admin\x`, "/admin;a=b/x",
		"/data/../admin/x", "/data/%2e%2e/admin/x", "/data/..%2fadmin/x", "/admin//x", "/admin/./x", "/admin/x/", "/admin/x;y", "/admin/x?y=/data/", "http://$HOST/admin/x",
		"/docs/../admin/x", "/app/../admin/x", "/%2e/admin/x", "/x%2f..%2fadmin/x", "http:admin/x", "/%2561dmin/x",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "get"} {
			a := ask(method, target, "X-API-Key: "+reader.full+"\r\n")
			if a.reached != nil || a.status != 403 && a.status != 400 {
				t.Errorf("%s %s: %d %s to a reader", method, target, a.status, a.body)
			}
		}
	}
	for _, tc := range []struct {
		method, target string
		k              key
		status         int
	}{
		{"GET", "/data/x", reader, 200}, {"HEAD", "/data/x", reader, 200}, {"POST", "/data/x", reader, 403}, {"DELETE", "/data/x", reader, 403}, {"OPTIONS", "/data/x", reader, 403},
		{"get", "/data/x", reader, 403}, {"POST", "/data/x", writer, 200}, {"GET", "/data/x", writer, 200}, {"GET", "/admin", reader, 403}, {"GET", "/app/x", reader, 200},
	} {
		a := ask(tc.method, tc.target, "X-API-Key: "+tc.k.full+"\r\n")
		if a.status != tc.status {
			t.Errorf("%s %s: %d %s, want %d", tc.method, tc.target, a.status, a.body, tc.status)
		}
	}
	// On an optional path, a key that is sent must be valid.
	ask("GET", "/app/x", "X-API-Key: "+house.unknown()+"\r\n").rejected(401)
	ask("GET", "/health", "X-API-Key: "+house.unknown()+"\r\n").passed()
}

func TestProtectedPaths(t *testing.T) {
	t.Parallel()
	s := startTestSite(t, "", "", `keygate {
		protect /secret /secret/*
		protect POST /form
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
	for _, target := range []string{
		"/secret", "/secret/", "/secret/x", "/SECRET", "/Secret/X", "//secret", "/./secret", "/x/../secret", "/%73ecret", "/%2e/secret", "/secret;x", "/secret%2f", "/secret%2fx", "/x%2f..%2fsecret",
		"/secret%00", "/secret%20", "/secret.", "/secret?x", "/x/..;/secret", `/x/..\secret`, `/\secret`, "http://$HOST/secret", "/%2573ecret", "/x/%2e%2e/secret", "/ſecret", "/secret%3fx", "http:secret",
	} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			a := s.raw(t, method+" "+target+" HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			if a.reached != nil || a.status != 401 && a.status != 400 {
				t.Errorf("%s %s: %d %s without a key", method, target, a.status, a.body)
			}
		}
	}
	for _, line := range []string{"GET /", "GET /secre", "GET /secrets", "GET /form", "GET /x/secret"} {
		s.raw(t, line+" HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nConnection: close\r\n\r\n").passed()
	}
	s.raw(t, "POST /form HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").rejected(401)
}

var limitHeaderNames = []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy"}

func TestLimitHeadersAreNotRepeated(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	k := s.key(t, "limited", nil)
	theirs := func(w http.ResponseWriter) {
		for _, name := range append(limitHeaderNames, "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset") {
			w.Header()[http.CanonicalHeaderKey(name)] = []string{"theirs", "theirs too"}
		}
		w.Header().Set("Retry-After", "77")
	}
	s.upstream.answer("/own", func(w http.ResponseWriter, _ *http.Request) {
		theirs(w)
		fmt.Fprint(w, "body")
	})
	s.upstream.answer("/docs/own", s.upstream.other["/own"])
	s.upstream.answer("/hints", func(w http.ResponseWriter, _ *http.Request) {
		theirs(w)
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	s.upstream.answer("/switch", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\nX-RateLimit-Limit: theirs\r\nX-RateLimit-Limit: theirs\r\n\r\n")
		conn.Close()
	})
	ours := func(a *answer) {
		t.Helper()
		for _, name := range limitHeaderNames {
			if v := a.one(name); v == "" || strings.Contains(v, "theirs") {
				t.Errorf("%s: %s is %q", a.asked, name, v)
			}
		}
		if v := a.header.Get("RateLimit-Limit"); v != "" {
			t.Errorf("%s: RateLimit-Limit is %q", a.asked, v)
		}
	}
	ours(s.call(t, "GET", "/ping", k.full))
	ours(s.call(t, "HEAD", "/ping", k.full))
	if a := s.call(t, "GET", "/own", k.full); a.header.Get("Retry-After") != "77" || a.body != "body" {
		t.Errorf("the upstream's own answer became %v %s", a.header, a.body)
	} else {
		ours(a)
	}
	key := "X-API-Key: " + k.full + "\r\n\r\n"
	a := s.raw(t, "GET /hints HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nConnection: close\r\n"+key)
	ours(a.answer)
	if len(a.informational) != 1 || a.informational[0].Header.Get("Link") == "" {
		t.Errorf("hints: %v", a.informational)
	} else {
		for _, name := range limitHeaderNames {
			if v := a.informational[0].Header.Values(name); len(v) > 0 {
				t.Errorf("103: %s is %q", name, v)
			}
		}
	}
	if a := s.raw(t, "GET /switch HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nConnection: Upgrade\r\nUpgrade: own\r\n"+key); a.status != 101 {
		t.Errorf("switching: %d %s", a.status, a.body)
	} else {
		ours(a.answer)
	}
	// Where no limit applies, the gateway adds no headers and keeps those of the upstream.
	if a := s.call(t, "GET", "/docs/own", k.full).want(200); len(a.header.Values("X-RateLimit-Limit")) != 2 {
		t.Errorf("public: %v", a.header)
	}
	free := s.key(t, "free", nil)
	for _, a := range []*answer{
		s.call(t, "GET", "/health", ""), s.call(t, "GET", "/health", k.full), s.call(t, "GET", "/ping", ""), s.call(t, "GET", "/ping", s.unknown()),
		s.call(t, "OPTIONS", "/ping", "", "Origin", "https://app.example", "Access-Control-Request-Method", "GET"), s.call(t, "GET", "/ping", free.full), s.call(t, "GET", "/app/x", ""),
	} {
		for _, name := range limitHeaderNames {
			if v := a.header.Values(name); len(v) > 0 {
				t.Errorf("%s %d: %s is %q", a.asked, a.status, name, v)
			}
		}
	}
}

func TestCostsAreSettled(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	k := s.key(t, "billed", nil)
	used := func(path string, h http.HandlerFunc) { s.upstream.answer("/gen/"+path, h) }
	used("fail", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	used("client", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	used("header", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Credits-Used", "2")
		fmt.Fprint(w, "ok")
	})
	used("trailer", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Credits-Used, Checksum")
		fmt.Fprint(w, "ok")
		w.Header().Set("X-Credits-Used", "3")
		w.Header().Set("Checksum", "12")
	})
	used("unannounced", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		fmt.Fprint(w, "ok")
		w.Header().Set(http.TrailerPrefix+"X-Credits-Used", "4")
	})
	used("none", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Credits-Used", "0") })
	used("nonsense", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Credits-Used", "-7") })
	used("dear", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Credits-Used", "1000") })
	used("cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "part")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	begun := make(chan struct{})
	used("hang", func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})
	balance := int64(100)
	s.manage(t, "POST", "/v1/tenants/billed/credits", record{"add": balance}).want(200)
	want := func(path string, cost int64) {
		t.Helper()
		balance -= cost
		testkit.Eventually(t, "the cost of "+path+" is settled", func() bool { return s.balance(t, "billed") == balance })
	}
	for _, tc := range []struct {
		path string
		cost int64
	}{{"plain", 5}, {"fail", 0}, {"client", 5}, {"header", 2}, {"trailer", 3}, {"unannounced", 4}, {"none", 0}, {"nonsense", 5}, {"down", 0}} {
		r, _ := s.request(t, "POST", "/gen/"+tc.path, "", "X-API-Key", k.full)
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.Header.Get("X-Credits-Used") != "" || resp.Trailer.Get("X-Credits-Used") != "" || strings.Contains(fmt.Sprint(resp.Trailer, resp.Header), "X-Credits") {
			t.Errorf("%s: the client sees the cost: %v %v", tc.path, resp.Header, resp.Trailer)
		}
		if tc.path == "trailer" && resp.Trailer.Get("Checksum") != "12" {
			t.Errorf("the other trailer is %v", resp.Trailer)
		}
		want(tc.path, tc.cost)
	}
	// An upstream that closes the connection in the middle of its answer has failed, so the cost
	// is refunded. A client that leaves has to pay.
	resp, _, _, err := s.begin(t, s.client, "POST", "/gen/cut", k.full, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	want("cut", 0)
	ctx, cancel := context.WithCancel(context.Background())
	r, _ := s.request(t, "POST", "/gen/hang", "", "X-API-Key", k.full)
	go func() {
		<-begun
		cancel()
	}()
	if _, err := s.client.Do(r.WithContext(ctx)); err == nil {
		t.Error("a request that the client cancelled got an answer")
	}
	time.Sleep(100 * time.Millisecond)
	want("hang", 5)
	// The ledger records the cost beyond the balance as a shortfall.
	if a := s.call(t, "POST", "/gen/dear", k.full); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	testkit.Eventually(t, "the balance is 0", func() bool { return s.balance(t, "billed") == 0 })
	if ledger := s.manage(t, "GET", "/v1/tenants/billed/credits", nil).body; !strings.Contains(ledger, "shortfall") {
		t.Errorf("no shortfall in %s", ledger)
	}
	s.call(t, "POST", "/gen/plain", k.full).rejected(402).problem("credits_exhausted")
}

func TestObserveMode(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	reader := s.key(t, "limited", record{"scopes": []string{"read"}, "rate": "2/h"})
	for name, tc := range map[string]struct {
		path, key, tenant string
	}{
		"no key":      {"/observed/x", "", ""},
		"unknown":     {"/observed/x", s.unknown(), ""},
		"malformed":   {"/observed/x", "nonsense", ""},
		"lacks scope": {"/observed/admin/x", reader.full, ""},
		"good":        {"/observed/x", reader.full, "limited"},
	} {
		var header []string
		if tc.key != "" {
			header = []string{"X-API-Key", tc.key}
		}
		a := s.send(t, "GET", tc.path, "", append(header, "X-Tenant-Id", "evil")...).passed().clean(tc.tenant)
		if a.reached.header.Get("X-Api-Key") != tc.key {
			t.Errorf("%s: the credential was touched: %v", name, a.reached.header)
		}
		for _, h := range limitHeaderNames {
			if a.header.Get(h) != "" {
				t.Errorf("%s: %s is %q", name, h, a.header.Get(h))
			}
		}
	}
	s.send(t, "GET", "/observed/x", "", "X-API-Key", reader.full).passed().clean("limited")
	s.send(t, "GET", "/observed/x", "", "X-API-Key", reader.full).passed().clean("") // The rate is used up by the two requests before.
	s.call(t, "GET", "/ping", reader.full).rejected(429)

	watched := s.key(t, "watched", nil)
	s.call(t, "GET", "/ping", watched.full).passed().clean("watched")
	for range 3 {
		a := s.call(t, "GET", "/ping", watched.full).passed().clean("")
		if a.reached.header.Get("Authorization") == "" || a.header.Get("X-RateLimit-Limit") != "" {
			t.Errorf("a plan that is observed: %v, %v", a.reached.header, a.header)
		}
	}
	s.post(t, watched, "revoke", nil)
	s.call(t, "GET", "/ping", watched.full).rejected(401)
}

// The numbers in the limit headers match a model of a token bucket. The model knows only that the
// gateway checked each request between its sending and its response.
func TestLimitHeadersMatchModel(t *testing.T) {
	t.Parallel()
	s := hostileSite(t)
	k := s.key(t, "free", record{"rate": "20/2s"})
	const size, perSecond = 20.0, 10.0
	lo, hi := size, size
	var sentBefore, doneBefore time.Time
	rejected := 0
	for i := range 120 {
		sent := time.Now()
		a := s.call(t, "GET", "/ping", k.full)
		done := time.Now()
		if i > 0 {
			lo = math.Min(size, lo+perSecond*max(0, sent.Sub(doneBefore).Seconds()))
			hi = math.Min(size, hi+perSecond*done.Sub(sentBefore).Seconds())
		}
		sentBefore, doneBefore = sent, done
		left := float64(a.number("X-RateLimit-Remaining"))
		if n := a.number("X-RateLimit-Limit"); n != size {
			t.Fatalf("the limit is %d", n)
		}
		switch a.status {
		case 200:
			if hi < 1 {
				t.Fatalf("request %d passed with %.3f to %.3f tokens", i, lo, hi)
			}
			lo, hi = lo-1, hi-1
		case 429:
			rejected++
			if lo >= 1 || left != 0 {
				t.Fatalf("request %d was rejected with %.3f to %.3f tokens, and the header says that %v remain", i, lo, hi, left)
			}
			hi = math.Min(hi, 1)
			if n := a.rejected(429).number("Retry-After"); n != 1 {
				t.Errorf("Retry-After is %d, a token comes each 100 ms", n)
			}
		default:
			t.Fatalf("%d %s", a.status, a.body)
		}
		if left < math.Floor(lo-1e-6) || left > math.Floor(hi+1e-6) {
			t.Fatalf("request %d: the header says that %v remain, the model says %.3f to %.3f", i, left, lo, hi)
		}
		lo, hi = math.Max(lo, left), math.Min(hi, left+1)
		lo = math.Min(lo, hi)
		reset := float64(a.number("X-RateLimit-Reset"))
		earliest := float64(sent.UnixMicro())/1e6 + (size-hi)/perSecond
		latest := float64(done.UnixMicro())/1e6 + (size-lo)/perSecond
		if reset < math.Floor(earliest) || reset > math.Ceil(latest)+1 {
			t.Fatalf("request %d: full again at %.0f, the model says %.3f to %.3f", i, reset, earliest, latest)
		}
		if i%17 == 16 {
			time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		}
	}
	if rejected == 0 {
		t.Error("no request was rejected")
	}
	// A client that waits as long as Retry-After says gets through.
	slow := s.key(t, "free", record{"rate": "2/2s"})
	for range 3 {
		var a *answer
		for a = s.call(t, "GET", "/ping", slow.full); a.status == 200; a = s.call(t, "GET", "/ping", slow.full) {
		}
		time.Sleep(time.Duration(a.rejected(429).number("Retry-After")) * time.Second)
		s.call(t, "GET", "/ping", slow.full).passed()
	}
}
