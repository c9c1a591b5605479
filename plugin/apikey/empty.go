package apikey

import (
	"net/http"
	"net/url"
	"strings"
)

// Empty removes the credentials from every place, so that an upstream never sees one:
// same meaning of the arguments as Find. What is no credential by Find's rules (a
// user's own Bearer token beside a key, an app's cookie) stays, byte for byte and in
// its order; in the query and the cookies too, of which only the credential's own parameters
// are cut out. Of a request with more credentials than Find reads, all that stands in the places goes.
// It changes h and u.RawQuery, never a slice of h in place; whoever
// holds the query elsewhere (Request.RequestURI) has to take it from u.
//
// It is to be called once for a request: when the key is gone, a user's own Bearer
// token is the only credential left.
func (p *Places) Empty(h http.Header, u *url.URL, g *Grammar, prefixedOnly bool) {
	s := search{g: g, prefixedOnly: prefixedOnly}
	s.visit(p, h, u)
	switch {
	case s.value == "" && !s.unprefixed:
		return
	case s.many():
		p.clear(h, u)
		return
	}
	for i := range p.places {
		place := &p.places[i]
		if s.seen&(1<<i) == 0 {
			continue
		}
		switch place.Kind {
		case InAuthorization:
			filter(h, authorization, func(v string) (string, bool) {
				return v, !s.credential(i, place, withScheme(v, place.Name))
			})
		case InHeader:
			filter(h, place.Name, func(v string) (string, bool) {
				return v, !s.credential(i, place, trim(v))
			})
		case InCookie:
			filter(h, cookie, func(line string) (string, bool) {
				if !mayHoldCookie(line, place.Name) {
					return line, true
				}
				left := cut(line, ';', func(pair string) bool {
					return s.credential(i, place, cookieValue(pair, place.Name))
				})
				if len(left) != len(line) {
					left = trim(left)
				}
				return left, left != "" || line == ""
			})
		case InQuery:
			if u != nil {
				u.RawQuery = cut(u.RawQuery, '&', func(param string) bool {
					return s.credential(i, place, paramValue(param, place.Name, g.longest))
				})
			}
		}
	}
}

// clear removes all that stands in the places, credential or not.
func (p *Places) clear(h http.Header, u *url.URL) {
	for i := range p.places {
		switch place := &p.places[i]; place.Kind {
		case InAuthorization:
			delete(h, authorization)
		case InHeader:
			delete(h, place.Name)
		case InCookie:
			delete(h, cookie)
		case InQuery:
			if u != nil {
				u.RawQuery = ""
			}
		}
	}
}

// filter replaces the values of a header by what keep makes of them, leaving out
// those it does not keep, and the header with its last value.
func filter(h http.Header, name string, keep func(string) (string, bool)) {
	values := h[name]
	for i, v := range values {
		kept, ok := keep(v)
		if ok && kept == v {
			continue
		}
		if !ok && len(values) == 1 {
			delete(h, name)
			return
		}
		filterFrom(h, name, i, keep)
		return
	}
}

// filterFrom is filter where the i-th value is the first that does not stay as it is.
func filterFrom(h http.Header, name string, i int, keep func(string) (string, bool)) {
	values := h[name]
	var left []string
	left = append(left, values[:i]...)
	for _, v := range values[i:] {
		if v, ok := keep(v); ok {
			left = append(left, v)
		}
	}
	if left == nil {
		delete(h, name)
		return
	}
	h[name] = left
}

// cut returns s without those of its parts between separators that gone names, and
// s itself when there are none.
func cut(s string, separator byte, gone func(part string) bool) string {
	var left strings.Builder
	found, done := false, 0
	for i := 0; i < len(s); i++ {
		if s[i] == separator {
			continue // nothing is gone of an empty part
		}
		end := len(s)
		if n := strings.IndexByte(s[i:], separator); n >= 0 {
			end = i + n
		}
		if gone(s[i:end]) {
			// The separator behind it goes too, behind the last one that before it.
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
