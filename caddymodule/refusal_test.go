package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// words returns the refusals of a keyspace with this configuration of errors.
func words(t testing.TB, c *config.ErrorsConfig) *refusals {
	t.Helper()
	ks, err := (&config.KeyspaceConfig{Errors: c}).Compile("shop")
	if err != nil {
		t.Fatal(err)
	}
	return refusalsOf(ks)
}

func TestRefusals(t *testing.T) {
	const quotaType = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	problem := &config.ErrorsConfig{}
	detail := &config.ErrorsConfig{Style: "detail", Refusals: map[string]*config.RefusalConfig{"missing_key": {Message: "Send <a> \"key\"."}}}
	envelope := &config.ErrorsConfig{Style: "envelope", Refusals: map[string]*config.RefusalConfig{"invalid_key": {Code: "UNAUTHORIZED"}, "credits_exhausted": {Status: 429}}}
	for _, tt := range []struct {
		name   string
		errors *config.ErrorsConfig
		refusal
		status  int
		body    string
		headers map[string]string
	}{
		{
			"missing", problem, refusal{reason: gateway.MissingKey}, 401,
			`{"type":"about:blank","title":"Unauthorized","status":401,"detail":"API key required.","code":"missing_key"}`,
			map[string]string{"WWW-Authenticate": `Bearer realm="shop"`, "Content-Type": "application/problem+json", "Retry-After": "", "Cache-Control": "no-store"},
		},
		{
			"invalid", problem, refusal{reason: gateway.InvalidKey, keySent: true, realm: `a "b" \c`}, 401,
			`{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Invalid API key.","code":"invalid_key"}`,
			map[string]string{"WWW-Authenticate": `Bearer realm="a \"b\" \\c", error="invalid_token"`},
		},
		{
			"scope", problem, refusal{reason: gateway.InsufficientScope, keySent: true, scopes: []string{"read", "write"}}, 403,
			`{"type":"about:blank","title":"Forbidden","status":403,"detail":"API key lacks a required scope.","code":"insufficient_scope"}`,
			map[string]string{"WWW-Authenticate": `Bearer realm="shop", error="insufficient_scope", scope="read write"`},
		},
		{
			"ambiguous", problem, refusal{reason: gateway.AmbiguousKey, keySent: true}, 400,
			`{"type":"about:blank","title":"Bad Request","status":400,"detail":"More than one API key was sent.","code":"ambiguous_key"}`,
			map[string]string{"WWW-Authenticate": `Bearer realm="shop", error="invalid_request"`},
		},
		{
			"another 403", problem, refusal{reason: gateway.TenantInactive, keySent: true}, 403,
			`{"type":"about:blank","title":"Forbidden","status":403,"detail":"Tenant is inactive.","code":"tenant_inactive"}`,
			map[string]string{"WWW-Authenticate": "", "Cache-Control": "no-store"},
		},
		{
			"rate", problem, refusal{reason: gateway.RateLimited, keySent: true, retryAfter: 1100 * time.Millisecond, violated: []string{"60/m", "20/s;tenant"}}, 429,
			`{"type":"` + quotaType + `","title":"Request cannot be satisfied as assigned quota has been exceeded","status":429,"detail":"Rate limit exceeded.","code":"rate_limited","violated-policies":["60/m","20/s;tenant"]}`,
			map[string]string{"WWW-Authenticate": "", "Cache-Control": "no-store", "Retry-After": "2"},
		},
		{
			"concurrency", problem, refusal{reason: gateway.ConcurrencyExceeded, violated: []string{"concurrency"}}, 429,
			`{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Too many concurrent requests.","code":"concurrency_exceeded","violated-policies":["concurrency"]}`,
			map[string]string{"Retry-After": "1"},
		},
		{
			"credits", problem, refusal{reason: gateway.CreditsExhausted, violated: []string{"credits"}}, 402,
			`{"type":"about:blank","title":"Payment Required","status":402,"detail":"Credit balance is used up.","code":"credits_exhausted","violated-policies":["credits"]}`,
			map[string]string{"Cache-Control": "no-store", "Retry-After": ""},
		},
		{
			"unavailable", problem, refusal{reason: gateway.Unavailable}, 503,
			`{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Key verification is temporarily unavailable.","code":"unavailable"}`,
			map[string]string{"Cache-Control": "no-store", "Retry-After": "1"},
		},
		{
			"detail", detail, refusal{reason: gateway.MissingKey}, 401, `{"detail":"Send <a> \"key\"."}`,
			map[string]string{"Content-Type": "application/json"},
		},
		{
			"envelope", envelope, refusal{reason: gateway.InvalidKey, keySent: true}, 401,
			`{"error":{"code":"UNAUTHORIZED","message":"Invalid API key."}}`,
			map[string]string{"Content-Type": "application/json"},
		},
		{
			"envelope without override", envelope, refusal{reason: gateway.RateLimited, violated: []string{"60/m"}}, 429,
			`{"error":{"code":"rate_limited","message":"Rate limit exceeded."}}`, nil,
		},
		{
			"another status", envelope, refusal{reason: gateway.CreditsExhausted, retryAfter: time.Minute}, 429,
			`{"error":{"code":"credits_exhausted","message":"Credit balance is used up."}}`,
			map[string]string{"Retry-After": "60", "Cache-Control": "no-store"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := words(t, tt.errors)
			for range 2 { // The second round would show a change to data that requests share.
				w := httptest.NewRecorder()
				r.write(w, httptest.NewRequest("GET", "/", nil), &tt.refusal)
				if w.Code != tt.status {
					t.Errorf("status %d, want %d", w.Code, tt.status)
				}
				var got, want any
				if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
					t.Fatalf("body %s: %v", w.Body, err)
				}
				if err := json.Unmarshal([]byte(tt.body), &want); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("body %s\nwant %s", w.Body, tt.body)
				}
				if n := w.Header().Get("Content-Length"); n != strconv.Itoa(w.Body.Len()) {
					t.Errorf("Content-Length %s of a body of %d bytes", n, w.Body.Len())
				}
				for name, want := range tt.headers {
					if got := w.Header().Get(name); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
			}
		})
	}
}

// Every reason has a response in every style, in valid JSON, and a HEAD request gets no body.
func TestEveryReasonHasResponse(t *testing.T) {
	for _, style := range []string{config.StyleProblem, config.StyleDetail, config.StyleEnvelope} {
		r := words(t, &config.ErrorsConfig{Style: style})
		for reason := gateway.MissingKey; reason < gateway.NumReasons; reason++ {
			w := httptest.NewRecorder()
			r.write(w, httptest.NewRequest("GET", "/", nil), &refusal{reason: reason})
			if w.Code != reason.Status() || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s: %d %s", style, reason, w.Code, w.Body)
			}
			head := httptest.NewRecorder()
			r.write(head, httptest.NewRequest(http.MethodHead, "/", nil), &refusal{reason: reason})
			if head.Body.Len() != 0 || head.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
				t.Errorf("%s %s: HEAD got %q, Content-Length %s", style, reason, head.Body, head.Header().Get("Content-Length"))
			}
		}
	}
}

func BenchmarkRefusal(b *testing.B) {
	r := words(b, nil)
	req := httptest.NewRequest("GET", "/", nil)
	for _, ref := range []*refusal{
		{reason: gateway.InvalidKey, keySent: true},
		{reason: gateway.RateLimited, retryAfter: time.Second, violated: []string{"60/m"}},
	} {
		b.Run(ref.reason.String(), func(b *testing.B) {
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				w.Body.Reset()
				clear(w.Header())
				r.write(w, req, ref)
			}
		})
	}
}
