package apikey

import (
	"math"
	"slices"
	"strings"
)

const (
	// minFound is how many characters must follow a prefix for Clean to see a key,
	// truncated or not.
	minFound = 8
	// maxWord is how many lower-case letters are no word any more, but a key.
	maxWord = 24
	// ellipsis replaces the hidden part of a key.
	ellipsis = "…"
)

// Clean returns s with every key of this grammar replaced by its shown prefix and "…": everything
// with a prefix and the shape of a key (checksum right or not), also percent-encoded (up to three
// times) or with JSON's \u00xx. It returns s itself, without allocating, where there is no key.
//
// It rather replaces too much than too little. A key longer than its shape is replaced as a whole.
// A truncated key is replaced from eight characters after the prefix on, with two exceptions: no
// more characters are left than may be shown; or it reads as a word (a letter or digit before the
// prefix, lower-case letters after it: with the prefix ck_, "check_availability"). Keys of an
// accepted shape without a prefix look like other text and stay, as do keys in base64.
//
// Its time is linear in len(s).
func (g *Grammar) Clean(s string) string { return g.cleaner.Clean(s) }

// CleanWords is Clean for text that goes on to be used: it leaves alone what looks like a
// key in the middle of a word, as the letters of a JWT do by chance where the prefix is short.
func (g *Grammar) CleanWords(s string) string { return g.cleaner.clean(s, true) }

// Cleaner takes the keys of several grammars out of texts, in one pass for all of them.
// Immutable, safe for concurrent use.
type Cleaner struct {
	grammars []*Grammar
	targets  []target
	// nodes are the prefixes' characters as a tree, of which the first node is the root. starts has the root's
	// child for each character that begins a prefix, and escape for those that may spell one.
	nodes  []node
	starts [256]int32
	// high marks the first hexadecimal digits of the characters that begin a prefix, and
	// what else may follow a percent sign that spells one.
	high [256]bool
	// anchors find the prefixes, and shortest is the length of the shortest text of which
	// anything is taken.
	anchors  []anchor
	shortest int
}

// escape marks in Cleaner.starts the bytes at which an escape may begin.
const escape = -1

// node is a character of one or more prefixes, and where each next one leads.
type node struct {
	chars []byte
	next  []int32
	// targets are those whose prefix ends here.
	targets []int32
}

// NewCleaner returns a Cleaner of the grammars' keys. A nil one is left out.
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

// With returns a Cleaner of c's grammars and further ones; c itself where it has them all.
func (c *Cleaner) With(d *Cleaner) *Cleaner {
	for _, g := range d.grammars {
		if !slices.Contains(c.grammars, g) {
			return NewCleaner(slices.Concat(c.grammars, d.grammars)...)
		}
	}
	return c
}

// insert adds t to the tree.
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
				c.high[t.prefix[i]>>4+'0'] = true // no prefix has other than ASCII
			}
		}
		at = next
	}
	c.nodes[at].targets = append(c.nodes[at].targets, int32(len(c.targets)))
	c.targets = append(c.targets, t)
}

// manyPercents are more than begin an escape: through three layers, a digit follows three at most.
const manyPercents = "%%%%"

// opens reports whether an escape that begins at i may spell a character that begins a prefix. It
// sorts out nearly all that spell another, at little cost.
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
	// The first layer that has both digits decides, unless it spells another percent sign.
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

// child returns the node that char leads to.
func (n *node) child(char byte) (next int32, ok bool) {
	for i, c := range n.chars {
		if c == char {
			return n.next[i], true
		}
	}
	return 0, false
}

// Clean returns s without the grammars' keys, each as Grammar.Clean would write it; s itself,
// unallocated, where there is none.
func (c *Cleaner) Clean(s string) string { return c.clean(s, false) }

func (c *Cleaner) clean(s string, words bool) string {
	if !c.mayHoldKey(s) {
		return s
	}
	out, _ := c.scan(s, words)
	return out
}

// scan is clean without a look beforehand. It also returns how many characters it read, those
// that it read again counted again.
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
		// Another key may begin within this one and go on beyond it: then that is taken
		// too, and the less of what either may show is shown.
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

// target combines all shapes of one prefix: the widest characters, the shortest length, the least
// that may be shown.
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
	// Hex and base58 run on over all of base62: a mistyped key's end is as secret.
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

// read is the package's read, except for characters that belong to a key only as they are written,
// not as they decode (a % in a key of any characters).
func (t *target) read(s string, i int) (c byte, next int) {
	c, next = read(s, i)
	if t.class == classAny && classes[c]&classAny == 0 {
		return s[i], i + 1
	}
	return c, next
}

// found is a part of a text that must not be shown.
type found struct {
	target *target
	// shown is where that of it ends which may be shown, end where all of it does.
	shown, end int
}

// beyond reports whether f takes more than g, or may: with wider characters its run need not be
// read again.
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

// prefixes calls visit with each target whose prefix is spelt at i, and where that ends.
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

// find returns what of a key begins at i.
func (r *reader) find(i int) (f found, ok bool) {
	r.prefixes(i, func(t *target, end int) {
		next, is := r.findBody(i, end, t)
		if !is {
			return
		}
		// Of two prefixes that both fit, the one that takes more; it can't show
		// more than the other would.
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

// findBody checks the text after a prefix at [start, body).
func (r *reader) findBody(start, body int, t *target) (found, bool) {
	s, f := r.s, found{target: t}
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
	r.steps += n
	if n < minFound || n <= may || n < min(t.min, maxWord) && lower && inWord(s, start) {
		return f, false
	}
	f.end = p
	shown := t.shown
	if t.several && len(t.prefix)+n <= t.grammar.longest {
		// The key may have a shape that shows more than the least of its prefix.
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

// inWord reports whether a letter or digit precedes i that is not the end of an escape.
func inWord(s string, i int) bool {
	return i > 0 && classes[s[i-1]]&classBase62 != 0 &&
		(i < 2 || s[i-2] != '\\') &&
		(i < 3 || s[i-3] != '%') &&
		(i < 6 || s[i-6:i-2] != `\u00`)
}
