package apikey

import (
	"net/http"
	"net/url"
	"strings"
)

// Find returns the credential of a request. Its errors are ErrMissing, ErrMalformed and
// ErrAmbiguous. The credential may still have no shape of the grammar: see Grammar.Match. It
// shares memory with the request; Find allocates only for credentials in a query. u may be nil.
//
// Every non-empty value in a configured place is a credential, with two exceptions. An
// Authorization value without one of the grammar's prefixes is no credential where another place
// holds a value with such a prefix. With prefixedOnly (public and optional routes), only values
// with one of the grammar's prefixes are credentials. The same value in several places is one
// credential. A value longer than any key, or with a comma (two headers joined into one), is
// malformed. More than 64 credentials are ambiguous, even where all have the same value.
func (p *Places) Find(h http.Header, u *url.URL, g *Grammar, prefixedOnly bool) (string, error) {
	s := search{g: g, prefixedOnly: prefixedOnly}
	s.visit(p, h, u)
	if s.unprefixed {
		// All places have been read. Only now is it known which places hold a value with a prefix.
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
	// value is the first credential. differ reports whether another credential differs from it.
	value  string
	differ bool
	// prefixed is the set of places that hold a prefixed value, one bit each.
	prefixed uint
	// seen is the set of places that hold any value.
	seen uint
	// unprefixed reports whether a scheme is followed by a value without a prefix. Such a value is
	// a credential, or a token that is meant for the upstream.
	unprefixed bool
	// values counts the credentials. With more than maxValues, the request is ambiguous, and no further credentials are read.
	values int
}

// maxValues bounds how many credentials of one request are read.
const maxValues = 64

// tooMany reports whether there are more credentials than are read.
func (s *search) tooMany() bool { return s.values > maxValues }

// visit adds the values in all places of a request.
func (s *search) visit(p *Places, h http.Header, u *url.URL) {
	for i := range p.places {
		place := &p.places[i]
		if place.header != "" {
			for _, text := range h[place.header] {
				s.read(i, place, text)
			}
		} else if u != nil {
			s.read(i, place, u.RawQuery)
		}
	}
}

// read adds the values in text, which comes from the i-th place.
func (s *search) read(i int, place *place, text string) {
	if place.separator == 0 {
		s.see(i, place, place.kind.value(text, place.Name, s.g.longest))
		return
	}
	if !place.kind.mayHold(text, place.Name) {
		return
	}
	for text != "" && !s.tooMany() {
		var part string
		part, text = nextPart(text, place.separator)
		s.see(i, place, place.kind.value(part, place.Name, s.g.longest))
	}
}

// see adds a value of the i-th place, unless it is empty.
func (s *search) see(i int, place *place, value string) {
	if value == "" {
		return
	}
	s.seen |= 1 << i
	switch {
	case s.g.Prefixed(value):
		s.prefixed |= 1 << i
		s.add(value)
	case s.prefixedOnly:
	case place.scheme != "":
		s.unprefixed = true
	default:
		s.add(value)
	}
}

func (s *search) add(value string) {
	if s.values++; s.tooMany() {
		s.differ = true
	}
	if s.value == "" {
		s.value = value
	} else if s.value != value {
		s.differ = true
	}
}

// addUnprefixed adds the values after a scheme that are credentials although they have no prefix.
func (s *search) addUnprefixed(p *Places, h http.Header) {
	for i := range p.places {
		place := &p.places[i]
		if place.scheme == "" || s.prefixedElsewhere(i) {
			continue
		}
		for _, text := range h[place.header] {
			if v := place.kind.value(text, place.Name, s.g.longest); v != "" && !s.g.Prefixed(v) {
				s.add(v)
			}
		}
	}
}

// prefixedElsewhere reports whether a place other than the i-th holds a prefixed value.
func (s *search) prefixedElsewhere(i int) bool { return s.prefixed&^(1<<i) != 0 }

// credential reports whether value, found in the i-th place, is a credential. visit must have run
// before.
func (s *search) credential(i int, place *place, value string) bool {
	switch {
	case value == "":
		return false
	case s.g.Prefixed(value):
		return true
	}
	return !s.prefixedOnly && (place.scheme == "" || !s.prefixedElsewhere(i))
}
