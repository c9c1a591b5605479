package rules

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file interprets paths that are forwarded as sent: by an exception of `paths`, or with
// `report`. Every other path has one form, see Canonical.

// maxInterpretations bounds the number of interpretations of one path. A path with more is
// rejected or, if paths are not rejected, gets the strictest verdict.
const maxInterpretations = 16

// maxInterpretedPath bounds the length, in bytes, of a path that is forwarded as sent, because each interpretation of such
// a path costs time.
const maxInterpretedPath = 2048

// maxInterpretedBytes bounds the total length of all interpretations of one path, in bytes.
const maxInterpretedBytes = 8192

// interpretations returns every way in which an upstream might read the path raw, each once. The first is the path itself.
// It returns false if there are too many interpretations. It also returns false if the function keep rejects one of them;
// keep may be nil.
//
// The result holds the outcome of every sequence of steps. So it covers upstreams that decode, cut and clean a path in any
// order.
func interpretations(raw string, keep func(path string) bool) ([]string, bool) {
	if len(raw) > maxInterpretedPath {
		return nil, false
	}
	most := min(maxInterpretations, maxInterpretedBytes/max(len(raw), 1))
	dst := []string{decodeHarmless(raw)}
	if keep != nil && !keep(dst[0]) {
		return dst, false
	}
	for i := 0; i < len(dst); i++ {
		for _, step := range steps {
			r := step(dst[i])
			if r == dst[i] || slices.Contains(dst, r) {
				continue
			}
			if len(dst) == most || keep != nil && !keep(r) {
				return dst, false
			}
			dst = append(dst, r)
		}
	}
	return dst, true
}

// steps are the changes that upstreams are known to make to a path. A step that changes nothing
// returns its argument.
var steps = [...]func(string) string{
	decodeSeparators,
	decodeDots,
	decodeDelimiters,
	decodePercent,
	decodeIIS,
	turnBackslashes,
	dropParameters,
	cutParameters,
	cutQuery,
	dropAuthority,
	mergeSlashes,
	removeDots,
	trimSlash,
	trimControls,
	trimDots,
	mapLookalikes,
	rootPath,
}

// kept reports whether interpretations keep an escape of b, because decoding it changes the
// meaning of the path.
func kept(b byte) bool {
	switch b {
	case '/', '\\', '.', '%', ';', '?', '#', 0:
		return true
	}
	return false
}

// decodeHarmless decodes the escapes that every upstream reads alike, and writes the others in
// lower case.
func decodeHarmless(p string) string {
	return decode(p, func(b byte) bool { return !kept(b) })
}

// decodeSeparators decodes slashes and backslashes, as frameworks do that decode the path before
// routing.
func decodeSeparators(p string) string {
	return decode(p, func(b byte) bool { return b == '/' || b == '\\' })
}

// decodeDots decodes dots, which RFC 3986, section 6.2.2.2, decodes even if slashes stay encoded.
func decodeDots(p string) string {
	return decode(p, func(b byte) bool { return b == '.' })
}

func decodeDelimiters(p string) string {
	return decode(p, func(b byte) bool { return b == ';' || b == '?' || b == '#' || b == 0 })
}

// decodePercent turns %252f into %2f, as upstreams that decode twice do.
func decodePercent(p string) string {
	if d := decode(p, func(b byte) bool { return b == '%' }); d != p {
		return decodeHarmless(d)
	}
	return p
}

// decodeIIS turns %u002f into %2f, as IIS does.
func decodeIIS(p string) string {
	for _, u := range [...]string{"%u00", "%U00"} {
		p = strings.ReplaceAll(p, u, "%")
	}
	return decodeHarmless(p)
}

// decode replaces, once, the escapes of the bytes for which which returns true. Hexadecimal digits
// of other escapes become lower case.
func decode(p string, which func(byte) bool) string {
	i := firstDecoded(p, which)
	if i < 0 {
		return p
	}
	var out strings.Builder
	out.Grow(len(p))
	for ; i >= 0; i = strings.IndexByte(p, '%') {
		out.WriteString(p[:i])
		p = p[i:]
		b, ok := unhex(p)
		switch {
		case !ok:
			out.WriteByte('%')
			p = p[1:]
			continue
		case which(b):
			out.WriteByte(b)
		default:
			out.WriteByte('%')
			out.WriteByte(lower(p[1]))
			out.WriteByte(lower(p[2]))
		}
		p = p[3:]
	}
	out.WriteString(p)
	return out.String()
}

// firstDecoded returns the index of the first escape that decode would change, -1 for none. Most
// steps change nothing in most paths, so decode then allocates nothing.
func firstDecoded(p string, which func(byte) bool) int {
	upper := func(c byte) bool { return c >= 'A' && c <= 'F' }
	for at := strings.IndexByte(p, '%'); at >= 0; {
		skip := 1
		if b, ok := unhex(p[at:]); ok {
			if which(b) || upper(p[at+1]) || upper(p[at+2]) {
				return at
			}
			skip = 3
		}
		next := strings.IndexByte(p[at+skip:], '%')
		if next < 0 {
			break
		}
		at += skip + next
	}
	return -1
}

// unhex returns the byte of the escape at the start of s, and whether there is one.
func unhex(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	hi, ok1 := nibble(s[1])
	lo, ok2 := nibble(s[2])
	return hi<<4 | lo, ok1 && ok2
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case lower(c) >= 'a' && lower(c) <= 'f':
		return lower(c) - 'a' + 10, true
	}
	return 0, false
}

// turnBackslashes turns backslashes into slashes, as Windows and URL parsers by the WHATWG
// standard do.
func turnBackslashes(p string) string { return strings.ReplaceAll(p, `\`, "/") }

// dropParameters removes ";a=b" from every segment, as servlet containers do: they read "/..;/" as
// "/../".
func dropParameters(p string) string {
	if strings.IndexByte(p, ';') < 0 {
		return p
	}
	return eachSegment(p, func(s string) string {
		s, _, _ = strings.Cut(s, ";")
		return s
	})
}

// cutParameters ends the path at the first ";", as upstreams do that allow parameters only at the
// end of the path.
func cutParameters(p string) string {
	p, _, _ = strings.Cut(p, ";")
	return p
}

// cutQuery ends the path at a decoded "?", "#" or NUL. Upstreams do so that decode before parsing,
// or that pass the path to C code.
func cutQuery(p string) string {
	if i := strings.IndexAny(p, "?#\x00"); i >= 0 {
		return p[:i]
	}
	return p
}

// dropAuthority removes "//host" from the start: URL parsers read such a request target as a
// network-path reference (RFC 3986, section 4.2).
func dropAuthority(p string) string {
	if !strings.HasPrefix(p, "//") {
		return p
	}
	rest := strings.TrimLeft(p, "/")
	i := strings.IndexByte(rest, '/')
	if i < 0 {
		return "/"
	}
	return rest[i:]
}

func mergeSlashes(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

// removeDots resolves "." and ".." segments (RFC 3986, section 5.2.4). It keeps empty segments,
// which ".." removes like any other.
func removeDots(p string) string {
	if !strings.Contains(p, "/.") && !strings.HasPrefix(p, ".") {
		return p
	}
	rooted := strings.HasPrefix(p, "/")
	in := strings.Split(strings.TrimPrefix(p, "/"), "/")
	out := in[:0]
	for i, s := range in {
		last := i == len(in)-1
		switch s {
		case ".", "..":
			if s == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	p = strings.Join(out, "/")
	if rooted {
		p = "/" + p
	}
	return p
}

func trimSlash(p string) string {
	if len(p) > 1 {
		return strings.TrimSuffix(p, "/")
	}
	return p
}

// trimControls removes control characters, and blanks at both ends of segments. URL parsers by the
// WHATWG standard, Windows, and frameworks that trim the path do so. 0x85 and 0xA0 are blanks in
// Latin-1, if they are not part of UTF-8.
func trimControls(p string) string {
	if strings.IndexFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0 {
		return p
	}
	bytes := make([]byte, 0, len(p))
	for i := range len(p) {
		if c := p[i]; c >= ' ' && c != 0x7f {
			bytes = append(bytes, c)
		}
	}
	return eachSegment(string(bytes), func(s string) string {
		for s != "" {
			r, n := utf8.DecodeLastRuneInString(s)
			if !blank(r, n, s[len(s)-1]) {
				break
			}
			s = s[:len(s)-n]
		}
		for s != "" {
			r, n := utf8.DecodeRuneInString(s)
			if !blank(r, n, s[0]) {
				break
			}
			s = s[n:]
		}
		return s
	})
}

func blank(r rune, size int, b byte) bool {
	if r == utf8.RuneError && size == 1 {
		return b == 0x85 || b == 0xa0
	}
	return unicode.IsSpace(r)
}

// trimDots removes dots and blanks from the ends of segments, as Windows does, except from "." and
// "..".
func trimDots(p string) string {
	if !strings.Contains(p, "./") && !strings.HasSuffix(p, ".") {
		return p
	}
	return eachSegment(p, func(s string) string {
		if s == "." || s == ".." {
			return s
		}
		return strings.TrimRight(s, ". ")
	})
}

// mapLookalikes replaces overlong UTF-8 (RFC 3629, section 10), fullwidth forms and look-alikes by
// the ASCII characters that lenient decoders and best-fit conversions turn them into.
func mapLookalikes(p string) string {
	i := 0
	for i < len(p) && p[i] < utf8.RuneSelf {
		i++
	}
	if i == len(p) {
		return p
	}
	out := append(make([]byte, 0, len(p)), p[:i]...)
	for i < len(p) {
		if b, n := overlong(p[i:]); n > 0 {
			out = append(out, b)
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(p[i:])
		switch {
		case r >= 0xff01 && r <= 0xff5e:
			out = append(out, byte(r-0xff01+'!'))
		case r == 0x2025:
			out = append(out, '.', '.')
		case lookalike(r):
			out = append(out, lookalikes[r])
		default:
			out = append(out, p[i:i+n]...)
		}
		i += n
	}
	return string(out)
}

// overlong returns the ASCII byte that the start of s encodes in two, three or four bytes, and
// their number; 0 if the start of s is no overlong form.
func overlong(s string) (byte, int) {
	cont := func(i int) (byte, bool) {
		if i < len(s) && s[i]&0xc0 == 0x80 {
			return s[i] & 0x3f, true
		}
		return 0, false
	}
	// The longer forms begin with bytes that hold no bits of the character.
	lead := 0
	switch {
	case s[0] == 0xe0 && len(s) > 1:
		lead = 1
	case s[0] == 0xf0 && len(s) > 2 && s[1] == 0x80:
		lead = 2
	case s[0] == 0xc0 || s[0] == 0xc1:
		if b, ok := cont(1); ok {
			return s[0]&1<<6 | b, 2
		}
		return 0, 0
	default:
		return 0, 0
	}
	hi, ok1 := cont(lead)
	lo, ok2 := cont(lead + 1)
	if !ok1 || !ok2 || hi > 1 {
		return 0, 0
	}
	return hi<<6 | lo, lead + 2
}

// rootPath makes a relative or empty path absolute.
func rootPath(p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}

// eachSegment applies f, which must only shorten, to each segment. It allocates only if f changes
// a segment.
func eachSegment(p string, f func(string) string) string {
	var out []byte
	for start := 0; ; {
		end := strings.IndexByte(p[start:], '/')
		last := end < 0
		if last {
			end = len(p)
		} else {
			end += start
		}
		segment := f(p[start:end])
		if out == nil && len(segment) != end-start {
			out = append(make([]byte, 0, len(p)), p[:start]...)
		}
		if out != nil {
			out = append(out, segment...)
		}
		if last {
			break
		}
		if out != nil {
			out = append(out, '/')
		}
		start = end + 1
	}
	if out == nil {
		return p
	}
	return string(out)
}
