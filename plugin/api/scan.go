package api

import "bytes"

// Bodies are read by a scanner of our own where they are plain enough, which most are:
// encoding/json would walk them three times, to check them, to find doubled names and to part the
// fields, and allocate for each token. The scanner takes part of what is JSON, and never
// anything that is not; what it leaves is parsed by encoding/json, which also words what is wrong.

// Bounds of what the scanner takes.
const (
	maxScanDepth = 64
	// maxScanNames is in one object: each new name is compared with those before.
	maxScanNames = 64
)

// jsonScanner walks over JSON. It reports false for what is not JSON, doubled names, and
// what it does not take: names with escapes, and what is beyond the bounds. b is valid UTF-8.
type jsonScanner struct {
	b []byte
	i int
	// names of the objects that are open.
	names [][]byte
}

// scanObject parts a JSON object into its fields. The raw values are parts of b.
func scanObject(b []byte) ([]member, bool) {
	s := jsonScanner{b: b}
	s.space()
	if s.peek() != '{' {
		return nil, false
	}
	fields := make([]member, 0, 8)
	ok := s.object(0, func(name, raw []byte) {
		fields = append(fields, member{name: string(name), raw: raw})
	})
	if !ok || !s.end() {
		return nil, false
	}
	return fields, true
}

// scanArray parts a JSON array into its elements, which are parts of b.
func scanArray(b []byte) (elements [][]byte, ok bool) {
	s := jsonScanner{b: b}
	s.space()
	if s.peek() != '[' {
		return nil, false
	}
	elements = [][]byte{}
	ok = s.array(0, func(raw []byte) { elements = append(elements, raw) })
	if !ok || !s.end() {
		return nil, false
	}
	return elements, true
}

// peek returns the next byte, 0 at the end: no JSON begins so.
func (s *jsonScanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *jsonScanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// take skips c, and reports whether it came next.
func (s *jsonScanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

// end says that nothing follows.
func (s *jsonScanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// object walks over an object, whose brace is next. each may be nil.
func (s *jsonScanner) object(depth int, each func(name, raw []byte)) bool {
	s.i++
	s.space()
	if s.take('}') {
		return true
	}
	first := len(s.names)
	for {
		start := s.i + 1
		if s.peek() != '"' || !s.text(false) {
			return false
		}
		name := s.b[start : s.i-1]
		for _, n := range s.names[first:] {
			if bytes.Equal(n, name) {
				return false
			}
		}
		if s.names = append(s.names, name); len(s.names)-first > maxScanNames {
			return false
		}
		s.space()
		if !s.take(':') {
			return false
		}
		s.space()
		start = s.i
		if !s.value(depth) {
			return false
		}
		if each != nil {
			each(name, s.b[start:s.i:s.i])
		}
		s.space()
		if s.take('}') {
			s.names = s.names[:first]
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

// array walks over an array, whose bracket is next. each may be nil.
func (s *jsonScanner) array(depth int, each func(raw []byte)) bool {
	s.i++
	s.space()
	if s.take(']') {
		return true
	}
	for {
		start := s.i
		if !s.value(depth) {
			return false
		}
		if each != nil {
			each(s.b[start:s.i:s.i])
		}
		s.space()
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

func (s *jsonScanner) value(depth int) bool {
	switch c := s.peek(); c {
	case '"':
		return s.text(true)
	case '{':
		return depth < maxScanDepth && s.object(depth+1, nil)
	case '[':
		return depth < maxScanDepth && s.array(depth+1, nil)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return (c == '-' || c >= '0' && c <= '9') && s.number()
	}
}

func (s *jsonScanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

// text walks over a string, whose quote is next.
func (s *jsonScanner) text(escapes bool) bool {
	for s.i++; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return true
		case c < ' ':
			return false
		case c == '\\':
			if s.i++; !escapes || !s.escape() {
				return false
			}
		}
	}
	return false
}

// escape walks to the last byte of an escape, whose backslash is behind.
func (s *jsonScanner) escape() bool {
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			s.i++
			if c := s.peek() | 0x20; (c < '0' || c > '9' || s.peek() < '0') && (c < 'a' || c > 'f') {
				return false
			}
		}
		return true
	}
	return false
}

func (s *jsonScanner) number() bool {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.peek()|0x20 == 'e' {
		s.i++
		if !s.take('+') {
			s.take('-')
		}
		return s.digits()
	}
	return true
}

// digits walks over at least one.
func (s *jsonScanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

// plainText returns what a JSON string without escapes says; false for any other value.
func plainText(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		return "", false
	}
	return string(raw[1 : len(raw)-1]), true
}
