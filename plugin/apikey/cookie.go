package apikey

import (
	"net/http"
	"net/url"
	"strings"
)

// InCookie is a cookie whose value is the key.
//
// Cookies are read as net/http reads them: pairs between semicolons, spaces around a pair and its
// name ignored, quotes around the value removed. Unlike net/http, this package does not skip a
// value with characters that no cookie may have: it is a malformed credential.
const InCookie PlaceKind = "cookie"

// cookiePlace implements InCookie.
type cookiePlace struct{}

func (cookiePlace) canonical(name string) (string, error) { return name, checkToken(InCookie, name) }

func (cookiePlace) layout(string) layout { return layout{header: cookie, separator: ';'} }

func (cookiePlace) mayHold(line, name string) bool { return strings.Contains(line, name) }

func (cookiePlace) value(pair, name string, _ int) string {
	key, value, _ := strings.Cut(trim(pair), "=")
	if trim(key) != name {
		return ""
	}
	if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return value
}

func (cookiePlace) mapValue(pair, name string, f func(string) string) string {
	key, value, ok := strings.Cut(pair, "=")
	if !ok || strings.TrimSpace(key) != name {
		return pair
	}
	return key + "=" + f(value)
}

func (cookiePlace) put(h http.Header, _ *url.URL, name, key string) {
	pair := name + "=" + key
	if before := h.Get(cookie); before != "" {
		pair = before + "; " + pair
	}
	h.Set(cookie, pair)
}
