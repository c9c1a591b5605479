package apikey

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// The quick test mayHoldKey hides no key: Clean returns the same with it and without it, for
// random prefixes and texts.
func TestPrefilterHidesNoKey(t *testing.T) {
	const chars = "ab_-.~A0"
	rng := rand.New(rand.NewPCG(1, 2))
	text := func(n int, alphabet string) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return string(b)
	}
	for range 300 {
		var accept []Accept
		for i := range 1 + rng.IntN(4) {
			accept = append(accept, Accept{Name: string(rune('a' + i)), Prefix: text(2+rng.IntN(3), chars), MinLength: 8, MaxLength: 64, Charset: AnyChar})
		}
		g := newGrammar(t, []Prefix{{"sk_live_", "live"}}, Format{}, accept)
		for range 50 {
			s := text(rng.IntN(8), chars+"/ ,") + accept[rng.IntN(len(accept))].Prefix + text(rng.IntN(16), chars+" ")
			if rng.IntN(4) == 0 {
				s = percentEncode(s, true, func(int) bool { return rng.IntN(3) == 0 })
			}
			if got, want := g.Clean(s), scanned(g, s, false); got != want {
				t.Fatalf("prefixes %v: Clean(%q) = %q, without the quick test %q", g.prefixes, s, got, want)
			}
			if got, want := g.CleanWords(s), scanned(g, s, true); got != want {
				t.Fatalf("prefixes %v: CleanWords(%q) = %q, without the quick test %q", g.prefixes, s, got, want)
			}
		}
	}
}

// scanned returns s cleaned without the quick test mayHoldKey.
func scanned(g *Grammar, s string, words bool) string {
	out, _ := g.cleaner.scan(s, words)
	return out
}

// mayHoldKey finds every prefix by its anchor in a text without escapes.
func TestAnchors(t *testing.T) {
	prefixes := []string{"kg_live_", "kg_test_", "ab", "SG.", "--", "a/b"}
	c := Cleaner{anchors: newAnchors(prefixes)}
	for _, p := range prefixes {
		for _, s := range []string{p, p + "x", "x" + p, strings.Repeat(p[:1], 5) + p, p[1:] + p} {
			if !c.mayHoldKey(s) {
				t.Errorf("%q: %q is not found", p, s)
			}
		}
		if c.mayHoldKey(p[:len(p)-1]) {
			t.Errorf("%q counts as prefix %q", p[:len(p)-1], p)
		}
	}
}
