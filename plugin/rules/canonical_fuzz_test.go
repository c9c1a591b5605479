package rules

import (
	"bufio"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/pathlab"
)

// arrive returns the URL that Go's server makes of a request line with that target, nil if it
// rejects the request.
func arrive(target string) *url.URL {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: lab.test\r\n\r\n")))
	if err != nil {
		return nil
	}
	return r.URL
}

// noncanonical matches text that no canonical path contains.
var noncanonical = regexp.MustCompile(`//|/\.{1,2}(/|$)|[.](/|$)|%20(/|$)|[;\\#\x00-\x20\x7f-\xff]|%(2F|5C|3B|3F|23|7F|[01][0-9A-F]|25(2F|5C|2E|3B))`)

// seeds adds every n-th hostile spelling to the corpus, with n = every.
func seeds(f *testing.F, every int) {
	i := 0
	for _, path := range pathlab.Targets {
		for _, target := range pathlab.Hostile(path, false) {
			if i++; i%every == 0 {
				f.Add(target)
			}
		}
	}
	for _, family := range pathlab.Honest() {
		f.Add(family.Paths[0])
	}
}

// FuzzCanonical checks that canonicalizing a canonical form changes nothing, that the upstream
// gets the canonical form in its request line, and that it means the same as the sent path.
func FuzzCanonical(f *testing.F) {
	seeds(f, 7)
	paths, err := NewPaths(PathsConfig{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u := arrive(target)
		if u == nil || u.Path == "*" {
			return
		}
		path := paths.Canonicalize(u, false)
		if path.Rejected() {
			if path.Escaped != "" || path.Decoded != "" {
				t.Fatalf("%q is rejected, but forwarded as %q", target, path.Escaped)
			}
			return
		}
		if again, fault := Canonical(path.Escaped); again != path.Escaped || fault != 0 {
			t.Fatalf("%q is %q, and that is %q (%v)", target, path.Escaped, again, fault)
		}
		if !strings.HasPrefix(path.Escaped, "/") || noncanonical.MatchString(path.Escaped) || pathlab.Equivalent(path.Escaped) != path.Escaped {
			t.Fatalf("%q is %q, which is not canonical", target, path.Escaped)
		}
		if decoded, err := url.PathUnescape(path.Escaped); err != nil || decoded != path.Decoded {
			t.Fatalf("%q is %q, which decodes to %q, not to %q (%v)", target, path.Escaped, decoded, path.Decoded, err)
		}
		// Go writes an unchanged path to the upstream.
		if wire, _, _ := strings.Cut(u.RequestURI(), "?"); !path.Changed && u.Host == "" && wire != path.Escaped {
			t.Fatalf("%q is %q, but stands in the request line as %q", target, path.Escaped, wire)
		}
		v := arrive(path.Escaped)
		if v == nil {
			t.Fatalf("%q is %q, which is not a request target", target, path.Escaped)
		}
		if again := paths.Canonicalize(v, false); again.Escaped != path.Escaped || again.Decoded != path.Decoded || again.Changed {
			t.Fatalf("%q is %q, and that is read as %+v", target, path.Escaped, again)
		}
		if want := resolve(pathlab.Equivalent(sentPath(target))); want != "" && want != path.Escaped {
			t.Fatalf("%q is %q, want %q", target, path.Escaped, want)
		}
	})
}

// sentPath returns the path of a target in origin form, "" for others.
func sentPath(target string) string {
	if !strings.HasPrefix(target, "/") {
		return ""
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

// resolve merges slashes and resolves dot segments with package path.
func resolve(p string) string {
	if p == "" || noncanonicalByte.MatchString(p) {
		return ""
	}
	last := p[strings.LastIndexByte(p, '/')+1:]
	p = path.Clean(p)
	if p != "/" && (last == "" || last == "." || last == "..") {
		p += "/"
	}
	return p
}

// noncanonicalByte matches bytes that a canonical path must encode, which resolve does not do.
var noncanonicalByte = regexp.MustCompile("[^A-Za-z0-9/%._~:@!$&'()*+,=-]")

// FuzzUpstreams checks that no accepted path makes an upstream run a handler that the rules
// protect without a key.
func FuzzUpstreams(f *testing.F) {
	seeds(f, 11)
	set, err := New(Config{Protect: []Pattern{{Path: "/cargo/load"}, {Path: "/cargo/*/tracking"}, {Path: "/v1/admin/*"}, {Path: "/v1/generate"}, {Path: "/api/*"}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	public, err := New(Config{Public: []Pattern{{Path: "/docs/*"}, {Path: "/health"}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	models := pathlab.Models()
	f.Fuzz(func(t *testing.T, target string) {
		u := arrive(target)
		if u == nil || u.Path == "*" {
			return
		}
		path := set.Canonicalize(u, false)
		if path.Rejected() {
			return
		}
		protected := set.Evaluate("GET", &path).Class == Protected
		open := public.Evaluate("GET", &path).Class == Public
		for _, m := range models {
			route, ok := m.Route(path.Escaped, "GET")
			if !ok {
				continue
			}
			switch handler := pathlab.Handler(route); {
			case handler == "":
			case handler == "docs", handler == "health", handler == "app":
				if protected && path.Escaped == "/health" {
					t.Fatalf("%q needs a key", target)
				}
			case !protected:
				t.Fatalf("%q is forwarded as %q without a key, and runs %s on %s", target, path.Escaped, handler, m.Name)
			case open:
				t.Fatalf("%q is forwarded as %q, is public, and runs %s on %s", target, path.Escaped, handler, m.Name)
			}
		}
	})
}
