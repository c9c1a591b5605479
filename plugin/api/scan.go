package api

import "bytes"

// Most bodies are plain enough for the small JSON scanner in this file. encoding/json would walk
// over them three times: to check them, to find repeated names and to split the fields. It would
// also allocate for each token. The scanner accepts a subset of JSON, and never anything that is
// not JSON. Other bodies are parsed by encoding/json, whose errors the client sees.

// The scanner rejects JSON beyond these bounds.
const (
	maxScanDepth = 64
	// maxScanNames bounds the names of one object: each new name is compared with all before it.
	maxScanNames = 64
)

// jsonScanner walks over JSON. Its methods return false for text that is not JSON, for repeated
// names, and for JSON that the scanner leaves to encoding/json: names with escapes, and text
// beyond the bounds. b must be valid UTF-8.
type jsonScanner struct {
	b []byte
	i int
	// names are the names in the objects that are open.
	names [][]byte
}

// scanObject splits a JSON object into its fields. The raw values are parts of b. ok is false if b
// is not an object that the scanner accepts.
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

// scanArray splits a JSON array into its elements, which are parts of b. ok is false if b is not
// an array that the scanner accepts.
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

// peek returns the next byte, or 0 at the end, since no JSON value begins with 0.
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

// take skips the next byte if it is c, and reports whether it was.
func (s *jsonScanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

// end skips space and reports whether nothing else follows.
func (s *jsonScanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// object walks over an object whose brace is next, and calls each, unless nil, for every field.
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

// array walks over an array whose bracket is next, and calls each, unless nil, for every element.
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

// text walks over a string whose quote is next. A string with escapes is accepted only if escapes
// is true.
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

// escape walks to the last byte of an escape, after its backslash.
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

// digits walks over digits, and reports whether there was at least one.
func (s *jsonScanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

// plainText returns the text of a JSON string without escapes, and false for any other value.
func plainText(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		return "", false
	}
	return string(raw[1 : len(raw)-1]), true
}
