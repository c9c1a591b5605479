package apikey

import (
	"reflect"
	"strings"
	"testing"
)

func TestEmptyMisplaced(t *testing.T) {
	g, p := testGrammar(t), everywhere(t)
	jwt := "eyJhbGciOiJIUzI1NiJ9." + strings.Repeat("ab_sk_live_x-", 20) + ".sk_live_AAAAAAAAAAAAAAAA"
	for name, tc := range map[string]struct{ in, left []string }{
		"no scheme":       {[]string{"Authorization: " + keyA}, nil},
		"other scheme":    {[]string{"Authorization: Token " + keyA}, nil},
		"together":        {[]string{"Authorization: BEARER" + keyA}, nil},
		"colon":           {[]string{"Authorization: Bearer: " + keyA}, nil},
		"twice the word":  {[]string{"Authorization: Bearer Bearer " + keyA}, nil},
		"quoted":          {[]string{`Authorization: Bearer "` + keyA + `"`}, nil},
		"parameter":       {[]string{`Authorization: Token token="` + keyA + `", nonce="x"`}, nil},
		"scheme in place": {[]string{"X-Api-Key: Bearer " + keyA}, nil},
		"after a comma":   {[]string{"X-Api-Key: own," + keyA}, nil},
		"query":           {[]string{"?a=%20&api_key=Bearer+" + keyA + "&b"}, []string{"?a=%20&b"}},
		"query, escaped":  {[]string{"?api_key=%20%73k_live_" + strings.Repeat("0", 32)}, nil},
		"cookie":          {[]string{"Cookie: a=1; key = " + keyA + "; b=2"}, []string{"Cookie: a=1; b=2"}},
		"own":             {[]string{"Authorization: Bearer " + jwt, "X-Api-Key: own, too", "?api_key=own;x", "Cookie: key=own"}, []string{"Authorization: Bearer " + jwt, "X-Api-Key: own, too", "Cookie: key=own", "?api_key=own;x"}},
		"Basic":           {[]string{"Authorization: Basic c2tfbGl2ZV8wMDA="}, []string{"Authorization: Basic c2tfbGl2ZV8wMDA="}},
		"other places":    {[]string{"X-Other: " + keyA, "?key=" + keyA}, []string{"X-Other: " + keyA, "?key=" + keyA}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRequest(tc.in...)
			p.EmptyMisplaced(r.h, r.u, g)
			if left := r.lines(); !reflect.DeepEqual(left, tc.left) {
				t.Errorf("left %q, want %q", left, tc.left)
			}
		})
	}
	r := newRequest("Authorization: Bearer "+jwt, "X-Api-Key: own", "Cookie: a=b; key=own", "?a=b&api_key=own")
	if n := testing.AllocsPerRun(100, func() { p.EmptyMisplaced(r.h, r.u, g) }); n != 0 {
		t.Errorf("a request without a key costs %v allocations", n)
	}
}

func TestCleanWords(t *testing.T) {
	g := testGrammar(t)
	for in, want := range map[string]string{
		"x=" + keyA: "x=" + keyA[:12] + "…", "%3D" + keyA + "!": "%3D" + keyA[:12] + "…!", "(" + keyA + ")": "(" + keyA[:12] + "…)",
		"eyJhbGci" + keyA: "eyJhbGci" + keyA, "own": "own",
	} {
		if got := g.CleanWords(in); got != want {
			t.Errorf("CleanWords(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestCut checks that cut removes a part together with one separator, and leaves all other parts unchanged.
func TestCut(t *testing.T) {
	for _, in := range []string{"", "x", ";", ";;", "a;x", "x;a", "x;x", "a;x;b", "a;x;x", ";x", ";;x", "x;", "x;;", "a;x;", "a;;x;b", "x;a;x", "a;b"} {
		var want []string
		for _, part := range strings.Split(in, ";") {
			if part != "x" {
				want = append(want, part)
			}
		}
		if got := cut(in, ';', func(part string) bool { return part == "x" }); got != strings.Join(want, ";") {
			t.Errorf("%q: left is %q, want %q", in, got, strings.Join(want, ";"))
		}
	}
}

// misplaced does not allocate, whatever words a value holds.
func TestMisplacedAllocatesNothing(t *testing.T) {
	g := testGrammar(t)
	for _, v := range []string{strings.Repeat("a,", 2000), strings.Repeat(",", 4000), strings.Repeat("bearer", 600), strings.Repeat("sk_liv ", 500)} {
		if n := testing.AllocsPerRun(10, func() { g.misplaced(v, "Bearer") }); n != 0 {
			t.Errorf("%.20s: %v allocations", v, n)
		}
	}
}
