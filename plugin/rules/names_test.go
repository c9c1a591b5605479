package rules

import (
	"net/url"
	"slices"
	"testing"
)

// appendNames returns all other names of a path that protect, scope and cost lines apply to.
func TestNames(t *testing.T) {
	for path, want := range map[string][]string{
		"/cargo/load":            {"/cargo/load"},
		"/cargo/load/":           {"/cargo/load"},
		"/cargo/load.json":       {"/cargo/load.json", "/cargo/load"},
		"/cargo/load.a.b":        {"/cargo/load.a.b", "/cargo/load.a", "/cargo/load"},
		"/index.php/cargo/load":  {"/index.php/cargo/load", "/cargo/load"},
		"/index.php":             {"/index.php", "/index", ""},
		"/INDEX.PHP5/a":          {"/INDEX.PHP5/a", "/a"},
		"/x.php/y.php/a":         {"/x.php/y.php/a", "/y.php/a", "/a", "/x.php/a"},
		"/index.phpcargo/load":   {"/index.phpcargo/load", "/cargo/load"},
		"/index.php.json/a":      {"/index.php.json/a", "/.json/a"},
		"/index.phpa":            {"/index.phpa", "/index", "/a"},
		"/cargo/index.php/load":  {"/cargo/index.php/load", "/load", "/cargo/load"},
		"/cargo/index.phpload":   {"/cargo/index.phpload", "/cargo/index", "/load", "/cargo/load"},
		"/a/b/x.php/load.json":   {"/a/b/x.php/load.json", "/a/b/x.php/load", "/load.json", "/load", "/a/b/load.json", "/a/b/load"},
		"/.php/a":                {"/.php/a", "/a"},
		"/a.plan/b":              {"/a.plan/b"},
		"/cgi-bin/x.cgi/a":       {"/cgi-bin/x.cgi/a", "/a", "/cgi-bin/a"},
		"/well-known/x.y/status": {"/well-known/x.y/status"},
	} {
		if got := appendNames(nil, path); !slices.Equal(got, want) {
			t.Errorf("%s has the names %q, want %q", path, got, want)
		}
	}
}

// No spelling of a path with a front controller such as index.php evades a protect line.
func TestFrontController(t *testing.T) {
	set, err := New(Config{Protect: []Pattern{{Path: "/cargo/load"}, {Path: "/api/*"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/index.php/cargo/load", "/index.phpcargo/load", "/index.phpapi/x/", "/cargo/index.php/load", "/cargo/index.phpload.json", "/API/index.php/x", "/index.php/x.php/cargo/load"} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		path := set.Canonicalize(u, false)
		if v := set.Evaluate("GET", &path); path.Rejected() || v.Class != Protected {
			t.Errorf("%s is %v", target, v.Class)
		}
	}
}

// A path that is forwarded as sent is also interpreted with its look-alikes replaced by ASCII
// characters.
func TestLookalikesBehindAnException(t *testing.T) {
	set, err := New(Config{Protect: []Pattern{{Path: "/cargo/load"}}, Paths: PathsConfig{AsSent: []string{"/*"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/cargo%e2%81%84load", "/cargo%e2%88%95load", "/cargo%E2%A7%B8load", "/cargo%e2%88%96load", "/cargo/x/%ef%b9%92%ef%b9%92/load", "/cargo/load%e2%81%84"} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		path := set.Canonicalize(u, false)
		if v := set.Evaluate("GET", &path); path.Rejected() || v.Class != Protected {
			t.Errorf("%s is %v, rejected: %v", target, v.Class, path.Rejected())
		}
	}
}

// Escapes of characters that Go writes as escapes are decoded like all others.
func TestEscapesThatGoWrites(t *testing.T) {
	set, err := New(Config{Public: []Pattern{{Path: "/x"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"/a%21": "/a!", "/%27%28%29%2a": "/'()*", "/a!": "/a!", "/%5bx%5D": "/%5Bx%5D", "/[x]": "/[x]"} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatal(err)
		}
		if path := set.Canonicalize(u, false); path.Escaped != want || path.Changed != (want != u.EscapedPath()) {
			t.Errorf("%s is read as %q, changed: %v, want %q", target, path.Escaped, path.Changed, want)
		}
	}
}

// The cost of /v1/jobs/* also applies to /v1/jobs, unless /v1/jobs has its own line.
func TestCostOfTheParentPath(t *testing.T) {
	under := CostRule{Pattern: Pattern{Methods: []string{"POST"}, Path: "/v1/jobs/*"}, Cost: 5}
	itself := CostRule{Pattern: Pattern{Methods: []string{"POST"}, Path: "/v1/jobs"}, Cost: 1}
	for _, tt := range []struct {
		costs  []CostRule
		target string
		want   int64
	}{
		{[]CostRule{under}, "/v1/jobs", 5},
		{[]CostRule{under, itself}, "/v1/jobs", 1},
		{[]CostRule{itself, under}, "/v1/jobs", 1},
		{[]CostRule{itself, under}, "/v1/jobs/", 5},
		{[]CostRule{itself, under}, "/v1/jobs/7", 5},
	} {
		set, err := New(Config{Costs: tt.costs}, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := set.Canonicalize(&url.URL{Path: tt.target}, false)
		if v := set.Evaluate("POST", &path); v.Cost != tt.want {
			t.Errorf("%d lines: %s costs %d, want %d", len(tt.costs), tt.target, v.Cost, tt.want)
		}
	}
}
