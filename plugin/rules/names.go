package rules

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNames is the number of names of a path that need no allocation.
const maxNames = 12

// appendNames appends to dst the names that an upstream may know a path in matching form by,
// without their trailing slash. They are the path itself, the path without an extension of its
// last segment (Rails' "(.:format)", Spring's suffix patterns), and the path after a script such
// as "/index.php" (CGI's PATH_INFO, RFC 3875 section 4.1.5). The name of the root is "".
func appendNames(dst []string, path string) []string {
	path = trimSlash(path)
	dst = appendWithoutExtension(dst, path)
	if strings.IndexByte(path, '.') < 0 {
		return dst
	}
	first, last := scriptsIn(path)
	dst = first.appendNames(dst, path)
	if last != first {
		dst = last.appendNames(dst, path)
	}
	return dst
}

func appendName(dst []string, name string) []string {
	if name == "/" {
		name = ""
	}
	if slices.Contains(dst, name) {
		return dst
	}
	return append(dst, name)
}

// appendWithoutExtension appends path, and path without the text from the last, and from the
// first, dot of its last segment.
func appendWithoutExtension(dst []string, path string) []string {
	dst = appendName(dst, path)
	start := strings.LastIndexByte(path, '/') + 1
	segment := path[start:]
	if dot := strings.LastIndexByte(segment, '.'); dot > 0 {
		dst = appendName(dst, path[:start+dot])
		if first := strings.IndexByte(segment, '.'); first > 0 && first != dot {
			dst = appendName(dst, path[:start+first])
		}
	}
	return dst
}

// scripts are the extensions of programs that servers run with the rest of the path as an
// argument.
var scripts = [...]string{"php", "phtml", "cgi", "fcgi", "pl", "py", "wsgi", "asp", "aspx"}

// script is the position of a script's file name in a path. The zero script means none.
type script struct{ start, end int }

// appendNames appends the names that the script knows path by: relative to the root, and relative
// to the script's directory. Symfony and Laravel read "/index.phpx" as "/x".
func (s script) appendNames(dst []string, path string) []string {
	if s.end == 0 {
		return dst
	}
	behind := trimSlash(path[s.end:])
	if behind != "" && behind[0] != '/' {
		behind = "/" + behind
	}
	dst = appendWithoutExtension(dst, behind)
	if s.start > 1 {
		dst = appendWithoutExtension(dst, path[:s.start-1]+behind)
	}
	return dst
}

// scriptsIn returns the first and the last script of a path.
func scriptsIn(path string) (first, last script) {
	for start := 1; start <= len(path); {
		end := strings.IndexByte(path[start:], '/')
		if end < 0 {
			end = len(path)
		} else {
			end += start
		}
		if n := scriptLen(path[start:end]); n > 0 {
			last = script{start, start + n}
			if first.end == 0 {
				first = last
			}
		}
		start = end + 1
	}
	return first, last
}

// scriptLen returns the length of the script's file name at the start of a segment, 0 for none.
func scriptLen(segment string) int {
	if isScript(segment) {
		return len(segment)
	}
	const php = ".php"
	for i := 1; i+len(php) <= len(segment); i++ {
		if hasPrefix(segment[i:], php, true) {
			return i + len(php)
		}
	}
	return 0
}

func isScript(segment string) bool {
	dot := strings.LastIndexByte(segment, '.')
	if dot < 0 {
		return false
	}
	// Digits at the end are a version, as in "php5".
	extension := strings.TrimRight(segment[dot+1:], "0123456789")
	for _, s := range scripts {
		if len(extension) == len(s) && hasPrefix(extension, s, true) {
			return true
		}
	}
	return false
}

// alternatives returns further paths, in matching form, that an upstream may read a path as. They
// are the path decoded more than once, the path with fullwidth forms turned into ASCII, and the
// path without blanks at the ends of its segments. again is the path after the last decoding, ""
// if a second one changes nothing.
func alternatives(match, again string) []string {
	var out []string
	if again != "" {
		match = strings.ReplaceAll(again, "%", "%25")
		out = append(out, match)
	}
	if narrow := narrow(match); narrow != match {
		narrow, _, _ = strings.Cut(narrow, "?")
		narrow, _, _ = strings.Cut(narrow, "#")
		out = append(out, removeDots(mergeSlashes(dropParameters(narrow))))
	}
	if trimmed := trimBlanks(match); trimmed != match {
		out = append(out, trimmed)
	}
	return out
}

// narrow replaces fullwidth forms (U+FF01 to U+FF5E) by their ASCII characters.
func narrow(p string) string {
	if !strings.ContainsFunc(p, isFullwidth) {
		return p
	}
	return strings.Map(func(r rune) rune {
		if isFullwidth(r) {
			return r - 0xff01 + '!'
		}
		return r
	}, p)
}

func isFullwidth(r rune) bool { return r >= 0xff01 && r <= 0xff5e }

// mayHaveAlternatives reports whether a path in matching form may have alternatives.
func mayHaveAlternatives(match string) bool {
	for i := range len(match) {
		if match[i] >= utf8.RuneSelf || match[i] == ' ' && i > 0 && match[i-1] == '/' {
			return true
		}
	}
	return false
}

// trimBlanks removes blanks from both ends of every segment.
func trimBlanks(p string) string {
	return eachSegment(p, func(s string) string { return strings.TrimFunc(s, unicode.IsSpace) })
}
