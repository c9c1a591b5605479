package apikey

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Kind of a Place.
type PlaceKind string

const (
	InAuthorization PlaceKind = "authorization"
	InHeader        PlaceKind = "header"
	InQuery         PlaceKind = "query"
	InCookie        PlaceKind = "cookie"
)

// Place is one place of a request where a credential may stand.
type Place struct {
	Kind PlaceKind `json:"in"`
	// Name of the header, query parameter or cookie; for InAuthorization the scheme,
	// "Bearer". Headers and schemes are the same in any case, the others are not.
	Name string `json:"name"`
}

// maxPlaces keeps a set of places in one machine word.
const maxPlaces = 16

// authorization and cookie are the canonical header names.
const (
	authorization = "Authorization"
	cookie        = "Cookie"
)

// Places finds and empties credentials. Immutable, safe for concurrent use.
type Places struct {
	places []Place
}

// DefaultPlaces returns the places of a configuration that names none.
func DefaultPlaces() []Place {
	return []Place{{InAuthorization, "Bearer"}, {InHeader, "X-API-Key"}}
}

// NewPlaces compiles; with no place given it is Authorization: Bearer and X-API-Key.
// It refuses, naming the offender, places of an unknown kind, without a valid name, given
// twice, more than 16, and those that can't hold a key as it is: Basic, Digest and
// Negotiate credentials, the Cookie header, headers that belong to the connection or
// that the gateway takes from clients (X-Tenant-…, X-Key-…).
func NewPlaces(places ...Place) (*Places, error) {
	if len(places) == 0 {
		places = DefaultPlaces()
	}
	if len(places) > maxPlaces {
		return nil, fmt.Errorf("credentials: %d places; %d are the most", len(places), maxPlaces)
	}
	p := &Places{places: make([]Place, 0, len(places))}
	for _, place := range places {
		place, err := place.canonical()
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		for _, before := range p.places {
			if before == place || before.Kind == place.Kind && place.Kind == InAuthorization && strings.EqualFold(before.Name, place.Name) {
				return nil, fmt.Errorf("credentials: %s %s is given twice", place.Kind, place.Name)
			}
			if before.whole() && place.Kind == InAuthorization || place.whole() && before.Kind == InAuthorization {
				return nil, errors.New("credentials: the Authorization header can hold either a scheme and a key (authorization) or a key alone (header), not both")
			}
		}
		p.places = append(p.places, place)
	}
	return p, nil
}

// List returns the places with canonical names, in the order written. The caller may
// keep and change the result.
func (p *Places) List() []Place { return append([]Place(nil), p.places...) }

// whole says whether the place is the Authorization header without a scheme.
func (p Place) whole() bool { return p.Kind == InHeader && p.Name == authorization }

// canonical returns the place with its name as requests have it.
func (p Place) canonical() (Place, error) {
	if p.Name == "" {
		return p, fmt.Errorf("%s needs a name", p.Kind)
	}
	switch p.Kind {
	case InQuery:
		for i := range len(p.Name) {
			if p.Name[i] <= ' ' || p.Name[i] == 0x7f {
				return p, fmt.Errorf("query %q: no space or control character may stand in the name", p.Name)
			}
		}
		return p, nil
	case InAuthorization, InHeader, InCookie:
		if !isToken(p.Name) {
			return p, fmt.Errorf("%s %q: not a valid name (RFC 9110, token)", p.Kind, p.Name)
		}
	default:
		return p, fmt.Errorf("unknown place %q: it is authorization, header, query or cookie", p.Kind)
	}
	switch p.Kind {
	case InAuthorization:
		switch strings.ToLower(p.Name) {
		case "basic", "digest", "negotiate":
			return p, fmt.Errorf("authorization %s: this scheme does not carry a key as it is; use Bearer", p.Name)
		}
	case InHeader:
		p.Name = http.CanonicalHeaderKey(p.Name)
		switch p.Name {
		case cookie, "Set-Cookie":
			return p, fmt.Errorf("header %s: name the cookie instead: cookie <name>", p.Name)
		case "Host", "Connection", "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Connection":
			return p, fmt.Errorf("header %s: belongs to the connection and can't hold a key", p.Name)
		}
		if strings.HasPrefix(p.Name, "X-Tenant-") || strings.HasPrefix(p.Name, "X-Key-") {
			return p, fmt.Errorf("header %s: X-Tenant-… and X-Key-… are removed from what clients send; choose another name", p.Name)
		}
	}
	return p, nil
}

// isToken says whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	return s != "" && consistsOf(s, base62+"!#$%&'*+-.^_`|~")
}

// trim takes optional whitespace (RFC 9110, section 5.6.3) from both ends.
func trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// withScheme returns what follows the scheme in an Authorization value: "" where it
// is another scheme or nothing follows. Scheme names have no case (RFC 9110, section 11.1).
func withScheme(value, scheme string) string {
	value = trim(value)
	n := len(scheme)
	if len(value) <= n || value[n] != ' ' && value[n] != '\t' || !strings.EqualFold(value[:n], scheme) {
		return ""
	}
	return trim(value[n:])
}
