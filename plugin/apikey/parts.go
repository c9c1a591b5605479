package apikey

import "strings"

// nextPart cuts the first part off s. Separators before it are skipped.
func nextPart(s string, separator byte) (part, rest string) {
	for s != "" && s[0] == separator {
		s = s[1:]
	}
	if i := strings.IndexByte(s, separator); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// mapParts returns s with each part between separators replaced by what f returns for it, s itself
// where nothing changes.
func mapParts(s string, separator byte, f func(part string) string) string {
	var out strings.Builder
	done := 0
	for i := 0; i < len(s); i++ {
		if s[i] == separator {
			continue
		}
		end := len(s)
		if n := strings.IndexByte(s[i:], separator); n >= 0 {
			end = i + n
		}
		if part := f(s[i:end]); part != s[i:end] {
			out.WriteString(s[done:i])
			out.WriteString(part)
			done = end
		}
		i = end
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

// cut returns s without the parts between separators for which gone returns true, s itself where
// there are none.
func cut(s string, separator byte, gone func(part string) bool) string {
	var left strings.Builder
	found, done := false, 0
	for i := 0; i < len(s); i++ {
		if s[i] == separator {
			continue // an empty part stays
		}
		end := len(s)
		if n := strings.IndexByte(s[i:], separator); n >= 0 {
			end = i + n
		}
		if gone(s[i:end]) {
			// A separator is cut together with the part: the separator after the part, or the one before it if the part is the last.
			found = true
			left.WriteString(s[done:i])
			done = min(end+1, len(s))
		}
		i = end
	}
	if !found {
		return s
	}
	if done == len(s) && (len(s) == 0 || s[len(s)-1] != separator) {
		return strings.TrimSuffix(left.String(), string(separator))
	}
	left.WriteString(s[done:])
	return left.String()
}
