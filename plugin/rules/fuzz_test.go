package rules

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
)

// interpreters change a path as upstreams do. They are written without the code of steps, the product's own list, so that a
// fault in steps is noticed.
var interpreters = []func(string) string{
	func(p string) string { return p },
	// This function resolves dot segments as net/http.ServeMux does.
	func(p string) string {
		if p == "" {
			return "/"
		}
		if p[0] != '/' {
			p = "/" + p
		}
		c := path.Clean(p)
		if strings.HasSuffix(p, "/") && c != "/" {
			c += "/"
		}
		return c
	},
	unescape,
	func(p string) string { return unescape(unescape(p)) },
	strings.ToLower,
	func(p string) string { return regexp.MustCompile(`;[^/]*`).ReplaceAllString(p, "") },
	func(p string) string { return strings.Split(p, ";")[0] },
	func(p string) string { return strings.ReplaceAll(p, "\\", "/") },
	func(p string) string { return regexp.MustCompile(`/+`).ReplaceAllString(p, "/") },
	func(p string) string { return strings.Split(p, "\x00")[0] },
	// url.URL.ResolveReference keeps empty segments.
	func(p string) string {
		base := &url.URL{Scheme: "http", Host: "h", Path: "/"}
		if strings.HasPrefix(p, "//") {
			return p
		}
		return base.ResolveReference(&url.URL{Path: p}).Path
	},
	func(p string) string {
		if len(p) > 1 {
			return strings.TrimSuffix(p, "/")
		}
		return p
	},
}

func unescape(p string) string {
	if d, err := url.PathUnescape(p); err == nil {
		return d
	}
	return p
}

// unreserved decodes the escapes that RFC 3986 defines as equivalent to their character.
func unreserved(p string) string {
	return regexp.MustCompile(`%[0-9A-Fa-f]{2}`).ReplaceAllStringFunc(p, func(e string) string {
		d := unescape(e)
		if strings.Contains("/\\.%;?#\x00", d) {
			return e
		}
		return d
	})
}

func FuzzEvaluate(f *testing.F) {
	for _, seed := range []string{
		"/public/x", "/public/../admin", "/public/..%2fadmin", "/public/%2e%2e/admin", "/public/..;/admin", "/public/%252e%252e%252fadmin",
		"/public/..\\admin", "//public/x", "/public//..//admin", "/public/a;b/../../admin", "/PUBLIC/x", "/public/%5c..%5c..%5cadmin",
		"/admin%00/../public/x", "/admin;/../public/", "/public/", "/public", "/%70ublic/x", "/public/x%3f/../../admin", "*", "/", "/Admin/x",
		"/x/..;a=%2f/public/x", "/public%2fx", "/public/.%2e/x", "/public/...//x/", "/admin%2f", "/public/%c0%ae%c0%ae/admin",
	} {
		f.Add(seed, uint16(0x0321))
		f.Add(seed, uint16(0x0172))
	}
	public, err := New(Config{Public: []Pattern{{Path: "/public/*"}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	protect, err := New(Config{Protect: []Pattern{{Path: "/admin/*"}, {Path: "/admin"}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string, order uint16) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Opaque != "" {
			return
		}
		// seen is the forwarded path, and the path after each of up to three interpreters in any
		// order.
		p := unreserved(u.EscapedPath())
		seen := []string{p}
		for range 3 {
			p = interpreters[int(order&15)%len(interpreters)](p)
			seen = append(seen, p)
			order >>= 4
		}
		for _, p := range seen {
			if low := strings.ToLower(p); low != "/public" && !strings.HasPrefix(low, "/public/") {
				if c := evaluateURL(public, "GET", u).Class; c == Public {
					t.Fatalf("%q is public, but read as %q", target, p)
				}
			}
			if low := strings.ToLower(p); low == "/admin" || strings.HasPrefix(low, "/admin/") {
				if c := evaluateURL(protect, "GET", u).Class; c != Protected {
					t.Fatalf("%q is %v, but read as %q", target, c, p)
				}
			}
		}
	})
}

// FuzzInterpretations checks that every step maps each interpretation to another one in the list.
func FuzzInterpretations(f *testing.F) {
	for _, seed := range []string{"/a%2f%2e%2e;x/%25252f", "/a\\b//c./", "//", "/%00%c0%af%ef%bc%8f", "/a%a0/ b /%85"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		rs, ok := interpretations(rawPath(u), nil)
		if !ok {
			return
		}
		all := make(map[string]bool)
		for _, r := range rs {
			if all[r] {
				t.Fatalf("%q has the interpretation %q twice", target, r)
			}
			all[r] = true
		}
		for _, r := range rs {
			for i, step := range steps {
				if s := step(r); !all[s] {
					t.Fatalf("step %d makes %q of %q, which is not an interpretation of %q: %q", i, s, r, target, rs)
				}
			}
		}
	})
}
