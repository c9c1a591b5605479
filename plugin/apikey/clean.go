package apikey

import (
	"math"
	"slices"
	"strings"
)

const (
	// minFound is the least number of characters after a prefix for which Clean replaces a text as
	// a key, complete or truncated.
	minFound = 8
	// maxWord is the length from which on Clean takes a run of lower-case letters for a key
	// instead of a word.
	maxWord = 24
	// ellipsis replaces the hidden part of a key.
	ellipsis = "…"
)

// Clean returns s with every key of this grammar replaced by its shown prefix and "…". A key is
// recognised by its prefix and its shape, even if its checksum is wrong, also in percent-encoding
// (up to three layers) or with JSON's \u00xx. Clean returns s itself, without allocating, where s
// holds no key.
//
// In doubt it replaces too much rather than too little. A key longer than its shape is replaced as
// a whole. A truncated key is replaced if at least eight characters follow its prefix, with two
// exceptions: it has no more characters than may be shown; or it reads as a word (a letter or
// digit before the prefix, lower-case letters after it: with the prefix ck_,
// "check_availability"). Keys of an accepted shape without a prefix look like other text and stay,
// as do keys in base64.
//
// Its time is linear in len(s).
func (g *Grammar) Clean(s string) string { return g.cleaner.Clean(s) }

// CleanWords is Clean for a text that is used afterwards, such as a header for the upstream. It does not replace a text in
// the middle of a word that looks like a key, because the letters of a JWT may contain a short prefix by chance.
func (g *Grammar) CleanWords(s string) string { return g.cleaner.clean(s, true) }

// Cleaner replaces the keys of several grammars in texts, in one pass. Immutable, safe for
// concurrent use.
type Cleaner struct {
	grammars []*Grammar
	targets  []target
	// nodes is a tree of the prefixes' characters, whose first node is the root. starts holds the
	// root's child for each byte that begins a prefix, escape for each that begins an escape, and
	// 0 for all others.
	nodes  []node
	starts [256]int32
	// high marks the bytes that may follow a percent sign which encodes the first character of a
	// prefix: the character's first hexadecimal digit, or a nested escape.
	high [256]bool
	// anchors find the prefixes in a text quickly. shortest is the length of the shortest text
	// that can hold a key.
	anchors  []anchor
	shortest int
}

// escape marks in Cleaner.starts the bytes at which an escape may begin.
const escape = -1

// node is a node of the prefixes' tree: next[i] is the index of its child for the character
// chars[i].
type node struct {
	chars []byte
	next  []int32
	// targets are the indexes of the targets whose prefix ends at this node.
	targets []int32
}

// NewCleaner returns a Cleaner for the keys of all grammars. A nil grammar is skipped.
func NewCleaner(grammars ...*Grammar) *Cleaner {
	c := &Cleaner{nodes: make([]node, 1), shortest: math.MaxInt}
	var prefixes []string
	for _, g := range grammars {
		if g == nil || slices.Contains(c.grammars, g) {
			continue
		}
		c.grammars = append(c.grammars, g)
		for _, prefix := range g.prefixes {
			c.shortest = min(c.shortest, len(prefix)+minFound)
			c.insert(newTarget(g, prefix))
			if !slices.Contains(prefixes, prefix) {
				prefixes = append(prefixes, prefix)
			}
		}
	}
	c.anchors = newAnchors(prefixes)
	if len(prefixes) > 0 {
		c.starts['%'], c.starts['\\'] = escape, escape
		c.high['%'], c.high['\\'], c.high['%'>>4+'0'] = true, true, true
	}
	return c
}

// With returns a Cleaner for the grammars of c and d. It returns c itself where c has all of them.
func (c *Cleaner) With(d *Cleaner) *Cleaner {
	for _, g := range d.grammars {
		if !slices.Contains(c.grammars, g) {
			return NewCleaner(slices.Concat(c.grammars, d.grammars)...)
		}
	}
	return c
}

// insert adds t's prefix to the tree.
func (c *Cleaner) insert(t target) {
	at := int32(0)
	for i := range len(t.prefix) {
		next, ok := c.nodes[at].child(t.prefix[i])
		if !ok {
			next = int32(len(c.nodes))
			c.nodes = append(c.nodes, node{})
			n := &c.nodes[at]
			n.chars, n.next = append(n.chars, t.prefix[i]), append(n.next, next)
			if at == 0 {
				c.starts[t.prefix[i]] = next
				c.high[t.prefix[i]>>4+'0'] = true // Prefixes are ASCII, so the first hexadecimal digit of each character is at most 7.
			}
		}
		at = next
	}
	c.nodes[at].targets = append(c.nodes[at].targets, int32(len(c.targets)))
	c.targets = append(c.targets, t)
}

// manyPercents is a run of percent signs whose first one can't begin an escape: with three layers,
// at most three percent signs precede a digit.
const manyPercents = "%%%%"

// opens reports whether the escape that begins at i may decode to the first character of a prefix.
// This cheap test rules out nearly all other escapes.
func (c *Cleaner) opens(s string, i int) bool {
	next := i + 1
	if s[i] == '\\' {
		first, end := readJSON(s, i)
		if first != '%' {
			return c.starts[first] > 0
		}
		next = end
	} else if len(s)-i < 3 {
		return false
	}
	// The character is found in the first layer of escapes in which both digits can be read. If the character is a percent
	// sign, the loop reads the digits after it.
	for {
		if next >= len(s) || !c.high[s[next]] {
			return false
		}
		switch {
		case s[next] == '%':
			return mayDigit(s, next, escapeDepth-1)
		case s[next] == '\\':
			return spells(s, next)
		case next+1 >= len(s):
			return false
		}
		low := digits[s[next+1]]
		if low == noDigit {
			return spells(s, next+1) || s[next+1] == '%' && mayDigit(s, next+1, escapeDepth-1)
		}
		if first := digits[s[next]]<<4 | low; first != '%' {
			return c.starts[first] > 0
		}
		next += 2
	}
}

// child returns the index of n's child for the character char.
func (n *node) child(char byte) (next int32, ok bool) {
	for i, c := range n.chars {
		if c == char {
			return n.next[i], true
		}
	}
	return 0, false
}

// Clean returns s with the keys of all grammars replaced as Grammar.Clean replaces them. Where s
// holds none, it returns s itself and does not allocate.
func (c *Cleaner) Clean(s string) string { return c.clean(s, false) }

func (c *Cleaner) clean(s string, words bool) string {
	if !c.mayHoldKey(s) {
		return s
	}
	out, _ := c.scan(s, words)
	return out
}

// scan does the work of clean without the quick test mayHoldKey. It also returns how many characters it read, where a
// character that was read twice counts twice.
func (c *Cleaner) scan(s string, words bool) (string, int) {
	var out strings.Builder
	r := reader{c: c, s: s}
	done := 0
	for i := 0; i < len(s); {
		switch at := c.starts[s[i]]; {
		case at == 0:
			i++
			continue
		case at == escape && (strings.HasPrefix(s[i:], manyPercents) || !c.opens(s, i)):
			i++
			continue
		}
		if words && inWord(s, i) {
			i++
			continue
		}
		f, ok := r.find(i)
		if !ok {
			i++
			continue
		}
		// Another key may begin within this key and end after it. Then both keys are replaced, and the shown part is the smaller
		// one of the two shown parts.
		shown, end := f.shown, f.end
		for j, last := i+1, f; j < end; j++ {
			if c.starts[s[j]] == 0 {
				continue
			}
			if inner, ok := r.findWithin(j, last); ok {
				shown = min(shown, inner.shown)
				if inner.beyond(last) {
					end, last = inner.end, inner
				}
			}
		}
		out.WriteString(s[done:i])
		for i < shown {
			var char byte
			char, i = f.target.read(s, i)
			out.WriteByte(char)
		}
		out.WriteString(ellipsis)
		done, i = end, end
	}
	r.steps += len(s)
	if done == 0 {
		return s, r.steps
	}
	out.WriteString(s[done:])
	return out.String(), r.steps
}

// target combines all shapes of one prefix: the widest charset, the shortest length, and the least
// number of characters that may be shown.
type target struct {
	grammar *Grammar
	prefix  string
	class   class
	min     int
	shown   int
	// several reports whether the prefix has more than one shape.
	several bool
}

func newTarget(g *Grammar, prefix string) target {
	// After every prefix, all base62 characters count as characters of the key, even if the key's own characters are only hex or
	// base58. So the end of a mistyped key is hidden too.
	t := target{grammar: g, prefix: prefix, class: classBase62, min: maxAccepted, shown: shownPrefix}
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
	return t
}

// read is like the function read, but does not decode an escape whose character no key may hold:
// in a key of AnyChar, a % may be a character of the key.
func (t *target) read(s string, i int) (c byte, next int) {
	c, next = read(s, i)
	if t.class == classAny && classes[c]&classAny == 0 {
		return s[i], i + 1
	}
	return c, next
}

// found is a key that was found in a text, complete or truncated.
type found struct {
	target *target
	// shown is the index after the key's part that may be shown, end the index after the whole
	// key.
	shown, end int
}

// beyond reports whether f covers more text than g. Where both end together, the key with the
// wider charset counts as longer, since findWithin can reuse its end.
func (f found) beyond(g found) bool {
	return f.end > g.end || f.end == g.end && f.target.class == classAny && g.target.class != classAny
}

// reader looks for keys in a text.
type reader struct {
	c *Cleaner
	s string
	// steps is how many characters were read.
	steps int
}

// prefixes calls visit for each target whose prefix begins at i, plain or escaped. end is the
// index after the prefix.
func (r *reader) prefixes(i int, visit func(t *target, end int)) {
	for at := int32(0); i < len(r.s); {
		char, next := read(r.s, i)
		r.steps++
		var ok bool
		if at, ok = r.c.nodes[at].child(char); !ok {
			return
		}
		i = next
		for _, k := range r.c.nodes[at].targets {
			visit(&r.c.targets[k], i)
		}
	}
}

// find returns the key that begins at i. ok is false if no key begins there.
func (r *reader) find(i int) (f found, ok bool) {
	r.prefixes(i, func(t *target, end int) {
		next, is := r.findBody(i, end, t)
		if !is {
			return
		}
		// If two prefixes match at the same place, the longer text is taken for the key. The shown part is the smaller one of those
		// that the two prefixes allow.
		if ok {
			next.shown = min(next.shown, f.shown)
		}
		if !ok || next.beyond(f) {
			f = next
		}
		f.shown, ok = next.shown, true
	})
	return f, ok
}

// findBody returns the key whose prefix is r.s[start:body], and false where the text after the
// prefix can't be a key's.
func (r *reader) findBody(start, body int, t *target) (found, bool) {
	s, f := r.s, found{target: t}
	// may is how many characters after the prefix may be shown. It is negative if a part of the prefix must be hidden too.
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
	r.steps += n
	if n < minFound || n <= may || n < min(t.min, maxWord) && lower && inWord(s, start) {
		return f, false
	}
	f.end = p
	shown := t.shown
	if t.several && len(t.prefix)+n <= t.grammar.longest {
		// Several shapes have this prefix. The shape of this key may allow more characters to be shown than the strictest of those
		// shapes.
		key := make([]byte, 0, maxKeyLength)
		for p := start; p < f.end; {
			var c byte
			c, p = t.read(s, p)
			key = append(key, c)
		}
		r.steps += len(key)
		if prefix, _ := t.grammar.Shown(string(key)); prefix != "" {
			shown = len(prefix)
		}
	}
	f.shown = t.skip(s, start, shown)
	return f, true
}

// skip returns the index after the n characters that begin at i.
func (t *target) skip(s string, i, n int) int {
	for ; n > 0 && i < len(s); n-- {
		_, i = t.read(s, i)
	}
	return i
}

// findWithin finds a key that begins at i, inside the key outer. If the prefix of the inner key ends within outer, and its
// charset is part of outer's charset, the inner key ends where outer ends and is not read again. So a text that consists of
// prefixes only takes linear time, not quadratic time.
func (r *reader) findWithin(i int, outer found) (f found, ok bool) {
	f.shown = len(r.s)
	r.prefixes(i, func(t *target, body int) {
		next := found{target: t, shown: t.skip(r.s, i, t.shown), end: outer.end}
		if body >= outer.end || t.class != outer.target.class && t.class != classBase62 {
			var is bool
			if next, is = r.findBody(i, body, t); !is {
				return
			}
		}
		shown := min(f.shown, next.shown)
		if !ok || next.beyond(f) {
			f = next
		}
		f.shown, ok = shown, true
	})
	return f, ok
}

// inWord reports whether a letter or digit precedes i. The last character of an escape, such as
// the D of %3D, does not count.
func inWord(s string, i int) bool {
	return i > 0 && classes[s[i-1]]&classBase62 != 0 &&
		(i < 2 || s[i-2] != '\\') &&
		(i < 3 || s[i-3] != '%') &&
		(i < 6 || s[i-6:i-2] != `\u00`)
}
