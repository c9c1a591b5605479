package rules

import (
	"net/url"
	"strings"
	"testing"
)

const (
	adminBit = 1 << iota
	deployBit
	freeBit
)

func bits(name string) (uint64, bool) {
	b, ok := map[string]uint64{"admin": adminBit, "deployment": deployBit, "free": freeBit}[name]
	return b, ok
}

func mustNew(t testing.TB, c Config) *Set {
	t.Helper()
	s, err := New(c, bits)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// parse parses a request target as net/http does.
func parse(t testing.TB, target string) *url.URL {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// evaluateURL returns the verdict on a path that is forwarded as sent.
func evaluateURL(s *Set, method string, u *url.URL) Verdict {
	p := s.Canonicalize(u, true)
	return s.Evaluate(method, &p)
}

func paths(ps ...string) (out []Pattern) {
	for _, p := range ps {
		out = append(out, Pattern{Path: p})
	}
	return out
}

func TestEvaluatePublic(t *testing.T) {
	s := mustNew(t, Config{
		Public:   append(paths("/health", "/docs", "/docs/*", "/open/*", "*.png"), Pattern{[]string{"GET"}, "/status"}),
		Optional: paths("/app", "/app/*", "/open/maybe"),
	})
	for _, tt := range []struct {
		target string
		want   Class
	}{
		{"/health", Public},
		{"/health?x=/../admin", Public},
		{"/%68ealth", Public},
		{"/docs/", Public},
		{"/docs/a/b", Public},
		{"/docs/A%20b", Public},
		{"/docs//b", Public},
		{"/docs/a/../b", Public},
		{"/docs/a%2fb", Public},
		{"/docs/a;v=1", Public},
		{"/docs/.well-known", Public},
		{"/a/x.png", Public},
		{"/app", Optional},
		{"/app/x", Optional},
		{"/app/", Optional},
		{"/open/maybe", Optional},
		{"/open/Maybe", Public},
		{"http://host/health", Public},

		{"/", Default},
		{"*", Default},
		{"/admin", Default},
		{"/Health", Default},
		{"/health/", Default},
		{"/health//", Default},
		{"//health", Default},
		{"/./health", Default},
		{"/x/../health", Default},
		{"/health/.", Default},
		{"/health/..", Default},
		{"/health;x", Default},
		{"/health%00", Default},
		{"/health%20", Default},
		{"/health%09", Default},
		{"/health%3f", Default},
		{"/health.", Default},
		{"/health%2e", Default},
		{"/health%a0", Default},
		{"/health%85", Default},
		{"/open/", Public},
		{"/docs/..", Default},
		{"/docs/../", Default},
		{"/docs/../admin", Default},
		{"/docs/..%2fadmin", Default},
		{"/docs/%2e%2e/admin", Default},
		{"/docs/%2e%2e%2fadmin", Default},
		{"/docs/.%2e/admin", Default},
		{"/docs/%252e%252e%252fadmin", Default},
		{"/docs/%25252e%25252e%25252fadmin", Default},
		{"/docs/..%5cadmin", Default},
		{"/docs/..\\admin", Default},
		{"/docs/..;/admin", Default},
		{"/docs/..;a=b/admin", Default},
		{"/docs/..%3b/admin", Default},
		{"/docs/..%253b/admin", Default},
		{"/docs/..%20/admin", Default},
		{"/docs/..%00/admin", Default},
		{"/docs/.%09./admin", Default},
		{"/docs/..%c0%afadmin", Default},
		{"/docs/%c0%ae%c0%ae/admin", Default},
		{"/docs/%e0%80%ae%e0%80%ae%e0%80%afadmin", Default},
		{"/docs/%f0%80%80%ae%f0%80%80%ae/admin", Default},
		{"/docs/%ef%bc%8e%ef%bc%8e%ef%bc%8fadmin", Default},
		{"/docs/%e2%80%a5/admin", Default},
		{"/docs/x/../../admin", Default},
		{"/docs/a%2f..%2f..%2fadmin", Default},
		{"/admin/..%2fdocs/x", Default},
		{"/admin/../docs/x", Default},
		{"/admin%2f..%2fdocs%2fx", Default},
		{"/docs%2fx", Default},
		{"/docs%5cx", Default},
		{"/Docs/x", Default},
		{"/admin%3f/../docs/x", Default},
		{"/admin?/../docs/x", Default},
		{"/admin;x.png", Default},
		{"/admin;/x.png", Default},
		{"/admin%00.png", Default},
		{"/admin%23.png", Default},
		{"/admin%3f.png", Default},
		{"/admin%253f.png", Default},
		{"/x.png/", Default},
		{"/docs/" + strings.Repeat("a//", 2000), Default},
	} {
		if got := evaluateURL(s, "GET", parse(t, tt.target)).Class; got != tt.want {
			t.Errorf("%s is %v, want %v", tt.target, got, tt.want)
		}
	}
	for method, want := range map[string]Class{
		"GET": Public, "HEAD": Public, "POST": Default, "get": Default, "OPTIONS": Default, "CONNECT": Default, "": Default,
	} {
		if got := evaluateURL(s, method, parse(t, "/status")).Class; got != want {
			t.Errorf("%s /status is %v, want %v", method, got, want)
		}
	}
}

func TestEvaluateProtect(t *testing.T) {
	s := mustNew(t, Config{
		Protect:  append(paths("/cargo/load", "/cargo/*/tracking", "/admin/*"), Pattern{[]string{"GET", "POST"}, "/ws"}),
		Optional: paths("/app/*", "/cargo/load/x"),
		Public:   paths("/admin/health"),
	})
	for _, tt := range []struct {
		target string
		want   Class
	}{
		{"/", Public},
		{"/cargo", Public},
		{"/cargo/loads", Public},
		{"/cargo/7", Public},
		{"/cargo/7/tracking/more", Public},
		{"/administrator", Public},
		{"*", Public},

		{"/app/x", Optional},
		{"/APP/x", Public},
		{"/other/../app/x", Optional},

		{"/cargo/load", Protected},
		{"/CARGO/Load", Protected},
		{"/cargo/load/", Protected},
		{"//cargo/load", Protected},
		{"/cargo//load", Protected},
		{"/cargo/./load", Protected},
		{"/x/../cargo/load", Protected},
		{"/../cargo/load", Protected},
		{"/cargo%2fload", Protected},
		{"/cargo%252fload", Protected},
		{"/cargo%5cload", Protected},
		{"/cargo\\load", Protected},
		{"/cargo/lo%61d", Protected},
		{"/cargo/lo%2561d", Protected},
		{"/cargo/load;x=1", Protected},
		{"/cargo;x=1/load", Protected},
		{"/cargo/load%3bx", Protected},
		{"/cargo/load%00", Protected},
		{"/cargo/load%00.png", Protected},
		{"/cargo/load%20", Protected},
		{"/cargo/load.", Protected},
		{"/cargo./load", Protected},
		{"/cargo/load%a0", Protected},
		{"/cargo/load%3fx", Protected},
		{"/cargo/load%23x", Protected},
		{"/cargo/load/%2e", Protected},
		{"/cargo/load/x/..", Protected},
		{"/cargo%c0%afload", Protected},
		{"/cargo%ef%bc%8fload", Protected},
		{"/%ef%bd%83argo/load", Protected},
		{"/cargo/7/tracking", Protected},
		{"/cargo/a%2fb/tracking", Protected},
		{"/x/%2e%2e/cargo/a%2fb/tracking", Protected},
		{"/cargo/7/Tracking/", Protected},
		{"/cargo//tracking", Protected},
		{"/admin", Protected},
		{"/admin/", Protected},
		{"/Admin", Protected},
		{"/admin/health", Protected},
		{"/app/../admin/x", Protected},
		{"/ws", Protected},
		{"http://h/cargo/load", Protected},
		{"mailto:x", Protected},
	} {
		if got := evaluateURL(s, "GET", parse(t, tt.target)).Class; got != tt.want {
			t.Errorf("%s is %v, want %v", tt.target, got, tt.want)
		}
	}
	for method, want := range map[string]Class{
		"GET": Protected, "HEAD": Protected, "POST": Protected, "post": Protected, "head": Protected,
		// To the upstream, an extended CONNECT is a GET.
		"CONNECT": Protected, "PUT": Public,
	} {
		if got := evaluateURL(s, method, parse(t, "/ws")).Class; got != want {
			t.Errorf("%s /ws is %v, want %v", method, got, want)
		}
	}
	// The Kelvin sign and the long s fold to ASCII letters.
	for _, target := range []string{"/%e2%84%aaey", "/%c5%bfecret"} {
		s := mustNew(t, Config{Protect: paths("/key", "/secret")})
		if got := evaluateURL(s, "GET", parse(t, target)).Class; got != Protected {
			t.Errorf("%s is %v", target, got)
		}
	}
}

func TestEvaluateRewritten(t *testing.T) {
	s := mustNew(t, Config{Public: paths("/pub/*"), Optional: paths("/")})
	for _, tt := range []struct {
		u    url.URL
		want Class
	}{
		{url.URL{Path: ""}, Default},                               // An empty path is interpreted as "" and as "/".
		{url.URL{Path: "pub/x"}, Default},                          // A rewrite can make a path relative.
		{url.URL{Path: "/pub/x", RawPath: "/pub/x"}, Public},       // A RawPath equal to Path changes nothing.
		{url.URL{Path: "/pub/x", RawPath: "/admin"}, Public},       // Go does not send a RawPath that does not fit Path.
		{url.URL{Path: "/pub/a/b", RawPath: "/pub/a%2fb"}, Public}, // Go sends a RawPath that fits Path.
		{url.URL{Opaque: "/pub/x"}, Default},
		{url.URL{Scheme: "http", Opaque: "x", Path: "/pub/x"}, Default},
	} {
		if got := evaluateURL(s, "GET", &tt.u).Class; got != tt.want {
			t.Errorf("%#v is %v, want %v", tt.u, got, tt.want)
		}
	}
}

// A path that a rewrite left empty is evaluated as the root, even with Report.
func TestEvaluateEmptyPath(t *testing.T) {
	s := mustNew(t, Config{Scopes: []ScopeRule{scope("", "/*", "admin")}, Costs: []CostRule{{Pattern: Pattern{Path: "/"}, Cost: 7}}, Paths: PathsConfig{Report: true}})
	p := s.Canonicalize(&url.URL{}, false)
	if v := s.Evaluate("GET", &p); v.Need != adminBit || v.Cost != 7 {
		t.Errorf("needs %b and costs %d", v.Need, v.Cost)
	}
}

func scope(method, path, name string) ScopeRule {
	r := ScopeRule{Pattern{Path: path}, name}
	if method != "" {
		r.Methods = strings.Split(method, ",")
	}
	return r
}

func TestEvaluateScopes(t *testing.T) {
	lines := []ScopeRule{
		scope("POST", "/api/workflows/*/run", "free"),
		scope("GET", "/api/workflows*", "deployment"),
		scope("", "/api/*", "admin"),
	}
	s := mustNew(t, Config{Scopes: lines})
	deny := mustNew(t, Config{Scopes: lines, ScopeDeny: true})
	for _, tt := range []struct {
		method, target string
		need           uint64
		deny           bool
	}{
		{"POST", "/api/workflows/7/run", freeBit, false},
		{"GET", "/api/workflows", deployBit, false},
		{"HEAD", "/api/workflows/7", deployBit, false},
		{"DELETE", "/api/workflows/7", adminBit, false},
		{"GET", "/other", 0, true},
		{"GET", "/api", adminBit, true},

		{"POST", "/api/workflows/7/run/", freeBit | adminBit, false},
		{"POST", "/API/workflows/7/run", freeBit, true},
		{"POST", "/api/Workflows/7/run", freeBit | adminBit, false},
		{"post", "/api/workflows/7/run", freeBit | adminBit, false},
		{"POST", "/api/workflows/a%2fb/run", freeBit | adminBit, false},
		{"POST", "/api/workflows/x/../../keys/run", adminBit, false},
		{"POST", "/api/workflows/7/run;x", freeBit | adminBit, false},
		{"GET", "/api/workflows/../keys", deployBit | adminBit, false},
		{"GET", "/api/workflows/..%2fkeys", deployBit | adminBit, false},
		{"GET", "//api/keys", adminBit, true},
		{"GET", "/x/../api/keys", adminBit, true},
		{"GET", "/api/", adminBit, false},
		{"CONNECT", "/api/workflows/7", adminBit | deployBit, false},
		{"GET", "x:/api", adminBit, true},
	} {
		u, err := url.ParseRequestURI(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		if tt.target == "x:/api" {
			u = &url.URL{Scheme: "x", Opaque: "api"}
			tt.need = freeBit | deployBit | adminBit
		}
		if v := evaluateURL(s, tt.method, u); v.Need != tt.need || v.Deny {
			t.Errorf("%s %s needs %b, want %b", tt.method, tt.target, v.Need, tt.need)
		}
		if v := evaluateURL(deny, tt.method, u); v.Need != tt.need || v.Deny != tt.deny {
			t.Errorf("%s %s needs %b, denied %v, want %b, %v", tt.method, tt.target, v.Need, v.Deny, tt.need, tt.deny)
		}
	}
	// A line with capital letters also matches for an upstream that ignores case.
	s = mustNew(t, Config{Scopes: []ScopeRule{scope("", "/Admin*", "admin"), scope("", "/*", "free")}})
	if v := evaluateURL(s, "GET", parse(t, "/admin")); v.Need != adminBit|freeBit {
		t.Errorf("needs %b", v.Need)
	}
	if v := evaluateURL(s, "GET", parse(t, "/Admin")); v.Need != adminBit {
		t.Errorf("needs %b", v.Need)
	}
	if v := evaluateURL(mustNew(t, Config{ScopeDeny: true}), "GET", parse(t, "/")); !v.Deny {
		t.Error("a path without a scope line is not denied")
	}
}

func TestEvaluateCosts(t *testing.T) {
	s := mustNew(t, Config{Costs: []CostRule{
		{Pattern: Pattern{Path: "/health"}},
		{Pattern: Pattern{[]string{"POST"}, "/v1/generate*"}, Cost: 5, Refund: true},
		{Pattern: Pattern{Path: "/v1/gen"}, Cost: 2, Actual: "X-Credits-Used"},
		{Pattern: Pattern{Path: "/v1/*"}, Cost: 3},
	}})
	for _, tt := range []struct {
		method, target string
		cost           int64
		rule           string
	}{
		{"GET", "/health", 0, "/health"},
		{"GET", "/other", 1, ""},
		{"POST", "/v1/generate", 5, "POST /v1/generate*"},
		{"POST", "/v1/GENERATE", 5, "POST /v1/generate*"},
		{"POST", "/x/../v1/generate", 5, "POST /v1/generate*"},
		{"GET", "/v1/generate", 3, "/v1/*"},
		{"GET", "/v1/gen", 2, "/v1/gen"},

		{"GET", "/health/", 1, "/health"},
		{"GET", "/Health", 1, "/health"},
		// The trailing slash matches a line with a higher cost, but the line with the actual cost applies.
		{"GET", "/v1/gen/", 3, "/v1/gen"},
		{"POST", "/v1/generate/../gen", 5, "/v1/gen"},
	} {
		v := evaluateURL(s, tt.method, parse(t, tt.target))
		rule := ""
		if v.Rule != nil {
			rule = v.Rule.Pattern.String()
		}
		if v.Cost != tt.cost || rule != tt.rule {
			t.Errorf("%s %s costs %d by %q, want %d by %q", tt.method, tt.target, v.Cost, rule, tt.cost, tt.rule)
		}
	}
	if v := evaluateURL(s, "GET", &url.URL{Opaque: "x"}); v.Cost != 5 {
		t.Errorf("an opaque URL costs %d", v.Cost)
	}
	costs := s.Costs()
	if len(costs) != 4 || costs[1].Cost != 5 || costs[1].Methods[0] != "POST" {
		t.Errorf("%v", costs)
	}
	costs[1].Methods[0] = "GET"
	if v := evaluateURL(s, "POST", parse(t, "/v1/generate")); v.Cost != 5 || s.Costs()[1].Methods[0] != "POST" {
		t.Error("a copy of the cost lines changed the set")
	}
}

func TestNewErrors(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Public: paths("")}, "empty"},
		{Config{Public: paths("health")}, "public health: path \"health\" must begin with"},
		{Config{Public: paths("/a?b=1")}, "query"},
		{Config{Public: paths("/a#b")}, "query"},
		{Config{Public: paths("/{user}")}, "placeholders"},
		{Config{Public: paths("/a/../b")}, "segments"},
		{Config{Public: paths("/a/.")}, "segments"},
		{Config{Protect: paths("/a /b")}, "looks like several paths"},
		{Config{Protect: paths("/a,/b")}, "looks like several paths"},
		{Config{Protect: paths("/users/:id")}, "write * for a segment"},
		{Config{Public: paths("/a\n")}, "control"},
		{Config{Public: paths("/a\xff")}, "UTF-8"},
		{Config{Public: paths("/a%2")}, "hexadecimal"},
		{Config{Public: paths("/a%zz")}, "hexadecimal"},
		{Config{Public: paths("/[a/*/x")}, "class"},
		{Config{Public: paths("/[b-a]/*/x")}, "class"},
		{Config{Public: paths("/[ä]/*/x")}, "class"},
		{Config{Public: paths(`/*/x\`)}, "escapes nothing"},
		{Config{Public: []Pattern{{[]string{"get"}, "/"}}}, "public get /: \"get\" is not a method"},
		{Config{Public: []Pattern{{[]string{""}, "/"}}}, "not a method"},
		{Config{Public: []Pattern{{[]string{"GET", "GET"}, "/"}}}, "stands twice"},
		{Config{Optional: paths("/a", "/a")}, "optional /a: the same line stands twice"},
		{Config{Public: paths("/a"), Protect: paths("/a")}, `protect /a: contradicts the line "public /a"`},
		{Config{Protect: []Pattern{{[]string{"GET", "POST"}, "/a"}, {[]string{"POST", "GET"}, "/a"}}}, "contradicts"},
		{Config{Scopes: []ScopeRule{scope("POST", "/a", "root")}}, `scope POST /a root: there is no scope "root"`},
		{Config{Scopes: []ScopeRule{scope("", "/a", "free"), scope("", "/a", "free")}}, "scope /a free: the same line stands twice"},
		{Config{Scopes: []ScopeRule{scope("", "/a", "free"), scope("", "/a", "admin")}}, `scope /a admin: contradicts the line "scope /a free"`},
		{Config{Scopes: []ScopeRule{scope("", "a", "free")}}, "must begin with"},
		{Config{Costs: []CostRule{{Pattern: Pattern{Path: "/a"}, Cost: -1}}}, "cost /a -1: a cost is from 0 to 1000000000"},
		{Config{Costs: []CostRule{{Pattern: Pattern{Path: "/a"}, Cost: MaxCost + 1}}}, "from 0 to"},
		{Config{Costs: []CostRule{{Pattern: Pattern{Path: "/a"}}, {Pattern: Pattern{Path: "/a"}}}}, "stands twice"},
	} {
		if _, err := New(tt.c, bits); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
	if _, err := New(Config{Scopes: []ScopeRule{scope("", "/a", "free")}}, nil); err == nil {
		t.Error("a scope line without known scopes is accepted")
	}
}

// twenty returns the rules of a directive with 20 lines, for allocations and benchmarks.
func twenty(t testing.TB) *Set {
	c := Config{
		Public:   paths("/health", "/docs", "/docs/*", "*.css", "*.png"),
		Optional: paths("/app", "/app/*"),
	}
	for _, p := range []string{"/v1/deploy*", "/v1/users/*/keys", "/v1/admin/*", "/v1/workflows/*/run", "/v1/projects*", "*/export", "*"} {
		c.Scopes = append(c.Scopes, scope("POST,PUT", p, "admin"))
	}
	for i, p := range []string{"/v1/generate*", "/v1/train/*", "/v1/workflows/*/run", "/v1/search", "*/export", "/v1/*"} {
		c.Costs = append(c.Costs, CostRule{Pattern: Pattern{Path: p}, Cost: int64(i)})
	}
	return mustNew(t, c)
}

func TestEvaluateAllocs(t *testing.T) {
	s := twenty(t)
	protect := mustNew(t, Config{Protect: paths("/v1/*", "/admin/*/x")})
	for _, target := range []string{"/v1/workflows/7/run", "/v1/Users/aBc/keys/", "/", "/docs/a.b-c_d~e"} {
		u := parse(t, target)
		for _, s := range []*Set{s, protect} {
			if n := testing.AllocsPerRun(100, func() {
				p := s.Canonicalize(u, false)
				s.Evaluate("POST", &p)
			}); n != 0 {
				t.Errorf("%s allocates %v times", target, n)
			}
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	s := twenty(b)
	for _, bm := range []struct{ name, target string }{
		{"plain", "/v1/workflows/7/run"},
		{"capitals", "/v1/workflows/aBcDeF/run"},
		{"encoded", "/v1/workflows/a%20b/run"},
		{"slash", "/v1/workflows/a%2fb/run"},
		{"hostile", "/docs/..;/%2e%2e%5c%252f/x%00/%c0%ae./run."},
		{"hostile4k", "/docs/..;/%2e%2e%5c%252f/x%00/%c0%ae./run." + strings.Repeat("/a;b%2f..%5c", 330)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			u := parse(b, bm.target)
			b.ReportAllocs()
			for b.Loop() {
				p := s.Canonicalize(u, false)
				if !p.Rejected() {
					s.Evaluate("POST", &p)
				}
			}
		})
	}
}
