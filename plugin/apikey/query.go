package apikey

import "strings"

// A query is read as browsers and net/url do: parameters between &, + for a space,
// %xx for a byte. Unlike net/url it drops nothing: a broken escape stands for itself,
// and a semicolon is part of the value, so that no spelling hides a credential
// which another reader would see.

// nextParam cuts the first parameter off a raw query.
func nextParam(query string) (param, rest string) {
	for query != "" && query[0] == '&' {
		query = query[1:] // many may stand together
	}
	param, rest, _ = strings.Cut(query, "&")
	return param, rest
}

// MayHoldParam reports whether a parameter of that name may stand in query. Most queries are known by it to hold none.
func MayHoldParam(query, name string) bool {
	return strings.Contains(query, name) || strings.IndexByte(query, '%') >= 0 || strings.IndexByte(query, '+') >= 0
}

// paramValue returns the value of a raw parameter, decoded, if it has the name; "" if
// not. It allocates only for a value with escapes, of which it decodes no more than
// tells that there are more than longest characters.
func paramValue(param, name string, longest int) string {
	// Whatever its escapes, a name is no shorter than what it stands for.
	if len(param) < len(name) {
		return ""
	}
	key, value, _ := strings.Cut(param, "=")
	if !NamesParam(key, name) {
		return ""
	}
	if strings.IndexByte(value, '%') < 0 && strings.IndexByte(value, '+') < 0 {
		return value
	}
	// Three bytes decode to at least one: this much is longer than any key already.
	value = value[:min(len(value), 3*longest+3)]
	decoded := make([]byte, 0, len(value))
	for i := 0; i < len(value); {
		var c byte
		c, i = readParam(value, i)
		decoded = append(decoded, c)
	}
	return string(decoded)
}

// NamesParam reports whether key, a raw parameter up to its =, stands for name.
func NamesParam(key, name string) bool {
	i := 0
	for k := range len(name) {
		if i >= len(key) {
			return false
		}
		var c byte
		if c, i = readParam(key, i); c != name[k] {
			return false
		}
	}
	return i == len(key)
}

// readParam returns the character at i and where the next one begins.
func readParam(s string, i int) (c byte, next int) {
	switch s[i] {
	case '+':
		return ' ', i + 1
	case '%':
		if len(s)-i >= 3 {
			h, ok := unhex(s[i+1])
			l, ok2 := unhex(s[i+2])
			if ok && ok2 {
				return h<<4 | l, i + 3
			}
		}
	}
	return s[i], i + 1
}
