package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/demoapi"
)

// tagHeader marks each request of a test, so that the upstream can tell the requests apart.
const tagHeader = "E2e-Tag"

// upstream is the API behind a gateway: the demo API. Tests can replace its answers, and it
// records all requests.
type upstream struct {
	addr   string
	server *httptest.Server

	mu    sync.Mutex
	seen  map[string]*seen
	other map[string]http.HandlerFunc
	total int
}

// seen is a request as the upstream saw it.
type seen struct {
	method, uri, host string
	header            http.Header
	trailer           http.Header

	mu   sync.Mutex
	body bytes.Buffer
}

// text returns what the upstream has read of the body.
func (s *seen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.body.String()
}

func (s *seen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.body.Write(b)
}

// newUpstream starts an upstream, which is stopped when the test ends.
func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{seen: map[string]*seen{}, other: map[string]http.HandlerFunc{}}
	api := demoapi.New()
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &seen{method: r.Method, uri: r.RequestURI, host: r.Host, header: r.Header.Clone()}
		u.mu.Lock()
		u.total++
		u.seen[r.Header.Get(tagHeader)] = s
		answer := u.other[r.URL.Path]
		u.mu.Unlock()
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, s), r.Body}
		if answer != nil {
			answer(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		s.trailer = r.Trailer
		api.ServeHTTP(w, r)
	}))
	u.addr = strings.TrimPrefix(u.server.URL, "http://")
	t.Cleanup(func() {
		u.server.CloseClientConnections()
		u.server.Close()
	})
	return u
}

// answer makes h answer the requests for a path.
func (u *upstream) answer(path string, h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.other[path] = h
}

// got returns the request with that tag, or nil if it did not arrive.
func (u *upstream) got(tag string) *seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.seen[tag]
}

// count returns the number of requests that have arrived.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.total
}

var (
	tagMu sync.Mutex
	tags  int
)

// newTag returns a tag that no other request has.
func newTag() string {
	tagMu.Lock()
	defer tagMu.Unlock()
	tags++
	return strconv.Itoa(tags)
}
