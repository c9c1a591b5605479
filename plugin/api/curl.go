package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// curl returns Curl for the URL of the keyspace's API that Options.Site names.
func (h *Handler) curl(ks *gateway.Keyspace, key string) string {
	site := ""
	if h.opts.Site != nil {
		site = h.opts.Site(ks.Name)
	}
	return Curl(ks, site, key)
}

// Curl returns a curl command that sends key to the keyspace's API, in the first of the keyspace's
// places for keys. site is the API's URL without a trailing slash. Default:
// https://api.example.com.
func Curl(ks *gateway.Keyspace, site, key string) string {
	if site == "" {
		site = "https://api.example.com"
	}
	p := apikey.DefaultPlaces()[0]
	if places := ks.Places.List(); len(places) > 0 {
		p = places[0]
	}
	header, u := http.Header{}, &url.URL{}
	p.Put(header, u, key)
	option, to := "", site+"/"
	for name, values := range header {
		if name == "Cookie" {
			option = "-b " + quote(values[0]) + " "
		} else {
			option = "-H " + quote(name+": "+values[0]) + " "
		}
	}
	if u.RawQuery != "" {
		to += "?" + u.RawQuery
	}
	return "curl " + option + quote(to)
}

// quote returns s as one word of a POSIX shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=", r)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
