package apikey

import (
	"math/rand/v2"
	"testing"
)

// readByLayers is a slow and simple version of read: it decodes each layer of escapes from the
// layer below.
func readByLayers(s string, i, depth int) (byte, int) {
	switch c := s[i]; {
	case c != '%' && c != '\\':
		return c, i + 1
	case depth == 0:
		return readJSON(s, i)
	}
	c, next := readByLayers(s, i, depth-1)
	if c != '%' || next >= len(s) {
		return c, next
	}
	high, i := readByLayers(s, next, depth-1)
	if i >= len(s) {
		return c, next
	}
	low, i := readByLayers(s, i, depth-1)
	h, ok := unhex(high)
	l, ok2 := unhex(low)
	if !ok || !ok2 {
		return c, next
	}
	return h<<4 | l, i
}

// read returns the same as readByLayers.
func TestReadEqualsReadByLayers(t *testing.T) {
	for _, chars := range []string{`%%%%2255fFaA0\u00x/`, `%25`, `%%%%253`, `%\u0025`} {
		rng := rand.New(rand.NewPCG(3, 4))
		b := make([]byte, 30)
		for range 50_000 {
			for i := range b {
				b[i] = chars[rng.IntN(len(chars))]
			}
			s := string(b[:1+rng.IntN(len(b))])
			c, next := read(s, 0)
			if c2, next2 := readByLayers(s, 0, escapeDepth); c != c2 || next != next2 {
				t.Fatalf("%q: %q up to %d, by layers %q up to %d", s, c, next, c2, next2)
			}
		}
	}
}
