package apikey

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// InAuthorization is the Authorization header with a scheme before the key.
const InAuthorization PlaceKind = "authorization"

// InHeader is a header whose value is the key.
const InHeader PlaceKind = "header"

// authorization and cookie are the canonical header names.
const (
	authorization = "Authorization"
	cookie        = "Cookie"
)

// authorizationPlace implements InAuthorization.
type authorizationPlace struct{}

func (authorizationPlace) canonical(scheme string) (string, error) {
	if err := checkToken(InAuthorization, scheme); err != nil {
		return "", err
	}
	switch strings.ToLower(scheme) {
	case "basic", "digest", "negotiate":
		return "", fmt.Errorf("authorization %s: this scheme does not carry a key as it is; use Bearer", scheme)
	}
	return scheme, nil
}

func (authorizationPlace) layout(scheme string) layout {
	return layout{header: authorization, scheme: scheme}
}

func (authorizationPlace) mayHold(string, string) bool { return true }

// value returns the credentials after the scheme of an Authorization value. Schemes are
// case-insensitive (RFC 9110, section 11.1).
func (authorizationPlace) value(text, scheme string, _ int) string {
	text = trim(text)
	n := len(scheme)
	if len(text) <= n || text[n] != ' ' && text[n] != '\t' || !strings.EqualFold(text[:n], scheme) {
		return ""
	}
	return trim(text[n:])
}

func (authorizationPlace) mapValue(text, scheme string, f func(string) string) string {
	sent, value, ok := strings.Cut(strings.TrimLeft(text, " \t"), " ")
	if !ok || !strings.EqualFold(sent, scheme) {
		return text
	}
	return sent + " " + f(value)
}

func (authorizationPlace) put(h http.Header, _ *url.URL, scheme, key string) {
	h.Set(authorization, scheme+" "+key)
}

// headerPlace implements InHeader.
type headerPlace struct{}

func (headerPlace) canonical(name string) (string, error) {
	if err := checkToken(InHeader, name); err != nil {
		return "", err
	}
	name = http.CanonicalHeaderKey(name)
	switch name {
	case cookie, "Set-Cookie":
		return "", fmt.Errorf("header %s: name the cookie instead: cookie <name>", name)
	case "Host", "Connection", "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Keep-Alive", "Proxy-Connection":
		return "", fmt.Errorf("header %s: belongs to the connection and can't hold a key", name)
	}
	if strings.HasPrefix(name, "X-Tenant-") || strings.HasPrefix(name, "X-Key-") {
		return "", fmt.Errorf("header %s: X-Tenant-… and X-Key-… are removed from what clients send; choose another name", name)
	}
	return name, nil
}

func (headerPlace) layout(name string) layout { return layout{header: name} }

func (headerPlace) mayHold(string, string) bool { return true }

func (headerPlace) value(text, _ string, _ int) string { return trim(text) }

func (headerPlace) mapValue(text, _ string, f func(string) string) string { return f(text) }

func (headerPlace) put(h http.Header, _ *url.URL, name, key string) { h.Set(name, key) }
