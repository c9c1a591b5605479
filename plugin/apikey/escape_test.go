package apikey

import (
	"math/rand/v2"
	"testing"
)

// The short way through an escape reads what the long one does.
func TestReadOneLayer(t *testing.T) {
	const chars = `%%%%2255fFaA0\u00x/`
	rng := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 12)
	for range 20_000 {
		for i := range b {
			b[i] = chars[rng.IntN(len(chars))]
		}
		s := string(b)
		c, next := read(s, 0)
		if c2, next2 := readLayer(s, 0, escapeDepth); c != c2 || next != next2 {
			t.Fatalf("%q: %q up to %d, by layers %q up to %d", s, c, next, c2, next2)
		}
	}
}
