package apikey

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// InQuery is a parameter of the URL's query whose value is the key.
//
// A query is read as browsers and net/url read it: parameters between &, + for a space, %xx for a
// byte. Unlike net/url, nothing is dropped: a broken escape is read as its own bytes, and a semicolon is
// part of the value. So no spelling hides a credential that another reader would see.
const InQuery PlaceKind = "query"

// queryPlace implements InQuery.
type queryPlace struct{}

func (queryPlace) canonical(name string) (string, error) {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] == 0x7f {
			return "", fmt.Errorf("query %q: no space or control character may stand in the name", name)
		}
	}
	return name, nil
}

func (queryPlace) layout(string) layout { return layout{separator: '&'} }

func (queryPlace) mayHold(query, name string) bool {
	return strings.Contains(query, name) || strings.IndexByte(query, '%') >= 0 || strings.IndexByte(query, '+') >= 0
}

// value decodes the parameter's value. It decodes a long value only as far as to show that it is
// longer than longest.
func (queryPlace) value(param, name string, longest int) string {
	// An escaped name is never shorter than the name.
	if len(param) < len(name) {
		return ""
	}
	key, value, _ := strings.Cut(param, "=")
	if !namesParam(key, name) {
		return ""
	}
	if strings.IndexByte(value, '%') < 0 && strings.IndexByte(value, '+') < 0 {
		return value
	}
	// Three bytes of an escaped value decode to at least one byte. So these bytes decode to more than longest bytes.
	value = value[:min(len(value), 3*longest+3)]
	decoded := make([]byte, 0, len(value))
	for i := 0; i < len(value); {
		var c byte
		c, i = readParam(value, i)
		decoded = append(decoded, c)
	}
	return string(decoded)
}

func (queryPlace) mapValue(param, name string, f func(string) string) string {
	key, value, _ := strings.Cut(param, "=")
	if value == "" || !namesParam(key, name) {
		return param
	}
	return key + "=" + f(value)
}

func (queryPlace) put(_ http.Header, u *url.URL, name, key string) {
	query := u.Query()
	query.Set(name, key)
	u.RawQuery = query.Encode()
}

// namesParam reports whether key, a raw parameter before its "=", decodes to name.
func namesParam(key, name string) bool {
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

// readParam returns the decoded character at i of a query, and the index after it.
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
