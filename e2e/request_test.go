package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// answer is the response to one request, and the request as the upstream saw it.
type answer struct {
	t      testing.TB
	asked  string
	status int
	header http.Header
	body   string
	// reached is the request as the upstream saw it; nil if the request did not reach the
	// upstream.
	reached *seen
}

// send sends a request to the gateway's site and reads the response. header holds names and values
// in turn; names may repeat.
func (g *gateway) send(t testing.TB, method, target, body string, header ...string) *answer {
	t.Helper()
	for try := 0; ; try++ {
		r, tag := g.request(t, method, target, body, header...)
		resp, err := g.client.Do(r)
		if err == nil {
			return g.read(t, resp, tag)
		}
		if try == 5 || !g.cutOff(err, tag) {
			t.Fatalf("%s %s: %v", method, target, err)
		}
	}
}

// cutOff reports whether a reload closed the connection before any handler saw the request: the
// kernel closes connections in a closed listener's queue. Caddy without Keygate behaves the same.
func (g *gateway) cutOff(err error, tag string) bool {
	closed := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
	return closed && g.reloaded.Load() && g.upstream != nil && g.upstream.got(tag) == nil
}

// request returns a request to the site, and its tag.
func (g *gateway) request(t testing.TB, method, target, body string, header ...string) (*http.Request, string) {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, g.site+target, in)
	if err != nil {
		t.Fatal(err)
	}
	tag := newTag()
	r.Header.Set(tagHeader, tag)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	return r, tag
}

func (g *gateway) read(t testing.TB, resp *http.Response, tag string) *answer {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatalf("reading the answer of %s: %v", resp.Request.URL.Path, err)
	}
	a := &answer{t: t, asked: resp.Request.Method + " " + resp.Request.URL.Path, status: resp.StatusCode, header: resp.Header, body: string(b)}
	if g.upstream != nil {
		a.reached = g.upstream.got(tag)
	}
	return a
}

// want checks that the response has this status.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s answered %d %s, want %d", a.asked, a.status, a.body, status)
	}
	return a
}

// passed checks that the gateway forwarded the request and the upstream answered 200.
func (a *answer) passed() *answer {
	a.t.Helper()
	a.want(http.StatusOK)
	if a.reached == nil {
		a.t.Fatalf("%s: 200, but not from the upstream: %s", a.asked, a.body)
	}
	return a
}

// rejected checks that the gateway answered with this status and did not forward the request.
func (a *answer) rejected(status int) *answer {
	a.t.Helper()
	a.want(status)
	if a.reached != nil {
		a.t.Fatalf("%s: %d, but the request reached the upstream", a.asked, a.status)
	}
	switch status {
	case http.StatusUnauthorized:
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), `Bearer realm="`) {
			a.t.Errorf("%s: a 401 without a challenge: %q", a.asked, a.header)
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if n, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || n < 1 {
			a.t.Errorf("%s: Retry-After %q", a.asked, a.header.Get("Retry-After"))
		}
		fallthrough
	case http.StatusPaymentRequired:
		if a.header.Get("Cache-Control") != "no-store" {
			a.t.Errorf("%s: a cache may keep a %d", a.asked, status)
		}
	}
	return a
}

// says checks that the body is the JSON value want.
func (a *answer) says(want string) *answer {
	a.t.Helper()
	var w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		a.t.Fatal(err)
	}
	if got := a.any(); !reflect.DeepEqual(got, w) {
		a.t.Errorf("%s answered %s, want %s", a.asked, a.body, want)
	}
	return a
}

func (a *answer) any() (v any) {
	a.t.Helper()
	if err := json.NewDecoder(bytes.NewReader([]byte(a.body))).Decode(&v); err != nil {
		a.t.Fatalf("%s answered %d %q: %v", a.asked, a.status, a.body, err)
	}
	return v
}

// json returns the body, which must be a JSON object.
func (a *answer) json() record {
	a.t.Helper()
	m, ok := a.any().(map[string]any)
	if !ok {
		a.t.Fatalf("%s answered %s, not an object", a.asked, a.body)
	}
	return m
}

// problem checks that the body is a problem (RFC 9457) with this code, and returns it.
func (a *answer) problem(code string) record {
	a.t.Helper()
	p := a.json()
	if a.header.Get("Content-Type") != "application/problem+json" || p["code"] != code || p["status"] != float64(a.status) ||
		p.text("type") == "" || p.text("title") == "" || p.text("detail") == "" {
		a.t.Errorf("%s answered %d %s (%s), want a problem %s", a.asked, a.status, a.body, a.header.Get("Content-Type"), code)
	}
	return p
}

// one returns the value of a header that must not be repeated.
func (a *answer) one(name string) string {
	a.t.Helper()
	if v := a.header.Values(name); len(v) > 1 {
		a.t.Errorf("%s: %s is repeated %d times: %q", a.asked, name, len(v), v)
	}
	return a.header.Get(name)
}

// number returns the value of a header that must be a number.
func (a *answer) number(name string) int64 {
	a.t.Helper()
	n, err := strconv.ParseInt(a.one(name), 10, 64)
	if err != nil {
		a.t.Errorf("%s: %s is %q, want a number", a.asked, name, a.header.Get(name))
	}
	return n
}

// record is a JSON object.
type record map[string]any

// text returns a field that is a string, or "".
func (r record) text(name string) string {
	s, _ := r[name].(string)
	return s
}

// list returns a field that is a list, or nil.
func (r record) list(name string) []any {
	l, _ := r[name].([]any)
	return l
}

// records returns the objects in a field that is a list.
func (r record) records(name string) []record {
	var out []record
	for _, v := range r.list(name) {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
