package apikey

import (
	"math"
	"strings"
)

const (
	// minFound is how many characters must follow a prefix for Clean to see a key,
	// truncated or not.
	minFound = 8
	// maxWord is how many lower-case letters are no word any more, but a key.
	maxWord = 24
	// ellipsis stands for what Clean took.
	ellipsis = "…"
)

// Clean returns s with everything in it that has a prefix and the shape of this
// grammar's keys (checksum right or not) written as its shown prefix and "…", also
// where it stands percent-encoded (up to three times over) or with JSON's \u00xx. It
// returns s itself, unallocated, when there is nothing to clean.
//
// It rather takes too much than too little: a key longer than its shape is taken
// whole, and a truncated one from eight characters after the prefix on, unless no more
// of it stands there than may be shown, or it reads as a word (a letter or digit before
// the prefix, lower-case letters after it: with the prefix ck_, "check_availability").
// Keys of an accepted shape without a prefix can't be told from other text and stay, as
// do keys in base64.
//
// Its time is linear in len(s).
func (g *Grammar) Clean(s string) string { return g.clean(s, false) }

// CleanWords is Clean for text that goes on to be used: it leaves alone what looks like a
// key in the middle of a word, as the letters of a JWT do by chance where the prefix is short.
func (g *Grammar) CleanWords(s string) string { return g.clean(s, true) }

func (g *Grammar) clean(s string, words bool) string {
	if !g.cleaner.suspect(s) {
		return s
	}
	return g.cleanSuspect(s, words)
}

func (g *Grammar) cleanSuspect(s string, words bool) string {
	var out strings.Builder
	done := 0
	for i := 0; i < len(s); {
		if !g.cleaner.starts[s[i]] {
			i++
			continue
		}
		f, ok := g.find(s, i)
		if !ok || words && inWord(s, i) {
			i++
			continue
		}
		// Another key may begin within this one and go on beyond it: then that is taken
		// too, and the less of what either may show is shown.
		shown, end := f.shown, f.end
		for j, last := i+1, f; j < end; j++ {
			if inner, ok := g.findWithin(s, j, last); ok {
				shown = min(shown, inner.shown)
				if inner.beyond(last) {
					end, last = inner.end, inner
				}
			}
		}
		out.WriteString(s[done:i])
		for i < shown {
			var c byte
			c, i = f.target.read(s, i)
			out.WriteByte(c)
		}
		out.WriteString(ellipsis)
		done, i = end, end
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

// cleaner is what of a grammar can be recognised in a text: a target per prefix.
type cleaner struct {
	targets []target
	// first marks the characters that begin a prefix, starts the bytes at which such a
	// character, or its escape, may begin.
	first, starts [256]bool
	// anchors find the prefixes, and shortest is the length of the shortest text of which
	// anything is taken.
	anchors  []anchor
	shortest int
}

// target stands for all shapes of one prefix: the widest characters, the shortest
// length, the least that may be shown.
type target struct {
	prefix string
	class  class
	min    int
	shown  int
	// several says that the prefix has more than one shape.
	several bool
}

func newCleaner(g *Grammar) cleaner {
	c := cleaner{anchors: newAnchors(g.prefixes), shortest: math.MaxInt}
	for _, prefix := range g.prefixes {
		c.shortest = min(c.shortest, len(prefix)+minFound)
		// Hex and base58 run on over all of base62: a mistyped key's end is as secret.
		t := target{prefix: prefix, class: classBase62, min: maxAccepted, shown: shownPrefix}
		shapes := 0
		for i := range g.shapes {
			s := &g.shapes[i]
			if s.Prefix != prefix {
				continue
			}
			if s.class == classAny {
				t.class = classAny
			}
			t.min = min(t.min, s.MinLength)
			t.shown = min(t.shown, s.ShownPrefix)
			shapes++
		}
		t.several = shapes > 1
		c.targets = append(c.targets, t)
		c.first[prefix[0]], c.starts[prefix[0]] = true, true
		c.starts['%'], c.starts['\\'] = true, true
	}
	return c
}

// read is the package's read, but for characters that only their own spelling, not
// what it would stand for, lets belong to a key (a % in a key of any characters).
func (t *target) read(s string, i int) (c byte, next int) {
	c, next = read(s, i)
	if t.class == classAny && classes[c]&classAny == 0 {
		return s[i], i + 1
	}
	return c, next
}

// begins returns the character at i if a prefix may begin with it.
func (c *cleaner) begins(s string, i int) (first byte, ok bool) {
	if !c.starts[s[i]] {
		return 0, false
	}
	first, _ = read(s, i)
	return first, c.first[first]
}

// skipPrefix returns where the target's prefix, which begins at i, ends.
func (t *target) skipPrefix(s string, i int) (end int, ok bool) {
	for k := range len(t.prefix) {
		if i >= len(s) {
			return 0, false
		}
		var c byte
		if c, i = read(s, i); c != t.prefix[k] {
			return 0, false
		}
	}
	return i, true
}

// found is one place in a text where something stands that must not be shown.
type found struct {
	target *target
	// shown is where that of it ends which may be shown, end where all of it does.
	shown, end int
}

// beyond says whether f takes more than g, or may: what reads on over more characters
// need not be read again within.
func (f found) beyond(g found) bool {
	return f.end > g.end || f.end == g.end && f.target.class == classAny && g.target.class != classAny
}

// find returns what of a key begins at i.
func (g *Grammar) find(s string, i int) (f found, ok bool) {
	first, ok := g.cleaner.begins(s, i)
	if !ok {
		return f, false
	}
	ok = false
	for k := range g.cleaner.targets {
		t := &g.cleaner.targets[k]
		if t.prefix[0] != first {
			continue
		}
		if p, is := t.skipPrefix(s, i); is {
			if next, is := g.findBody(s, i, p, t); is {
				// Of two prefixes that both fit, the one that takes more; it can't show
				// more than the other would.
				if ok {
					next.shown = min(next.shown, f.shown)
				}
				if !ok || next.beyond(f) {
					f = next
				}
				f.shown, ok = next.shown, true
			}
		}
	}
	return f, ok
}

// findBody judges what follows a prefix that stands at [start, body).
func (g *Grammar) findBody(s string, start, body int, t *target) (found, bool) {
	f := found{target: t}
	// may is how many characters after the prefix may be shown; below zero where not
	// even all of the prefix is.
	may := t.shown - len(t.prefix)
	n, p, lower := 0, body, true
	for p < len(s) {
		c, next := t.read(s, p)
		if classes[c]&t.class == 0 {
			break
		}
		lower = lower && 'a' <= c && c <= 'z'
		p = next
		n++
	}
	if n < minFound || n <= may || n < min(t.min, maxWord) && lower && inWord(s, start) {
		return f, false
	}
	f.end = p
	shown := t.shown
	if t.several && len(t.prefix)+n <= g.longest {
		// The key may have a shape that shows more than the least of its prefix.
		var key strings.Builder
		for p := start; p < f.end; {
			var c byte
			c, p = t.read(s, p)
			key.WriteByte(c)
		}
		if prefix, _ := g.Shown(key.String()); prefix != "" {
			shown = len(prefix)
		}
	}
	f.shown = t.skip(s, start, shown)
	return f, true
}

// skip returns where the n characters end that begin at i.
func (t *target) skip(s string, i, n int) int {
	for ; n > 0 && i < len(s); n-- {
		_, i = t.read(s, i)
	}
	return i
}

// findWithin is find for an i within outer. Where the prefix ends inside outer and its
// characters are among outer's, the run need not be read again, as it ends where outer
// does: so a text of nothing but prefixes costs no square of its length.
func (g *Grammar) findWithin(s string, i int, outer found) (f found, ok bool) {
	first, ok := g.cleaner.begins(s, i)
	if !ok {
		return f, false
	}
	ok = false
	f.shown = len(s)
	for k := range g.cleaner.targets {
		t := &g.cleaner.targets[k]
		if t.prefix[0] != first {
			continue
		}
		body, is := t.skipPrefix(s, i)
		if !is {
			continue
		}
		next := found{target: t, shown: t.skip(s, i, t.shown), end: outer.end}
		if body >= outer.end || t.class != outer.target.class && t.class != classBase62 {
			if next, is = g.findBody(s, i, body, t); !is {
				continue
			}
		}
		shown := min(f.shown, next.shown)
		if !ok || next.beyond(f) {
			f = next
		}
		f.shown, ok = shown, true
	}
	return f, ok
}

// inWord says whether what begins at i goes on from a letter or digit that is not the
// end of an escape.
func inWord(s string, i int) bool {
	return i > 0 && classes[s[i-1]]&classBase62 != 0 &&
		(i < 2 || s[i-2] != '\\') &&
		(i < 3 || s[i-3] != '%') &&
		(i < 6 || s[i-6:i-2] != `\u00`)
}
