package rules

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fault is the set of reasons that make a path ambiguous: an upstream may read the path as another
// one than this gateway does. The zero Fault means none.
type Fault uint16

const (
	// EncodedSlash is "%2F".
	EncodedSlash Fault = 1 << iota
	// Parameter is ";": servlet containers remove it and the rest of its segment.
	Parameter
	// EncodedParameter is "%3B".
	EncodedParameter
	// Backslash is "\" or "%5C", which Windows and URL parsers by the WHATWG standard read as "/".
	Backslash
	// Control is a control character, raw or encoded, including NUL.
	Control
	// Delimiter is "%3F", "%23" or a raw "#".
	Delimiter
	// DoubleEncoded is an escape that a second decoding turns into a dot or another fault.
	DoubleEncoded
	// InvalidUTF8 is a byte sequence that is not UTF-8, such as an overlong form (RFC 3629,
	// section 10).
	InvalidUTF8
	// Lookalike is a character that lenient decoders turn into a dot, a slash or a backslash.
	Lookalike
	// TrailingDot is a segment that ends in a dot or a blank, which Windows removes.
	TrailingDot
	// NotOrigin is a request target that is not in origin form (RFC 9112, section 3.2.1).
	NotOrigin
)

// faults are the names of the Faults in the log, in the order of their bits.
var faults = [...]string{
	"an encoded slash (%2F)", "a path parameter (;)", "an encoded semicolon (%3B)", "a backslash", "a control character",
	"an encoded ? or #", "a character that is encoded twice", "invalid UTF-8", "a character that looks like a dot or a slash",
	"a segment that ends in a dot or a blank", "a request target without a leading slash",
}

// String returns the names of the faults, separated by commas.
func (f Fault) String() string {
	var names []string
	for i, name := range faults {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// The classes of bytes in a path, see pathByte.
const (
	plainClass   = iota // A byte of plainClass means the same encoded or not: unreserved characters and ":@!$&'()*+,=".
	rawClass            // "[" and "]" have a meaning of their own if not encoded.
	encodedClass        // A byte of encodedClass is always written as an escape.
	faultClass          // A byte of faultClass makes the path ambiguous.
)

var pathByte = func() (t [256]uint8) {
	for b := range t {
		c := byte(b)
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~:@!$&'()*+,=", c) >= 0:
			t[b] = plainClass
		case c == '[' || c == ']':
			t[b] = rawClass
		case faultOf(c) != 0:
			t[b] = faultClass
		default:
			t[b] = encodedClass
		}
	}
	return t
}()

// faultOf returns the fault of a decoded byte, 0 for none.
func faultOf(c byte) Fault {
	switch {
	case c < ' ' || c == 0x7f:
		return Control
	case c == '/':
		return EncodedSlash
	case c == '\\':
		return Backslash
	case c == ';':
		return EncodedParameter
	case c == '?' || c == '#':
		return Delimiter
	}
	return 0
}

// isCanonical reports whether p is a canonical path without escapes: it begins with a slash, and
// has no escape, no empty or dot segment, and no segment that ends in a dot. It returns false for
// canonical paths with escapes.
func isCanonical(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	last := byte('/')
	for i := 1; i < len(p); i++ {
		c := p[i]
		if c == '/' {
			if last == '/' || last == '.' {
				return false
			}
		} else if pathByte[c] > rawClass {
			return false
		}
		last = c
	}
	return last != '.'
}

// Canonical returns the canonical form of a path from a request line, mainly by RFC 3986, section
// 6.2.2. Escapes of unreserved characters and of ":@!$&'()*+,=" are decoded; other escapes are
// written in upper case. Repeated slashes are merged, dot segments are resolved, and bytes that a
// URI must not contain are encoded. The canonical form of a canonical path is the path itself.
//
// A nonzero Fault means that the path is ambiguous; the returned path is then empty. The time is
// linear in the length. Canonical does not allocate for a canonical path of unreserved characters.
func Canonical(path string) (string, Fault) {
	if isCanonical(path) {
		return path, 0
	}
	if path == "" || path[0] != '/' {
		return "", NotOrigin
	}
	c := canonicalizer{out: make([]byte, 0, len(path)+16)}
	c.read(path)
	if c.high {
		c.fault |= runeFaults(decode(string(c.out), func(byte) bool { return true }))
	}
	if c.percent && c.fault == 0 {
		_, c.fault = decodeAgain(string(c.out))
	}
	if c.fault != 0 {
		return "", c.fault
	}
	if string(c.out) == path {
		return path, 0
	}
	return string(c.out), 0
}

// canonicalizer builds a canonical path.
type canonicalizer struct {
	out   []byte
	fault Fault
	// high reports that out has bytes outside ASCII; percent, that it has an encoded percent sign.
	high, percent bool
}

func (c *canonicalizer) read(path string) {
	c.out = append(c.out, '/')
	segment := 1 // segment is the start of the current segment in out.
	for i := 1; i < len(path); i++ {
		if c.fault&^(EncodedSlash|Parameter) != 0 {
			return // The fault is known, so the rest of the path need not be read: the path is rejected or forwarded as sent.
		}
		run := i
		for i < len(path) && path[i] != '/' && pathByte[path[i]] <= rawClass {
			i++
		}
		c.out = append(c.out, path[run:i]...)
		if i == len(path) {
			break
		}
		b := path[i]
		switch {
		case b == '/':
			segment = c.endSegment(segment, false)
		case b == '%':
			d, ok := unhex(path[i:])
			if !ok {
				c.fault |= DoubleEncoded
				continue
			}
			i += 2
			c.fault |= faultOf(d)
			c.high = c.high || d >= utf8.RuneSelf
			c.percent = c.percent || d == '%'
			if pathByte[d] == plainClass {
				c.out = append(c.out, d)
			} else {
				c.escape(d)
			}
		case b == ';':
			c.fault |= Parameter
		default:
			c.fault |= faultOf(b)
			c.high = c.high || b >= utf8.RuneSelf
			c.escape(b)
		}
	}
	c.endSegment(segment, true)
}

func (c *canonicalizer) escape(b byte) {
	const hex = "0123456789ABCDEF"
	c.out = append(c.out, '%', hex[b>>4], hex[b&15])
}

// endSegment ends the segment that begins at start, and returns the start of the next one. It
// removes empty segments and resolves dot segments.
func (c *canonicalizer) endSegment(start int, last bool) int {
	s := c.out[start:]
	switch {
	case len(s) == 0:
		return start
	case len(s) == 1 && s[0] == '.':
		c.out = c.out[:start]
		return start
	case len(s) == 2 && s[0] == '.' && s[1] == '.':
		c.out = c.out[:start]
		if start > 1 {
			for start--; c.out[start-1] != '/'; start-- {
			}
			c.out = c.out[:start]
		}
		return start
	case s[len(s)-1] == '.', len(s) >= 3 && string(s[len(s)-3:]) == "%20":
		c.fault |= TrailingDot
	}
	if !last {
		c.out = append(c.out, '/')
	}
	return len(c.out)
}

// runeFaults returns the faults of a decoded path that depend on whole characters.
func runeFaults(p string) Fault {
	var f Fault
	blank := false
	for i, r := range p {
		if r == '/' && blank {
			f |= TrailingDot
		}
		blank = r >= utf8.RuneSelf && unicode.IsSpace(r)
		switch {
		case r < utf8.RuneSelf:
		case r == utf8.RuneError && !strings.HasPrefix(p[i:], "\uFFFD"):
			return f | InvalidUTF8
		case r <= 0x9f:
			f |= Control
		case lookalike(r):
			f |= Lookalike
		}
	}
	if blank {
		f |= TrailingDot
	}
	return f
}

// lookalikes maps characters to the dot, slash or backslash that they look like, or that best-fit
// conversions or compatibility normalization (Unicode Standard Annex 15) turn them into.
var lookalikes = map[rune]byte{
	'\u2024': '.', '\u2025': '.', '\ufe52': '.', '\uff0e': '.',
	'\u2044': '/', '\u2215': '/', '\u29f8': '/', '\uff0f': '/',
	'\u2216': '\\', '\u29f5': '\\', '\u29f9': '\\', '\ufe68': '\\', '\uff3c': '\\',
}

func lookalike(r rune) bool { return lookalikes[r] != 0 }

// maxLayers is how many times a path may be encoded.
const maxLayers = 4

// decodeAgain decodes a canonical path as often as an upstream can that decodes more than once. It
// returns the path after the last decoding, "" if a second one changes nothing, and DoubleEncoded
// if a decoding reveals a fault.
func decodeAgain(canonical string) (string, Fault) {
	p := decode(canonical, func(byte) bool { return true })
	for layer := 1; ; layer++ {
		var f Fault
		again := false
		next := decode(p, func(b byte) bool {
			again = true
			if faultOf(b) != 0 || b == '.' {
				f = DoubleEncoded
			}
			return true
		})
		if encodedByIIS(p) {
			f = DoubleEncoded
		}
		switch {
		case f != 0 || again && (layer == maxLayers || runeFaults(next) != 0):
			return "", DoubleEncoded
		case !again && layer == 1:
			return "", 0
		case !again:
			return p, 0
		}
		p = next
	}
}

// encodedByIIS reports whether p has an escape of the form "%u002f", which IIS decodes.
func encodedByIIS(p string) bool {
	for {
		i := strings.IndexByte(p, '%')
		if i < 0 || len(p) < i+6 {
			return false
		}
		p = p[i+1:]
		if p[0]|0x20 != 'u' {
			continue
		}
		hex := true
		for j := 1; j <= 4; j++ {
			_, ok := nibble(p[j])
			hex = hex && ok
		}
		if hex {
			return true
		}
	}
}
