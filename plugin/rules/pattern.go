package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// pattern is a compiled path pattern. Its kinds are those of Caddy's path matcher
// (modules/caddyhttp/matchers.go, MatchPath). A single "*" at one end, or one at each end, also
// matches slashes; any other "*" matches within a segment.
type pattern struct {
	kind   kind
	lit    string
	tokens []token
	// slashed is the glob with an added slash, as slashAdded returns it. It is nil for other patterns, and if slashAdded
	// returns none.
	slashed *pattern
}

type kind uint8

const (
	everything kind = iota // everything is the pattern "*".
	exact                  // exact is a pattern like "/a".
	prefix                 // prefix is a pattern like "/a*".
	suffix                 // suffix is a pattern like "*.a".
	middle                 // middle is a pattern like "*/a/*".
	glob                   // glob is a pattern like "/a/*/b".
)

// token is a part of a glob: literal text, a "*", or a class of bytes.
type token struct {
	kind  tokenKind
	lit   string
	class [4]uint64
}

type tokenKind uint8

const (
	literal tokenKind = iota
	star
	class
)

// newPattern compiles text. With folded, the pattern is for case-folded paths.
func newPattern(text string, folded bool) (pattern, error) {
	if err := checkPath(text); err != nil {
		return pattern{}, err
	}
	given := text
	if folded {
		text = fold(text)
	}
	stars := strings.Count(text, "*")
	first, last := strings.HasPrefix(text, "*"), strings.HasSuffix(text, "*")
	switch {
	case text == "*":
		return pattern{kind: everything}, nil
	case strings.Contains(text, "%"):
		// Caddy compares patterns with escapes always as globs, with the escaped path.
	case stars == 2 && first && last:
		return pattern{kind: middle, lit: text[1 : len(text)-1]}, nil
	case stars == 1 && first:
		return pattern{kind: suffix, lit: text[1:]}, nil
	case stars == 1 && last:
		return pattern{kind: prefix, lit: text[:len(text)-1]}, nil
	}
	tokens, err := tokenize(text, folded)
	if err != nil {
		return pattern{}, fmt.Errorf("path %q: %w", given, err)
	}
	if len(tokens) == 1 && tokens[0].kind == literal {
		return pattern{kind: exact, lit: tokens[0].lit}, nil
	}
	p := pattern{kind: glob, tokens: tokens}
	if slashed, ok := p.slashAdded(); ok {
		p.slashed = &slashed
	}
	return p, nil
}

// checkPath returns an error for a pattern that could never match as its author expects.
func checkPath(text string) error {
	switch {
	case text == "":
		return errors.New("the path is empty")
	case !isPath(text):
		return fmt.Errorf("path %q must begin with / or *", text)
	case strings.ContainsAny(text, "?#"):
		return fmt.Errorf("path %q must not contain ? or #: rules see the path only, not the query", text)
	case strings.Contains(text, "{"):
		return fmt.Errorf("path %q must not contain { : placeholders are not replaced, only {$VARIABLES} of the Caddyfile are", text)
	case !utf8.ValidString(text):
		return fmt.Errorf("path %q is not valid UTF-8", text)
	}
	if strings.Contains(text, "//") {
		return fmt.Errorf("path %q: %w", text, errEmptySegment)
	}
	if strings.Contains(text, " /") || strings.Contains(text, ",/") {
		return fmt.Errorf("path %q looks like several paths: write each as an argument of its own, with blanks between and without quotes", text)
	}
	if strings.Contains(text, "/:") {
		return fmt.Errorf("path %q: named segments are not supported: write * for a segment, such as /users/*/items", text)
	}
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("path %q must not contain control characters", text)
		}
	}
	for segment := range strings.SplitSeq(text, "/") {
		if segment == "." || segment == ".." {
			return fmt.Errorf("path %q must not contain . or .. segments: write the path they lead to", text)
		}
	}
	return nil
}

// tokenize splits a glob into tokens. It treats escapes as interpretations does: escapes of kept
// bytes stay, in lower case; others become their byte, which is never a metacharacter.
func tokenize(text string, folded bool) ([]token, error) {
	var (
		out []token
		lit strings.Builder
	)
	flush := func() {
		if lit.Len() > 0 {
			out = append(out, token{kind: literal, lit: lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '*':
			flush()
			if len(out) == 0 || out[len(out)-1].kind != star {
				out = append(out, token{kind: star})
			}
		case '%':
			if i+1 < len(text) && text[i+1] == '*' {
				// In Caddy, "%*" matches escaped text. Here it is "*", since interpretations keep
				// %2f as an escape.
				continue
			}
			b, ok := unhex(text[i:])
			if !ok {
				return nil, errors.New("a % must be followed by two hexadecimal digits or *")
			}
			if kept(b) && b != '.' {
				lit.WriteString(strings.ToLower(text[i : i+3]))
			} else if folded {
				lit.WriteByte(lower(b))
			} else {
				lit.WriteByte(b)
			}
			i += 2
		case '\\':
			i++
			if i == len(text) {
				return nil, errors.New(`a \ at the end escapes nothing`)
			}
			lit.WriteByte(text[i])
		case '[':
			flush()
			t, n, err := parseClass(text[i:], folded)
			if err != nil {
				return nil, err
			}
			out = append(out, t)
			i += n - 1
		default:
			lit.WriteByte(c)
		}
	}
	flush()
	return out, nil
}

// parseClass parses "[a-z]" or "[^a-z]" at the start of text and returns its length. A class never
// matches a slash.
func parseClass(text string, folded bool) (token, int, error) {
	bad := errors.New("a [class] must be closed and hold ASCII characters or ranges such as a-z")
	t := token{kind: class}
	i := 1
	negated := i < len(text) && text[i] == '^'
	if negated {
		i++
	}
	next := func() (byte, bool) {
		if i < len(text) && text[i] == '\\' {
			i++
		}
		if i >= len(text) || text[i] >= utf8.RuneSelf {
			return 0, false
		}
		i++
		return text[i-1], true
	}
	for start := i; ; {
		if i >= len(text) {
			return t, 0, bad
		}
		if text[i] == ']' && i > start {
			i++
			break
		}
		lo, ok := next()
		if !ok || lo == ']' || lo == '-' {
			return t, 0, bad
		}
		hi := lo
		if i < len(text) && text[i] == '-' {
			i++
			if hi, ok = next(); !ok || hi < lo || hi == ']' {
				return t, 0, bad
			}
		}
		for b := int(lo); b <= int(hi); b++ {
			t.add(byte(b))
			if folded {
				t.add(lower(byte(b)))
			}
		}
	}
	if negated {
		for w := range t.class {
			t.class[w] = ^t.class[w]
		}
	}
	t.class['/'>>6] &^= 1 << ('/' & 63)
	return t, i, nil
}

func (t *token) add(b byte)      { t.class[b>>6] |= 1 << (b & 63) }
func (t *token) has(b byte) bool { return t.class[b>>6]&(1<<(b&63)) != 0 }

// match reports whether the pattern matches the whole path. With folded, ASCII letters of path are
// compared in lower case; the pattern must have been compiled with folded, too.
func (p *pattern) match(path string, folded bool) bool {
	switch p.kind {
	case everything:
		return true
	case exact:
		return len(path) == len(p.lit) && hasPrefix(path, p.lit, folded)
	case prefix:
		return hasPrefix(path, p.lit, folded)
	case suffix:
		return len(path) >= len(p.lit) && hasPrefix(path[len(path)-len(p.lit):], p.lit, folded)
	case middle:
		if !folded {
			return strings.Contains(path, p.lit)
		}
		for i := 0; i+len(p.lit) <= len(path); i++ {
			if hasPrefix(path[i:], p.lit, true) {
				return true
			}
		}
		return false
	}
	return p.matchGlob(path, folded)
}

// matchSlashed reports whether the pattern matches path with a slash added.
func (p *pattern) matchSlashed(path string, folded bool) bool {
	lit, slash := strings.CutSuffix(p.lit, "/")
	switch p.kind {
	case everything:
		return true
	case exact:
		return slash && len(path) == len(lit) && hasPrefix(path, lit, folded)
	case prefix:
		return hasPrefix(path, p.lit, folded) || slash && len(path) == len(lit) && hasPrefix(path, lit, folded)
	case suffix:
		return p.lit == "" || slash && len(path) >= len(lit) && hasPrefix(path[len(path)-len(lit):], lit, folded)
	case middle:
		return p.match(path, folded) || slash && len(path) >= len(lit) && hasPrefix(path[len(path)-len(lit):], lit, folded)
	}
	// Neither a star nor a class matches a slash. So only a slash at the end of the pattern can match the added slash.
	return p.slashed != nil && p.slashed.matchGlob(path, folded)
}

// slashAdded returns the pattern of the paths that p matches once a slash is added to them: "/a"
// for "/a/" and for "/a/*". It returns false if there are none beyond those that p matches itself.
func (p *pattern) slashAdded() (pattern, bool) {
	if p.kind != glob {
		lit, ok := strings.CutSuffix(p.lit, "/")
		if !ok || lit == "" {
			return pattern{}, false
		}
		if p.kind == suffix || p.kind == middle {
			return pattern{kind: suffix, lit: lit}, true
		}
		return pattern{kind: exact, lit: lit}, true
	}
	tokens := slices.Clone(p.tokens)
	last := &tokens[len(tokens)-1]
	if last.kind == star && len(tokens) > 1 {
		tokens = tokens[:len(tokens)-1]
		last = &tokens[len(tokens)-1]
	}
	lit, ok := strings.CutSuffix(last.lit, "/")
	if last.kind != literal || !ok {
		return pattern{}, false
	}
	if last.lit = lit; lit == "" {
		tokens = tokens[:len(tokens)-1]
	}
	return pattern{kind: glob, tokens: tokens}, true
}

// matchGlob matches a glob, and backtracks to the last star only. That is enough, because a star matches no slash: text with
// a slash between two stars fits in only one place, and text without a slash is placed as early as possible, which leaves
// the most text for later stars.
func (p *pattern) matchGlob(path string, folded bool) bool {
	tokens := p.tokens
	t, i := 0, 0
	starred, starredFrom := -1, 0
	for {
		advance := false
		if t == len(tokens) {
			if i == len(path) {
				return true
			}
		} else {
			switch tok := &tokens[t]; tok.kind {
			case star:
				starred, starredFrom = t, i
				advance = true
			case literal:
				if hasPrefix(path[i:], tok.lit, folded) {
					i += len(tok.lit)
					advance = true
				}
			case class:
				if i < len(path) && (tok.has(path[i]) && !folded || folded && tok.has(lower(path[i]))) {
					i++
					advance = true
				}
			}
		}
		if advance {
			t++
			continue
		}
		if starred < 0 || starredFrom == len(path) || path[starredFrom] == '/' {
			return false
		}
		starredFrom++
		t, i = starred+1, starredFrom
	}
}

// hasPrefix is strings.HasPrefix. With folded, the ASCII letters of s are compared in lower case.
func hasPrefix(s, lit string, folded bool) bool {
	if !folded {
		return strings.HasPrefix(s, lit)
	}
	if len(s) < len(lit) {
		return false
	}
	for i := range len(lit) {
		if s[i] != lit[i] && lower(s[i]) != lit[i] {
			return false
		}
	}
	return true
}

// lower returns b, in lower case if it is an ASCII letter.
func lower(b byte) byte {
	if b >= 'A' && b <= 'Z' {
		return b | 0x20
	}
	return b
}

// fold returns s in the form for comparisons without regard to case. It converts to upper case
// first, since several letters ("ſ", the Kelvin sign) become equal only there.
func fold(s string) string { return strings.ToLower(strings.ToUpper(s)) }
