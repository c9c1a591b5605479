package apikey

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// PlaceKind is a kind of Place.
type PlaceKind string

// Place is one place of a request that may hold a credential.
type Place struct {
	Kind PlaceKind `json:"in"`
	// Name is the header, the query parameter or the cookie; for InAuthorization the scheme,
	// "Bearer". Header names and schemes are case-insensitive, the others are not.
	Name string `json:"name"`
}

// placeKind reads, replaces and writes credentials in places of one kind. To add a kind, implement
// placeKind and add a line to placeKinds.
type placeKind interface {
	// canonical returns name as requests have it. It returns an error for a name under which no
	// request can hold a key as it is.
	canonical(name string) (string, error)
	// layout returns where in a request the place with this canonical name is.
	layout(name string) layout
	// mayHold reports whether a part of text may have the name. It rules out most texts at little
	// cost. It is called only where the layout has a separator.
	mayHold(text, name string) bool
	// value returns the value of a part, "" where the part does not have the name. It may return
	// less of a value that is longer than longest, but then still more than longest bytes. It
	// allocates only for a value with escapes.
	value(part, name string, longest int) string
	// mapValue returns part with its value replaced by f's result, part itself where it does not
	// have the name. f gets the value with its escapes and quotes.
	mapValue(part, name string, f func(value string) string) string
	// put writes a key into a request's header or URL.
	put(h http.Header, u *url.URL, name, key string)
}

// layout is where in a request a credential of one place stands.
type layout struct {
	// header is the canonical name of the header that the place is in, "" for the URL's query.
	header string
	// separator separates the parts of the header's value or the query, one of which is the
	// place's. It is 0 where the whole value is one part.
	separator byte
	// scheme is the case-insensitive word before the credential, "" for none. Clients also send it
	// before tokens that are meant for the upstream.
	scheme string
}

// placeKinds lists the kinds of places, the most common first.
var placeKinds = [...]struct {
	name PlaceKind
	kind placeKind
}{
	{InAuthorization, authorizationPlace{}},
	{InHeader, headerPlace{}},
	{InQuery, queryPlace{}},
	{InCookie, cookiePlace{}},
}

// PlaceKinds returns every kind of place, the most common first.
func PlaceKinds() []PlaceKind {
	var out []PlaceKind
	for i := range placeKinds {
		out = append(out, placeKinds[i].name)
	}
	return out
}

// implementation returns the placeKind of that name, nil for an unknown one.
func (k PlaceKind) implementation() placeKind {
	for i := range placeKinds {
		if placeKinds[i].name == k {
			return placeKinds[i].kind
		}
	}
	return nil
}

// Header returns the canonical name of the header that p is in, "" where p is in the URL's query
// and for a place of an unknown kind.
func (p Place) Header() string {
	if kind := p.Kind.implementation(); kind != nil {
		return kind.layout(p.Name).header
	}
	return ""
}

// Same reports whether p and q are the same place. It returns false where a name is invalid.
func (p Place) Same(q Place) bool {
	a, errA := p.canonical()
	b, errB := q.canonical()
	if errA != nil || errB != nil || a.Kind != b.Kind {
		return false
	}
	scheme := a.Kind.implementation().layout(a.Name).scheme
	return a.Name == b.Name || scheme != "" && strings.EqualFold(scheme, b.Name)
}

// Map returns text, a value of the place's header or a raw query, with every value that may be a
// credential replaced by f's result. f gets the value with its escapes and quotes. Map returns
// text itself where f changes nothing.
func (p Place) Map(text string, f func(value string) string) string {
	kind := p.Kind.implementation()
	if kind == nil {
		return text
	}
	separator := kind.layout(p.Name).separator
	if separator == 0 {
		return kind.mapValue(text, p.Name, f)
	}
	if !kind.mayHold(text, p.Name) {
		return text
	}
	return mapParts(text, separator, func(part string) string { return kind.mapValue(part, p.Name, f) })
}

// Put writes key into a request's header or URL, as a client sends it in the place.
func (p Place) Put(h http.Header, u *url.URL, key string) {
	if kind := p.Kind.implementation(); kind != nil {
		kind.put(h, u, p.Name, key)
	}
}

// canonical returns the place with its name as requests have it.
func (p Place) canonical() (Place, error) {
	if p.Name == "" {
		return p, fmt.Errorf("%s needs a name", p.Kind)
	}
	kind := p.Kind.implementation()
	if kind == nil {
		return p, fmt.Errorf("unknown place %q: it is authorization, header, query or cookie", p.Kind)
	}
	var err error
	p.Name, err = kind.canonical(p.Name)
	return p, err
}

// maxPlaces bounds the number of places, so that a set of them fits into one machine word.
const maxPlaces = 16

// Places finds and removes credentials. Immutable, safe for concurrent use.
type Places struct {
	places []place
}

// place is a compiled Place.
type place struct {
	Place
	layout
	kind placeKind
}

// DefaultPlaces returns the places of a configuration that names none.
func DefaultPlaces() []Place {
	return []Place{{InAuthorization, "Bearer"}, {InHeader, "X-API-Key"}}
}

// NewPlaces compiles places; without any it compiles DefaultPlaces. It returns an error that names
// the place for an unknown kind, an invalid name, a place given twice, more than 16 places, and a
// place that can't hold a key as it is: Basic, Digest and Negotiate credentials, the Cookie header,
// and headers that belong to the connection or that the gateway removes from requests (X-Tenant-…,
// X-Key-…).
func NewPlaces(places ...Place) (*Places, error) {
	if len(places) == 0 {
		places = DefaultPlaces()
	}
	if len(places) > maxPlaces {
		return nil, fmt.Errorf("credentials: %d places; %d are the most", len(places), maxPlaces)
	}
	p := &Places{places: make([]place, 0, len(places))}
	for _, given := range places {
		c, err := given.canonical()
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		kind := c.Kind.implementation()
		next := place{c, kind.layout(c.Name), kind}
		for i := range p.places {
			before := &p.places[i]
			if before.Same(c) {
				return nil, fmt.Errorf("credentials: %s %s is given twice", c.Kind, c.Name)
			}
			if before.Kind != next.Kind && before.header != "" && before.header == next.header {
				return nil, errors.New("credentials: the Authorization header can hold either a scheme and a key (authorization) or a key alone (header), not both")
			}
		}
		p.places = append(p.places, next)
	}
	return p, nil
}

// List returns the places with canonical names, in the order written. The caller may keep and
// change the result.
func (p *Places) List() []Place {
	out := make([]Place, len(p.places))
	for i := range p.places {
		out[i] = p.places[i].Place
	}
	return out
}

// InQuery reports whether a place is in the URL's query.
func (p *Places) InQuery() bool {
	return slices.ContainsFunc(p.places, func(p place) bool { return p.header == "" })
}

// checkToken returns an error where name is no token (RFC 9110, section 5.6.2).
func checkToken(kind PlaceKind, name string) error {
	if name == "" || !consistsOf(name, base62+"!#$%&'*+-.^_`|~") {
		return fmt.Errorf("%s %q: not a valid name (RFC 9110, token)", kind, name)
	}
	return nil
}

// trim removes optional whitespace (RFC 9110, section 5.6.3) from both ends.
func trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
