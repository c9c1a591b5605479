package apikey

import (
	"net/http"
	"net/url"
	"strings"
)

// Empty removes the credentials from every place, so that the upstream sees none. The arguments
// are the same as for Find. Other values (a user's own Bearer token, an application's cookie)
// stay, byte for byte and in their order; of a query and of cookies, only the credential's own
// part is cut out. Where a request has more credentials than Find reads, Empty removes all values
// in the places.
//
// Empty changes h and u.RawQuery, but no slice of h in place. A caller that keeps the query
// elsewhere too (Request.RequestURI) must copy it from u.
//
// It must be called only once for a request: a second call would find a user's own Bearer token as
// the only credential, and remove it.
func (p *Places) Empty(h http.Header, u *url.URL, g *Grammar, prefixedOnly bool) {
	s := search{g: g, prefixedOnly: prefixedOnly}
	s.visit(p, h, u)
	switch {
	case s.value == "" && !s.unprefixed:
		return
	case s.tooMany():
		p.clear(h, u)
		return
	}
	for i := range p.places {
		place := &p.places[i]
		if s.seen&(1<<i) != 0 {
			place.remove(h, u, func(part string) bool {
				return s.credential(i, place, place.kind.value(part, place.Name, g.longest))
			})
		}
	}
}

// EmptyMisplaced removes from every place the values that hold a key although they are no credential
// by Find's rules, so that the upstream does not see those either. Such a key has a scheme before it
// in a place without one ("Bearer <key>" in X-API-Key), no scheme or another one in a place with one,
// quotes around it, or other words next to it. A key is recognised by its prefix alone.
//
// It changes h and u.RawQuery as Empty does, and must be called after Empty.
func (p *Places) EmptyMisplaced(h http.Header, u *url.URL, g *Grammar) {
	for i := range p.places {
		place := &p.places[i]
		place.remove(h, u, func(part string) bool {
			if place.separator != 0 {
				part = place.kind.value(part, place.Name, g.longest)
			}
			return g.misplaced(part, place.scheme)
		})
	}
}

// separators are the characters between the words of a header's value. The dot is none of them: a
// prefix after a dot of a JWT is there by chance.
const separators = " \t,;:=\"'"

// isSeparator marks the characters of separators.
var isSeparator = func() (t [256]bool) {
	for i := range len(separators) {
		t[separators[i]] = true
	}
	return t
}()

// misplaced reports whether a word of value begins with one of the grammar's prefixes, directly or
// after the scheme. Its time is linear in the value's length. It does not allocate.
func (g *Grammar) misplaced(value, scheme string) bool {
	for i := 0; i < len(value); i++ {
		if isSeparator[value[i]] {
			continue
		}
		word := value[i:]
		if g.Prefixed(word) {
			return true
		}
		if n := len(scheme); n > 0 && len(word) > n && strings.EqualFold(word[:n], scheme) && g.Prefixed(word[n:]) {
			return true
		}
		for i < len(value) && !isSeparator[value[i]] {
			i++
		}
	}
	return false
}

// clear removes the headers and the query that the places are in.
func (p *Places) clear(h http.Header, u *url.URL) {
	for i := range p.places {
		if header := p.places[i].header; header != "" {
			delete(h, header)
		} else if u != nil {
			u.RawQuery = ""
		}
	}
}

// remove removes from the place the parts for which gone returns true.
func (p *place) remove(h http.Header, u *url.URL, gone func(part string) bool) {
	if p.header == "" {
		if u != nil && p.kind.mayHold(u.RawQuery, p.Name) {
			u.RawQuery = cut(u.RawQuery, p.separator, gone)
		}
		return
	}
	filter(h, p.header, func(text string) (string, bool) {
		if p.separator == 0 {
			return text, !gone(text)
		}
		if !p.kind.mayHold(text, p.Name) {
			return text, true
		}
		left := cut(text, p.separator, gone)
		if len(left) != len(text) {
			left = trim(left)
		}
		return left, left != "" || text == ""
	})
}

// filter replaces the values of a header by what keep returns for them. It removes those for which
// keep returns false, and the header with its last value.
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

// filterFrom does the work of filter, where the i-th value is the first that changes.
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
