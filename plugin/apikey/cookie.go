package apikey

import "strings"

// Cookies are read as net/http does (pairs between semicolons, spaces around a pair
// and its name ignored, quotes around the value taken off), but a value with
// characters no cookie may have is not passed over: it is a credential, a malformed one.

// nextCookie cuts the first pair off a Cookie header's value.
func nextCookie(line string) (pair, rest string) {
	for line != "" && line[0] == ';' {
		line = line[1:] // many may stand together
	}
	pair, rest, _ = strings.Cut(line, ";")
	return pair, rest
}

// mayHoldCookie reports whether a cookie of that name may stand in line. Most lines are known by it to hold none.
func mayHoldCookie(line, name string) bool { return strings.Contains(line, name) }

// cookieValue returns the pair's value if it has the name; "" if not. Nothing is allocated.
func cookieValue(pair, name string) string {
	key, value, _ := strings.Cut(trim(pair), "=")
	if trim(key) != name {
		return ""
	}
	if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return value
}
