package apikey

import (
	"net/http"
	"net/url"
	"strings"
)

// EmptyMisplaced removes from every place what is no credential by Find's rules and yet holds
// a key, so that an upstream does not see that either: a key with a scheme before it
// where none belongs ("Bearer <key>" in X-API-Key), without one or with another where one
// does, in quotes or among other words. A key is told by its prefix alone.
//
// It changes h and u.RawQuery as Empty does, after which it is to be called.
func (p *Places) EmptyMisplaced(h http.Header, u *url.URL, g *Grammar) {
	for i := range p.places {
		place := &p.places[i]
		switch place.Kind {
		case InAuthorization:
			filter(h, authorization, func(v string) (string, bool) {
				return v, !g.misplaced(v, place.Name)
			})
		case InHeader:
			filter(h, place.Name, func(v string) (string, bool) { return v, !g.misplaced(v, "") })
		case InCookie:
			filter(h, cookie, func(line string) (string, bool) {
				if !mayHoldCookie(line, place.Name) {
					return line, true
				}
				left := cut(line, ';', func(pair string) bool { return g.misplaced(cookieValue(pair, place.Name), "") })
				if len(left) != len(line) {
					left = trim(left)
				}
				return left, left != "" || line == ""
			})
		case InQuery:
			if u != nil && MayHoldParam(u.RawQuery, place.Name) {
				u.RawQuery = cut(u.RawQuery, '&', func(param string) bool {
					return g.misplaced(paramValue(param, place.Name, g.longest), "")
				})
			}
		}
	}
}

// separators are the characters that words of a header's value stand between. The dot is none
// of them: what follows one in a JWT is chance.
const separators = " \t,;:=\"'"

// misplaced says whether a word of value, the scheme before it taken off where they stand
// together, has one of the grammar's prefixes. Its time is linear in the value's length.
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

// isSeparator marks the characters of apart.
var isSeparator = func() (t [256]bool) {
	for i := range len(separators) {
		t[separators[i]] = true
	}
	return t
}()
