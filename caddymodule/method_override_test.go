package caddymodule

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/formmethod"
)

const (
	formType = "application/x-www-form-urlencoded"
	partType = "multipart/form-data; boundary=XX"
)

func part(header, value string) string {
	return "--XX\r\n" + header + "\r\n\r\n" + value + "\r\n"
}

func field(name, value string) string {
	return part(`Content-Disposition: form-data; name="`+name+`"`, value)
}

func TestMethodsNamedByBodies(t *testing.T) {
	const unread = "PUT PATCH DELETE"
	for _, tt := range []struct{ contentType, body, want string }{
		{formType, "", ""},
		{formType, "a=1&method=DELETE&x_method=DELETE&_methods=DELETE", ""},
		{formType, "a=_method=DELETE", ""},
		{formType, "_method=DELETE", "DELETE"},
		{formType, "_method=", ""},
		{formType, "_method", ""},
		{formType, "_method=post&a=1&_method=delete", "POST DELETE"},
		{formType, "a=1;_method=DELETE", "DELETE"},
		{formType, "a=1& _method=DELETE", "DELETE"},
		{formType, "%5Fmethod=%44ELETE", "DELETE"},
		{formType, "%u005fmethod=DELETE", "DELETE"},
		{formType, "%_method=DELETE", ""},
		{formType, ".method=DELETE&+method=PUT&[method=PATCH", "DELETE PATCH"},
		{formType, "+_method=DELETE", "DELETE"},
		{formType, "_METHOD=DELETE", "DELETE"},
		{formType, "_method[]=DELETE", "DELETE"},
		{formType, "_method%00x=DELETE", "DELETE"},
		{formType, "X-HTTP-Method-Override=DELETE", "DELETE"},
		{formType, "_method=+DELETE%0A", "DELETE"},
		{formType, "_method=DELETE,GET", unread},
		{formType, "_method=DELETE%00", unread},
		{formType, "_method=OPTION%C5%BF", "OPTIONS"},
		{"APPLICATION/X-WWW-Form-Urlencoded ; charset=UTF-8", "_method=DELETE", "DELETE"},
		{"application/x-www-form-urlencoded, text/plain", "_method=DELETE", "DELETE"},
		{"application/x-www-form-urlencoded; charset=utf-16", "a=1", unread},
		{"application/x-www-form-urlencoded; charset=utf-8; charset=utf-7", "a=1", unread},
		{"", "_method=DELETE", "DELETE"},
		{"form", "_method=DELETE", "DELETE"},
		{"text/plain", "_method=DELETE", "other"},
		{"text/plain; a=/json", `{"_method":"DELETE"}`, unread},
		{"application/json-x", `{"_method":"DELETE"}`, unread},
		{"application/octet-stream", "_method=DELETE", "other"},
		{"application/json", ``, ""},
		{"application/json", `{"a":{"_method":"DELETE"},"b":[{"_method":"PUT"}]}`, ""},
		{"application/json", `["_method","DELETE"]`, ""},
		{"application/json", `{"_method":"DELETE"}`, "DELETE"},
		{"application/json; charset=utf-8", ` {"a":[1,{}],"\u005fmethod":"\u0044elete","_method":"PUT"} `, "DELETE PUT"},
		{"application/vnd.api+json", `{"_method":"DELETE"}`, "DELETE"},
		{"text/json", `{"_method":["DELETE"]}`, unread},
		{"application/json", `{"_method":null}`, ""},
		{"application/json", `{"_method":"DELETE"`, unread},
		{"application/json", `{"a":1}{"_method":"DELETE"}`, unread},
		{"application/json", `{"a":1, /* */ "b":2}`, unread},
		{"application/json", "{\"\xc1\x9fmethod\":\"DELETE\"}", unread},
		{"application/json; charset=utf-7", `{"+AF8-method":"DELETE"}`, unread},
		{partType, field("a", "_method=DELETE") + "--XX--\r\n", ""},
		{partType, field("a", "1") + field("_method", "DELETE") + "--XX--", "DELETE"},
		{partType, field("%5Fmethod", "DELETE") + "--XX--", "DELETE"},
		{partType, part("Content-Disposition: form-data; name=_method", "DELETE") + "--XX--\r\n", "DELETE"},
		{partType, part(`Content-Disposition: form-data; name="f"; filename="a.txt"`+"\r\nContent-Type: text/plain", "x\r\n\r\ny") + "--XX--\r\n", ""},
		{partType, part("Content-Type: text/plain; charset=utf-16\r\nContent-Disposition: form-data; name=\"_method\"", "x") + "--XX--\r\n", unread},
		{partType, part(`Content-Disposition: form-data; name="a"; name="_method"`, "DELETE") + "--XX--\r\n", unread},
		{partType, part(`Content-Disposition: form-data; name*=utf-8''_method`, "DELETE") + "--XX--\r\n", unread},
		{partType, part(`Content-Disposition: form-data; name="a\"; filename="; name="_method"`, "DELETE") + "--XX--\r\n", unread},
		{partType, part("Content-Disposition: form-data;\r\n name=\"_method\"", "DELETE") + "--XX--\r\n", unread},
		{partType, part("Content-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name=\"a\"", "x") + "--XX--\r\n", unread},
		{partType, "preamble\r\n" + field("a", "1") + "--XX--\r\n", unread},
		{partType, field("a", "1\n--XX\nContent-Disposition: form-data; name=\"_method\"\n\nDELETE") + "--XX--\r\n", unread},
		{partType, field("a", "1"), unread},
		{partType, "", unread},
		{"multipart/form-data", field("a", "1") + "--XX--\r\n", unread},
		{"multipart/form-data; boundary=YY; boundary=XX", field("a", "1") + "--XX--\r\n", unread},
		{`multipart/form-data; boundary="XX"`, field("_method", "PUT") + "--XX--\r\n", "PUT"},
		{"multipart/mixed; boundary=XX", part("Content-Type: text/plain", "1") + "--XX--\r\n", unread},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(tt.body))
		r.ContentLength = -1 // as of a chunked body
		if tt.contentType != "" {
			r.Header.Set("Content-Type", tt.contentType)
		}
		got := "other"
		if formmethod.MayName(r) {
			got = strings.Join(bodyMethods(r), " ")
		}
		if got != tt.want {
			t.Errorf("%s %q: %q, want %q", tt.contentType, tt.body, got, tt.want)
		}
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != tt.body {
			t.Errorf("%s %q: %q is forwarded, %v", tt.contentType, tt.body, rest, err)
		}
	}
}

func TestMethodsOfBodiesThatAreNotRead(t *testing.T) {
	long := strings.Repeat("a", maxOverrideBody+1)
	for name, tt := range map[string]struct {
		body   io.Reader
		change func(*http.Request)
		read   bool
	}{
		"the most":               {strings.NewReader(long[1:]), func(*http.Request) {}, true},
		"the most, chunked":      {strings.NewReader(long[1:]), func(r *http.Request) { r.ContentLength = -1 }, true},
		"one more":               {strings.NewReader(long), func(*http.Request) {}, false},
		"one more, chunked":      {strings.NewReader(long), func(r *http.Request) { r.ContentLength = -1 }, false},
		"compressed":             {strings.NewReader("a"), func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, false},
		"not compressed":         {strings.NewReader("a"), func(r *http.Request) { r.Header.Set("Content-Encoding", "identity") }, true},
		"broken":                 {io.MultiReader(strings.NewReader("a"), &brokenReader{}), func(r *http.Request) { r.ContentLength = 9 }, false},
		"with a type of its own": {strings.NewReader("a"), func(r *http.Request) { r.Header["Content-Type"] = []string{"text/plain", formType} }, false},
	} {
		r := httptest.NewRequest("POST", "/", tt.body)
		r.Header.Set("Content-Type", formType)
		tt.change(r)
		if got := len(bodyMethods(r)); tt.read != (got == 0) {
			t.Errorf("%s: %d methods", name, got)
		}
	}
}

type brokenReader struct{}

func (*brokenReader) Read([]byte) (int, error) { return 0, net.ErrClosed }

// echoing starts an upstream that answers with the request's method and the framing of its body,
// and returns its address.
func echoing(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
		w.Header().Set("X-Error", fmt.Sprint(err))
		w.Header().Set("X-Tenant", r.Header.Get("X-Tenant-Id"))
		w.Header().Set("X-Sum", r.Trailer.Get("X-Sum"))
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

const overrideSite = `keygate {
		public POST /forms/*
		optional POST /app/*
		scope DELETE /items/* admin
		scope /items* write
		cost PUT /forms/* 3
		%s
	}
	reverse_proxy UPSTREAM`

func (s *site) post(t *testing.T, target, key, contentType string, body io.Reader) *http.Response {
	t.Helper()
	r, err := http.NewRequest("POST", "http://"+s.addr+target, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if key != "" {
		r.Header.Set("X-Api-Key", key)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestPostsThatNameAnotherMethod(t *testing.T) {
	s := newSite(t, echoing(t), fmt.Sprintf(overrideSite, ""))
	admin := s.newKey(t, "write", "admin")
	for _, tt := range []struct {
		target, key, contentType, body string
		want                           int
	}{
		{"/items/7", s.key, formType, "a=1", 200},
		{"/items/7", s.key, formType, "_method=DELETE", 403},
		{"/items/7", admin, formType, "_method=DELETE", 200},
		{"/items/7", s.key, formType, "_method=PUT", 200},
		{"/items/7?_method=DELETE", s.key, "", "", 403},
		{"/items/7?_method=PUT", s.key, "", "", 200},
		{"/items/7", s.key, "application/json", `{"_method":"DELETE"}`, 403},
		{"/items/7", s.key, partType, field("_method", "DELETE") + "--XX--\r\n", 403},
		{"/items/7", s.key, partType, "--XX", 403},
		{"/items/7", s.key, formType, strings.Repeat("a", maxOverrideBody+1), 403},
		{"/items/7", admin, formType, strings.Repeat("a", maxOverrideBody+1), 200},
		{"/items/7", s.key, "text/plain", strings.Repeat("a", maxOverrideBody+1), 200},
		{"/items", s.key, formType, "_method=DELETE", 200}, // The rules for /items do not differ by method, so the method in the body does not matter.
		{"/items/7", "", formType, "_method=DELETE", 401},
		{"/forms/x", "", formType, "a=1", 200},
		{"/forms/x", "", formType, "_method=POST", 200},
		{"/forms/x", "", formType, "_method=PUT", 401},
		{"/forms/x", s.key, formType, "_method=PUT", 200},
		{"/forms/x?_method=PUT", "", "", "", 401},
		{"/app/x", "", formType, "a=1", 200},
		{"/app/x", "", formType, "_method=GET", 401},
		{"/app/x", s.key, formType, "_method=GET", 200},
	} {
		resp := s.post(t, tt.target, tt.key, tt.contentType, strings.NewReader(tt.body))
		got, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != tt.want || tt.want == 200 && string(got) != tt.body {
			t.Errorf("%s %s %.40q, key %v: answered %d, want %d", tt.target, tt.contentType, tt.body, tt.key != "", resp.StatusCode, tt.want)
		}
		if checked := tt.key != "" && !(strings.HasPrefix(tt.target, "/forms") && !strings.Contains(tt.body, "PUT")); tt.want == 200 && checked != (resp.Header.Get("X-Tenant") == "acme") {
			t.Errorf("%s %.40q: the tenant is %q", tt.target, tt.body, resp.Header.Get("X-Tenant"))
		}
	}
}

// A request that a matcher excludes can't make the upstream serve a path or method that the
// matcher includes.
func TestExcludedRequestsNameNoIncludedMethod(t *testing.T) {
	s := newTestSite(t, siteConfig("", `@checked {
		path /api/*
		method PUT DELETE
	}
	keygate @checked
	reverse_proxy UPSTREAM`), func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-HTTP-Method-Override"), r.Header.Get("X-Original-URL"))
	})
	for _, tt := range []struct {
		method, target string
		header         []string
		want           int
	}{
		{"DELETE", "/api/x", nil, 401},
		{"POST", "/api/x", nil, 200},
		{"GET", "/api/x?a=DELETE", nil, 200},
		{"GET", "/api/x?_method=DELETE", nil, 401},
		{"POST", "/api/x?_method=DELETE", nil, 401},
		{"POST", "/other?_method=DELETE", nil, 200},
		{"GET", "/api/x", []string{"X-HTTP-Method-Override", "DELETE"}, 200},
		{"PUT", "/other", []string{"X-Original-URL", "/api/x"}, 200},
	} {
		if a := s.get(tt.method, tt.target, tt.header...); a.status != tt.want || a.status == 200 && a.body != "" {
			t.Errorf("%s %s %q: %d %q, want %d", tt.method, tt.target, tt.header, a.status, a.body, tt.want)
		}
	}
}

func TestExcludedBodiesNameNoIncludedMethod(t *testing.T) {
	s := newSite(t, echoing(t), `	@checked method PUT DELETE
	keygate @checked
	reverse_proxy UPSTREAM`)
	for body, want := range map[string]int{"a=1": 200, "_method=DELETE": 401, "_method=PATCH": 200} {
		resp := s.post(t, "/x", "", formType, strings.NewReader(body))
		if got, _ := io.ReadAll(resp.Body); resp.StatusCode != want || want == 200 && string(got) != body {
			t.Errorf("%s: %d %q, want %d", body, resp.StatusCode, got, want)
		}
	}
}

func TestPostsPassWithMethodOverridePass(t *testing.T) {
	for _, option := range []string{"method_override pass", "keep_overrides"} {
		s := newSite(t, echoing(t), fmt.Sprintf(overrideSite, option))
		if resp := s.post(t, "/items/7?_method=DELETE", s.key, formType, strings.NewReader("_method=DELETE")); resp.StatusCode != 200 {
			t.Errorf("%s: answered %d", option, resp.StatusCode)
		}
		if warned := strings.Contains(s.log(t), "method_override pass"); warned != (option == "keep_overrides") {
			t.Errorf("%s: warned is %v", option, warned)
		}
	}
}

// Reading a body to look for a method does not change its framing: a waiting client gets 100
// Continue, and trailers arrive.
func TestReadBodiesKeepTheirFraming(t *testing.T) {
	s := newSite(t, echoing(t), fmt.Sprintf(overrideSite, ""))
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "POST /items/7 HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nExpect: 100-continue\r\nContent-Type: %s\r\nConnection: close\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n", s.addr, s.key, formType)
	head := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("%q, %v", head, err)
	}
	fmt.Fprint(conn, "3\r\na=1\r\n0\r\nX-Sum: 42\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") || !strings.Contains(string(answer), "X-Sum: 42") || !strings.HasSuffix(string(answer), "a=1") {
		t.Errorf("%s, %v", answer, err)
	}
}

func TestReadBodiesArriveByteForByte(t *testing.T) {
	s := newSite(t, echoing(t), fmt.Sprintf(overrideSite, ""))
	key := s.newKey(t, "write", "admin")
	random := rand.New(rand.NewPCG(1, 2))
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	for _, contentType := range []string{formType, "", "application/json", "multipart/form-data", "text/plain"} {
		for i := range 200 {
			size := random.IntN(200)
			if i%8 == 0 {
				size = random.IntN(maxOverrideBody * 3 / 2)
			}
			body, typ := bytesOf(size), contentType
			switch contentType {
			case formType:
				body = []byte(url.Values{"a": {string(body)}, "_method": {"PUT"}}.Encode())
			case "application/json":
				body = fmt.Appendf(nil, `{"a": %q, "_method":"DELETE"}`, fmt.Sprintf("%x", body))
			case "multipart/form-data":
				var b bytes.Buffer
				w := multipart.NewWriter(&b)
				_ = w.WriteField("_method", "PATCH")
				f, _ := w.CreateFormFile("f", "a.bin")
				_, _ = f.Write(body)
				_ = w.Close()
				body, typ = b.Bytes(), w.FormDataContentType()
			}
			var in io.Reader = bytes.NewReader(body)
			length := fmt.Sprint(len(body))
			if i%2 == 1 && len(body) > 0 {
				in, length = struct{ io.Reader }{in}, "-1" // chunked
			}
			resp := s.post(t, "/items/7", key, typ, in)
			got, err := io.ReadAll(resp.Body)
			if resp.StatusCode != 200 || err != nil || !bytes.Equal(got, body) || resp.Header.Get("X-Length") != length || resp.Header.Get("X-Error") != "<nil>" {
				t.Fatalf("%q, %d bytes: answered %d with %d bytes, length %s, want %s, error %s", typ, len(body), resp.StatusCode, len(got), resp.Header.Get("X-Length"), length, resp.Header.Get("X-Error"))
			}
		}
	}
}
