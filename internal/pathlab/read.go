package pathlab

import (
	"strings"
	"unicode/utf8"
)

// cut returns the part of s before the first of the given bytes.
func cut(s, bytes string) string {
	if i := strings.IndexAny(s, bytes); i >= 0 {
		return s[:i]
	}
	return s
}

// unhex decodes the percent-escape at the start of s. It returns false where there is none.
func unhex(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	hi, lo := strings.IndexByte(hexDigits, lower(s[1])), strings.IndexByte(hexDigits, lower(s[2]))
	if hi < 0 || lo < 0 {
		return 0, false
	}
	return byte(hi<<4 | lo), true
}

const hexDigits = "0123456789abcdef"

func lower(b byte) byte {
	if b >= 'A' && b <= 'Z' {
		return b | 0x20
	}
	return b
}

// unescape decodes percent-escapes once. A percent sign without two hex digits stays, and makes ok
// false.
func unescape(s string) (decoded string, ok bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	ok = true
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if b, is := unhex(s[i:]); is {
			out.WriteByte(b)
			i += 2
			continue
		}
		ok = ok && s[i] != '%'
		out.WriteByte(s[i])
	}
	return out.String(), ok
}

// lenient decodes percent-escapes once. A percent sign without two hex digits stays.
func lenient(s string) string {
	s, _ = unescape(s)
	return s
}

// merge replaces repeated slashes by one.
func merge(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

// dots resolves "." and ".." segments. It reports false where a ".." leads above the root.
func dots(p string) (resolved string, ok bool) {
	in := strings.Split(strings.TrimPrefix(p, "/"), "/")
	out := make([]string, 0, len(in))
	ok = true
	for i, s := range in {
		if s != "." && s != ".." {
			out = append(out, s)
			continue
		}
		if s == ".." {
			if len(out) == 0 {
				ok = false
			} else {
				out = out[:len(out)-1]
			}
		}
		if i == len(in)-1 {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/"), ok
}

// eachSegment applies f to each segment.
func eachSegment(p string, f func(string) string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i] = f(s)
	}
	return strings.Join(segments, "/")
}

// dropParameters removes ";a=b" from every segment.
func dropParameters(p string) string {
	return eachSegment(p, func(s string) string { return cut(s, ";") })
}

// dropExtension removes the extension of the last segment, from its first dot on.
func dropExtension(p string) string {
	slash := strings.LastIndexByte(p, '/')
	if dot := strings.IndexByte(p[slash+1:], '.'); dot > 0 {
		return p[:slash+1+dot]
	}
	return p
}

// trimSlash removes one trailing slash.
func trimSlash(p string) string {
	if len(p) > 1 {
		return strings.TrimSuffix(p, "/")
	}
	return p
}

// afterOrigin removes the scheme and host of a target in absolute form, as HTTP servers do (RFC
// 9112, section 3.2.2). From other targets without a leading slash it removes everything before
// the first slash, as PHP's and Ruby's servers do.
func afterOrigin(target string) string {
	if strings.HasPrefix(target, "/") {
		return target
	}
	rest := target
	if scheme, after, ok := strings.Cut(target, "://"); ok && !strings.ContainsAny(scheme, "/?#") {
		rest = after
	}
	i := strings.IndexAny(rest, "/?#")
	switch {
	case i < 0:
		return "/"
	case rest[i] != '/':
		return "/" + rest[i:]
	}
	return rest[i:]
}

// latin1 returns s as a string of Node, which reads each byte of a request line as one character.
func latin1(s string) string {
	var out strings.Builder
	for i := range len(s) {
		out.WriteRune(rune(s[i]))
	}
	return out.String()
}

// lookAlikes replaces overlong UTF-8 and fullwidth forms by the ASCII characters that lenient
// decoders take them for.
func lookAlikes(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		if b, n := overlong(s[i:]); n > 0 {
			out.WriteByte(b)
			i += n
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r >= 0xff01 && r <= 0xff5e:
			out.WriteByte(byte(r - 0xff01 + '!'))
		case r == 0x2024:
			out.WriteByte('.')
		case r == 0x2025:
			out.WriteString("..")
		case r == 0x2044 || r == 0x2215:
			out.WriteByte('/')
		default:
			out.WriteString(s[i : i+n])
		}
		i += n
	}
	return out.String()
}

// overlong decodes an ASCII byte at the start of s that is encoded in two or three bytes. It
// returns the byte and the length, which is 0 where there is none.
func overlong(s string) (byte, int) {
	if len(s) >= 2 && s[0]&0xfe == 0xc0 && s[1]&0xc0 == 0x80 {
		return s[0]&1<<6 | s[1]&0x3f, 2
	}
	if len(s) >= 3 && s[0] == 0xe0 && s[1]&0xfe == 0x80 && s[2]&0xc0 == 0x80 {
		return s[1]&1<<6 | s[2]&0x3f, 3
	}
	return 0, 0
}
