package apikey

import (
	"net/http"
	"net/url"
	"strings"
)

// Find returns the credential of a request. Errors: ErrMissing, ErrMalformed,
// ErrAmbiguous, and nothing else. What it returns may still have no shape: that is
// Match's to say. The result shares memory with the request; nothing is allocated when
// credentials stand in headers or cookies. u may be nil.
//
// Every non-empty value in a configured place is a credential, with two exceptions:
// an Authorization value without one of the grammar's prefixes is none where another
// place holds one with; and with prefixedOnly (public and optional routes) only values
// with one of the grammar's prefixes are. The same value in several places is one
// credential. A value longer than any key or with a comma (two headers joined into one)
// is malformed. More than 64 credentials are ambiguous, even where all have the same value.
func (p *Places) Find(h http.Header, u *url.URL, g *Grammar, prefixedOnly bool) (string, error) {
	s := search{g: g, prefixedOnly: prefixedOnly}
	s.visit(p, h, u)
	if s.unprefixed {
		// Only now is it known which places hold a prefixed value.
		s.addUnprefixed(p, h)
	}
	switch {
	case s.differ:
		return "", ErrAmbiguous
	case s.value == "":
		return "", ErrMissing
	case len(s.value) > g.longest || strings.IndexByte(s.value, ',') >= 0:
		return "", ErrMalformed
	}
	return s.value, nil
}

// search gathers the credentials of a request.
type search struct {
	g            *Grammar
	prefixedOnly bool
	// value is the first credential, differ whether another one differs.
	value  string
	differ bool
	// prefixed is the set of places that hold a prefixed value, one bit each.
	prefixed uint
	// seen is the set of places that hold any value.
	seen uint
	// unprefixed says that there are Authorization values without a prefix: perhaps credentials,
	// perhaps a user's own.
	unprefixed bool
	// values is how many credentials were found. Beyond maxValues the request is ambiguous, and not read on.
	values int
}

// maxValues bounds how many credentials are read of one request.
const maxValues = 64

// many reports whether there are more credentials than are read.
func (s *search) many() bool { return s.values > maxValues }

func (s *search) visit(p *Places, h http.Header, u *url.URL) {
	for i := range p.places {
		place := &p.places[i]
		switch place.Kind {
		case InAuthorization:
			for _, v := range h[authorization] {
				s.see(i, place, withScheme(v, place.Name))
			}
		case InHeader:
			for _, v := range h[place.Name] {
				s.see(i, place, trim(v))
			}
		case InCookie:
			for _, line := range h[cookie] {
				for line != "" && !s.many() && mayHoldCookie(line, place.Name) {
					var pair string
					pair, line = nextCookie(line)
					s.see(i, place, cookieValue(pair, place.Name))
				}
			}
		case InQuery:
			if u == nil || !MayHoldParam(u.RawQuery, place.Name) {
				continue
			}
			for query := u.RawQuery; query != "" && !s.many(); {
				var param string
				param, query = nextParam(query)
				s.see(i, place, paramValue(param, place.Name, s.g.longest))
			}
		}
	}
}

// see takes note of a value in the i-th place; "" is none.
func (s *search) see(i int, place *Place, value string) {
	if value == "" {
		return
	}
	s.seen |= 1 << i
	switch {
	case s.g.Prefixed(value):
		s.prefixed |= 1 << i
		s.add(value)
	case s.prefixedOnly:
	case place.Kind == InAuthorization:
		s.unprefixed = true
	default:
		s.add(value)
	}
}

func (s *search) add(value string) {
	if s.values++; s.many() {
		s.differ = true
	}
	if s.value == "" {
		s.value = value
	} else if s.value != value {
		s.differ = true
	}
}

// addUnprefixed adds the Authorization values without a prefix that are credentials.
func (s *search) addUnprefixed(p *Places, h http.Header) {
	for i := range p.places {
		place := &p.places[i]
		if place.Kind != InAuthorization || s.prefixedElsewhere(i) {
			continue
		}
		for _, v := range h[authorization] {
			if v = withScheme(v, place.Name); v != "" && !s.g.Prefixed(v) {
				s.add(v)
			}
		}
	}
}

// prefixedElsewhere says whether a place other than the i-th holds a prefixed value.
func (s *search) prefixedElsewhere(i int) bool { return s.prefixed&^(1<<i) != 0 }

// credential says whether value, found in the i-th place, is a credential, once all
// places were visited.
func (s *search) credential(i int, place *Place, value string) bool {
	switch {
	case value == "":
		return false
	case s.g.Prefixed(value):
		return true
	}
	return !s.prefixedOnly && (place.Kind != InAuthorization || !s.prefixedElsewhere(i))
}
