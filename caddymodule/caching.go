package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Shared caches must not give one client's response to another (RFC 9111). So if a key may be
// checked, the response names the headers that it depends on. It is also private, unless the
// upstream's Cache-Control already says what shared caches may do. Rejections are never stored.

// varyList is a list of field names for Vary.
type varyList struct {
	names []string
	// line holds the header names as one field value. It is empty if there are no names.
	line string
}

func newVaryList(names []string) varyList { return varyList{names, strings.Join(names, ", ")} }

// credentialHeaders returns the names of the headers that can hold a key, without duplicates. A place in the query has no
// header: caches store a response under its URL, which includes the query.
func credentialHeaders(places []apikey.Place) []string {
	var names []string
	for i := range places {
		if name := places[i].Header(); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// writeCacheHeaders sets Vary and Cache-Control of the response. It is called when the response's
// header is sent.
func (x *exchange) writeCacheHeaders() {
	if x.w.status == http.StatusSwitchingProtocols {
		return
	}
	hdr, h := x.w.Header(), x.h
	if x.rejected {
		hdr["Cache-Control"] = []string{"no-store"}
		if h.CORS != nil {
			// The origin decides whether a page may read the response, even if this request has no
			// Origin.
			originVary.addTo(hdr, nil)
		}
	}
	if x.verdict.Class == rules.Public || x.preflight || h.CacheHeadersAsSent {
		return
	}
	h.vary.addTo(hdr, x.caching[0:1:1])
	if values := hdr["Cache-Control"]; !decidesSharing(values) {
		private := "private"
		if len(values) > 0 {
			// private comes first, so that an unclosed quotation mark in the upstream's value
			// can't hide it.
			private += ", " + strings.Join(values, ", ")
		}
		x.caching[1] = private
		hdr["Cache-Control"] = x.caching[1:2:2]
	}
}

var originVary = newVaryList([]string{"Origin"})

// addTo adds the names that the response's Vary lacks. If there is no Vary and room is not nil,
// room stores the new value, which saves an allocation.
func (l *varyList) addTo(hdr http.Header, room []string) {
	have := hdr["Vary"]
	switch {
	case l.line == "" || lists(have, "*"):
	case len(have) > 0:
		var missing []string
		for _, name := range l.names {
			if !lists(have, name) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			hdr["Vary"] = append(have[:len(have):len(have)], strings.Join(missing, ", "))
		}
	case room != nil:
		room[0] = l.line
		hdr["Vary"] = room
	default:
		hdr["Vary"] = []string{l.line}
	}
}

// lists reports whether one of the values, each a comma-separated list, contains the token,
// ignoring case.
func lists(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// decidesSharing reports whether the lines of a Cache-Control already say what shared caches may
// do. Directives private and no-cache with field names don't count, since they apply only to these
// fields.
func decidesSharing(values []string) bool {
	for _, rest := range values {
		for rest != "" {
			var directive string
			var closed bool
			if directive, rest, closed = cutDirective(rest); !closed {
				return false
			}
			name, arg, hasArg := strings.Cut(directive, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "public", "private", "no-store":
				if !hasArg {
					return true
				}
			case "s-maxage":
				if isDigits(strings.Trim(arg, " \t\"")) {
					return true
				}
			}
		}
	}
	return false
}

// cutDirective returns the first directive of a line and the text after its comma. closed reports
// whether all quoted strings in the directive are closed.
func cutDirective(s string) (directive, rest string, closed bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", !quoted
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
