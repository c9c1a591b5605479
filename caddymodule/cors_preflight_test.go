package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/apikey"
)

// reached is an upstream that records the request it receives.
type reached struct {
	*http.Request
	body    string
	bodyErr error
}

func (u *reached) ServeHTTP(_ http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	*u = reached{r, string(body), err}
	return nil
}

// ask sends a request through the directive. It returns what the upstream received and the
// response to the client.
func (g *harness) ask(t *testing.T, r *http.Request) (*reached, *httptest.ResponseRecorder) {
	t.Helper()
	u, w := new(reached), httptest.NewRecorder()
	if err := g.serve(w, r, u); err != nil {
		t.Fatal(err)
	}
	return u, w
}

var _ caddyhttp.Handler = (*reached)(nil)

var freePlan = &config.PlanConfig{Name: "free", Limits: []string{"rate 1000/h"}}

func TestOnlyPreflightsPassUnchecked(t *testing.T) {
	g := newHarness(t, freePlan, config.HandlerConfig{})
	for _, tt := range []struct {
		name   string
		change func(r *http.Request)
		passes bool
	}{
		{"as browsers send it", func(*http.Request) {}, true},
		{"with a length of 0", func(r *http.Request) { r.Header.Set("Content-Length", "0") }, true},
		{"from a sandboxed page", func(r *http.Request) { r.Header.Set("Origin", "null") }, true},
		{"for a method with odd characters", func(r *http.Request) { r.Header.Set("Access-Control-Request-Method", "M-SEARCH!#$%&'*+.^_`|~") }, true},
		{"over HTTP/3, where no length is stated", func(r *http.Request) { r.ProtoMajor, r.ContentLength = 3, -1 }, true},
		{"without an origin", func(r *http.Request) { r.Header.Del("Origin") }, false},
		{"with an empty origin", func(r *http.Request) { r.Header.Set("Origin", "") }, false},
		{"with two origins", func(r *http.Request) { r.Header.Add("Origin", "https://b.test") }, false},
		{"without a method", func(r *http.Request) { r.Header.Del("Access-Control-Request-Method") }, false},
		{"with an empty method", func(r *http.Request) { r.Header.Set("Access-Control-Request-Method", "") }, false},
		{"with two methods", func(r *http.Request) { r.Header.Add("Access-Control-Request-Method", "GET") }, false},
		{"with two methods in one line", func(r *http.Request) { r.Header.Set("Access-Control-Request-Method", "GET, POST") }, false},
		{"with words for a method", func(r *http.Request) { r.Header.Set("Access-Control-Request-Method", "a b c") }, false},
		{"with a method that is no ASCII", func(r *http.Request) { r.Header.Set("Access-Control-Request-Method", "PÖST") }, false},
		{"with a cookie", func(r *http.Request) { r.Header.Set("Cookie", "session=1") }, false},
		{"with an empty cookie", func(r *http.Request) { r.Header["Cookie"] = []string{""} }, false},
		{"by another method", func(r *http.Request) { r.Method = "GET" }, false},
		{"in small letters", func(r *http.Request) { r.Method = "options" }, false},
		{"with a body", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("purge")), 5
			r.Header.Set("Content-Length", "5")
		}, false},
		{"with a chunked body", func(r *http.Request) {
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(strings.NewReader("purge")), -1, []string{"chunked"}
		}, false},
		{"with an empty chunked body", func(r *http.Request) { r.ContentLength, r.TransferEncoding = -1, []string{"chunked"} }, false},
		{"over HTTP/2, with an open stream", func(r *http.Request) { r.ProtoMajor, r.ContentLength = 2, -1 }, false},
		{"over HTTP/2, with a length that is no number", func(r *http.Request) {
			r.ProtoMajor, r.Body = 2, io.NopCloser(strings.NewReader("purge"))
			r.Header.Set("Content-Length", "none")
		}, false},
		{"with trailers", func(r *http.Request) { r.Trailer = http.Header{"X-Sum": nil} }, false},
	} {
		r := httptest.NewRequest("OPTIONS", "http://localhost/v1/admin/purge", http.NoBody)
		r.Header.Set("Origin", "https://a.test")
		r.Header.Set("Access-Control-Request-Method", "POST")
		tt.change(r)
		u, w := g.ask(t, r)
		if passed := u.Request != nil; passed != tt.passes || !passed && w.Code != http.StatusUnauthorized {
			t.Errorf("%s: passed %v, answered %d", tt.name, passed, w.Code)
		}
		tt.change(r)
		r.Header.Set("X-Api-Key", g.key)
		if u, w := g.ask(t, r); u.Request == nil {
			t.Errorf("%s: answered %d with a key", tt.name, w.Code)
		} else if checked := u.Header.Get("X-Tenant-Id") != ""; checked == tt.passes {
			t.Errorf("%s: with a key, checked is %v", tt.name, checked)
		}
	}
}

// Over HTTP/3 the directive reads one byte to see whether a preflight has a body. That byte still
// reaches the upstream with the rest.
func TestBodyOfOptionsRequestArrives(t *testing.T) {
	g := newHarness(t, freePlan, config.HandlerConfig{})
	broken := errors.New("stream reset")
	for _, tt := range []struct {
		name string
		body io.Reader
		want string
		err  error
	}{
		{"one byte", strings.NewReader("x"), "x", nil},
		{"more", strings.NewReader("purge=1"), "purge=1", nil},
		{"broken at once", iotest.ErrReader(broken), "", broken},
		{"broken later", io.MultiReader(strings.NewReader("pu"), iotest.ErrReader(broken)), "pu", broken},
	} {
		r := httptest.NewRequest("OPTIONS", "http://localhost/", http.NoBody)
		r.ProtoMajor, r.ContentLength, r.Body = 3, -1, io.NopCloser(tt.body)
		for name, v := range map[string]string{"Origin": "https://a.test", "Access-Control-Request-Method": "POST", "X-Api-Key": g.key} {
			r.Header.Set(name, v)
		}
		u, w := g.ask(t, r)
		if u.Request == nil || u.Header.Get("X-Tenant-Id") != "acme" || u.body != tt.want || !errors.Is(u.bodyErr, tt.err) {
			t.Errorf("%s: answered %d, the upstream got %q, %v", tt.name, w.Code, u.body, u.bodyErr)
		}
	}
}

// A forwarded preflight holds nothing unchecked that an upstream could act on, such as a body or
// credentials.
func TestPreflightIsForwardedBare(t *testing.T) {
	ks := &config.KeyspaceConfig{Plans: []*config.PlanConfig{freePlan}, Credentials: []apikey.Place{{Kind: apikey.InHeader, Name: "X-API-Key"}, {Kind: apikey.InQuery, Name: "api_key"}}}
	for _, forward := range []bool{false, true} {
		g := newKeyspaceHarness(t, ks, config.HandlerConfig{ForwardCredential: forward, KeepOverrides: true})
		r := httptest.NewRequest("OPTIONS", "http://localhost/v1/things?a=1&api_key="+g.key, iotest.ErrReader(io.EOF))
		r.ContentLength = 0
		for name, v := range map[string]string{"Origin": "https://a.test", "Access-Control-Request-Method": "POST", "X-Api-Key": g.key, "X-Http-Method-Override": "DELETE"} {
			r.Header.Set(name, v)
		}
		u, w := g.ask(t, r)
		if u.Request == nil {
			t.Fatalf("answered %d", w.Code)
		}
		if strings.Contains(u.RequestURI+u.URL.RawQuery+u.Header.Get("X-Api-Key"), g.key) || u.URL.Query().Get("a") != "1" {
			t.Errorf("forward_credential %v: the upstream got %s, %v", forward, u.RequestURI, u.Header)
		}
		if u.Header.Get("X-Http-Method-Override") != "" || u.Body != http.NoBody {
			t.Errorf("the upstream got %v and the body %T", u.Header, u.Body)
		}
	}
}
