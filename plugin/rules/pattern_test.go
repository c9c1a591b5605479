package rules

import (
	"path"
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want, folded  bool
	}{
		{"*", "/anything", true, true},
		{"*", "*", true, true},
		{"/a", "/a", true, true},
		{"/a", "/A", false, true},
		{"/A", "/a", false, true},
		{"/A", "/A", true, true},
		{"/a", "/a/", false, false},
		{"/a", "/ab", false, false},
		{"/v1/deploy*", "/v1/deploy", true, true},
		{"/v1/deploy*", "/v1/deployments/1/2", true, true},
		{"/v1/deploy*", "/v1/DEPLOY/x", false, true},
		{"/v1/deploy*", "/v1/deplo", false, false},
		{"*.png", "/a/b.png", true, true},
		{"*.png", "/a/b.PNG", false, true},
		{"*.png", ".pn", false, false},
		{"*/admin/*", "/x/admin/y", true, true},
		{"*/admin/*", "/x/Admin/y", false, true},
		{"*/admin/*", "/x/admin", false, false},
		{"**", "/x", true, true},
		{"/cargo/*/tracking", "/cargo/7/tracking", true, true},
		{"/cargo/*/tracking", "/cargo/7/8/tracking", false, false},
		{"/cargo/*/tracking", "/cargo//tracking", true, true},
		{"/cargo/*/TRACKING", "/Cargo/x/tracking", false, true},
		{"/cargo/*/tracking", "/cargo/7/tracking/", false, false},
		{"/*/b*", "/a/bcd", true, true},
		{"/*/b*", "/a/bcd/e", false, false},
		{"/*a*b/c", "/xaabab/c", true, true},
		{"/*a*b/c", "/xaabac/c", false, false},
		{"/**/c", "/a/c", true, true},
		{"/v[12]/*/x", "/v2/a/x", true, true},
		{"/v[12]/*/x", "/v3/a/x", false, false},
		{"/v[^1-3]/*/x", "/v4/a/x", true, true},
		{"/v[^1-3]/*/x", "/v//a/x", false, false},
		{"/[a-c]/*/x", "/B/q/x", false, true},
		{"/[]]/*/x", "/]/q/x", false, false},
		{`/\*/*/x`, "/*/q/x", true, true},
		{`/\*/*/x`, "/a/q/x", false, false},
		{"/a%2fb", "/a%2fb", true, true},
		{"/a%2Fb", "/a%2fb", true, true},
		{"/a%2fb", "/a/b", false, false},
		{"/a%20b", "/a b", true, true},
		{"/a b,c", "/a b,c", true, true},
		{"/v1/jobs:run", "/v1/jobs:run", true, true},
		{"/a%2ab", "/a*b", true, true},
		{"/a%2ab", "/axb", false, false},
		{"/a%41b", "/aAb", true, true},
		{"/a%41b", "/aab", false, true},
		{"/x/%*/y", "/x/a%2fb/y", true, true},
		{"/x/%*/y", "/x/a/b/y", false, false},
		{"/straße", "/straße", true, true},
	} {
		if tt.pattern == "/[]]/*/x" {
			if _, err := newPattern(tt.pattern, false); err == nil {
				t.Errorf("%s: accepted", tt.pattern)
			}
			continue
		}
		for _, folded := range []bool{false, true} {
			p, err := newPattern(tt.pattern, folded)
			if err != nil {
				t.Errorf("%s: %v", tt.pattern, err)
				continue
			}
			want := tt.want
			if folded {
				want = tt.folded
			}
			if got := p.match(tt.path, folded); got != want {
				t.Errorf("%s matches %s, folded %v: %v, want %v", tt.pattern, tt.path, folded, got, want)
			}
		}
	}
}

func TestSlashAdded(t *testing.T) {
	for pattern, want := range map[string][]string{
		"/a/":         {"/a"},
		"/a/*":        {"/a"},
		"*/a/":        {"/x/a"},
		"*/a/*":       {"/x/a"},
		"/a/*/b/":     {"/a/1/b"},
		"/a/*/b/*":    {"/a/1/b"},
		"/a/*/*":      {"/a/1"},
		"/a/[xy]/%*":  {"/a/x", "/a/y"},
		"/a":          nil,
		"/a*":         nil,
		"*":           nil,
		"*.png":       nil,
		"*/":          nil,
		"/":           nil,
		"/*":          nil,
		"/a/*/b":      nil,
		"/a/[xy]/*/b": nil,
	} {
		p, err := newPattern(pattern, true)
		if err != nil {
			t.Fatal(err)
		}
		more, ok := p.slashAdded()
		if ok != (want != nil) {
			t.Errorf("%s: %v", pattern, ok)
		}
		for _, path := range want {
			if !more.match(path, true) || !p.match(path+"/", true) {
				t.Errorf("%s with a slash added does not match %s", pattern, path)
			}
		}
		for _, path := range []string{"/b", "/a/1/2/3", "/", "/a/1/b/c", "/ax"} {
			if ok && more.match(path, true) {
				t.Errorf("%s with a slash added matches %s", pattern, path)
			}
		}
	}
}

// FuzzGlob compares globs without escapes with path.Match, which Caddy uses.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{
		{"/a*b*c/d", "/aXbYc/d"}, {"/*/*/x", "/a/b/x"}, {"/*a*a*/b", "/aaa/b"}, {"/a/**/b*", "/a/x/bb"}, {"/x*y/", "/x/y/"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.ContainsAny(pattern, `%[\`) || strings.ContainsRune(name, '�') {
			return
		}
		p, err := newPattern(pattern, false)
		if err != nil || p.kind != glob && p.kind != exact {
			return
		}
		want, err := path.Match(pattern, name)
		if err != nil {
			return
		}
		if got := p.match(name, false); got != want {
			t.Fatalf("%q matches %q: %v, path.Match returns %v", pattern, name, got, want)
		}
	})
}
