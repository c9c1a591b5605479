package api

import (
	"net/http"
	"net/netip"
	"net/url"
	"unicode"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/management"
)

// These headers name the person for whom a caller with the scope act makes a request. Characters
// of ActorHeader beyond ASCII are percent-encoded.
const (
	ActorHeader   = "Keygate-Actor"
	ActorIPHeader = "Keygate-Actor-IP"
)

// EncodeActor returns the value of ActorHeader for a name.
func EncodeActor(name string) string { return url.PathEscape(name) }

// RequestedActor returns the name and the address of the person that the request acts for; "" for
// absent headers. The caller of RequestedActor must check that the request may name a person. The
// error is a 422 for an invalid address, and for a name that is invalid or longer than 100
// characters.
func RequestedActor(r *http.Request) (name, ip string, err error) {
	name, err = url.PathUnescape(r.Header.Get(ActorHeader))
	if err != nil || !utf8.ValidString(name) || utf8.RuneCountInString(name) > 100 || hasControl(name) {
		return "", "", headerError(ActorHeader, "must be a name of at most 100 characters, percent-encoded")
	}
	if ip = r.Header.Get(ActorIPHeader); ip != "" {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return "", "", headerError(ActorIPHeader, "must be an address")
		}
		ip = a.Unmap().String()
	}
	return name, ip, nil
}

func hasControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}

func headerError(name, detail string) *management.Error {
	return &management.Error{
		Status: http.StatusUnprocessableEntity, Code: management.CodeInvalidField, Detail: "A header is invalid.",
		Fields: []management.FieldError{{Parameter: name, Detail: detail}},
	}
}
