package api

import (
	"net/url"
	"strings"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// curl is Curl for the keyspace's site.
func (h *Handler) curl(ks *gateway.Keyspace, key string) string {
	site := ""
	if h.opts.Site != nil {
		site = h.opts.Site(ks.Name)
	}
	return Curl(ks, site, key)
}

// Curl returns a command line that sends key to the keyspace's API, in the first of
// the places where a key may stand. site is where that is, a URL without a slash at its end;
// "" names https://api.example.com.
func Curl(ks *gateway.Keyspace, site, key string) string {
	if site == "" {
		site = "https://api.example.com"
	}
	p := apikey.Place{Kind: apikey.InAuthorization, Name: "Bearer"}
	if places := ks.Places.List(); len(places) > 0 {
		p = places[0]
	}
	to := site + "/"
	switch p.Kind {
	case apikey.InHeader:
		return "curl -H " + quote(p.Name+": "+key) + " " + quote(to)
	case apikey.InQuery:
		return "curl " + quote(to+"?"+url.Values{p.Name: {key}}.Encode())
	case apikey.InCookie:
		return "curl -b " + quote(p.Name+"="+key) + " " + quote(to)
	default:
		return "curl -H " + quote("Authorization: "+p.Name+" "+key) + " " + quote(to)
	}
}

// quote writes s as one word of a POSIX shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=", r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
