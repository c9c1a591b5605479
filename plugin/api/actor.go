package api

import (
	"net/http"
	"net/netip"
	"net/url"
	"unicode"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/management"
)

// Headers by which a caller that may act for others says for whom. ActorHeader is
// percent-encoded where it is not ASCII.
const (
	ActorHeader   = "Keygate-Actor"
	ActorIPHeader = "Keygate-Actor-IP"
)

// EncodeActor returns a name as ActorHeader holds it.
func EncodeActor(name string) string { return url.PathEscape(name) }

// Named returns who the request says it acts for; "" where it says nothing. Whether it
// may say so is the mount's to decide. Both headers are refused, as a 422, where they
// are no name of at most 100 characters and no address.
func Named(r *http.Request) (name, ip string, err error) {
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
		Status: http.StatusUnprocessableEntity, Code: management.CodeInvalidField, Detail: "A header is not right.",
		Fields: []management.FieldError{{Parameter: name, Detail: detail}},
	}
}
