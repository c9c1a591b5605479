package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Shared caches must not give one client's response to another (RFC 9111). So where a key may be
// checked, a response names the headers that it depends on, and is private unless the upstream
// has decided what shared caches may do. A rejection is stored nowhere.

// varyList is a list of field names for Vary.
type varyList struct {
	names []string
	// line is names as one field value; empty for none.
	line string
}

func newVaryList(names []string) varyList { return varyList{names, strings.Join(names, ", ")} }

// credentialHeaders returns the names of the headers of places, each once. Places in the query need
// none: caches store a response under the URL, query included.
func credentialHeaders(places []apikey.Place) []string {
	var names []string
	for i := range places {
		if name := places[i].Header(); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// writeCacheHeaders sets the headers for caches, when the response's header is sent.
func (x *exchange) writeCacheHeaders() {
	if x.w.status == http.StatusSwitchingProtocols {
		return
	}
	hdr, h := x.w.Header(), x.h
	if x.rejected {
		hdr["Cache-Control"] = []string{"no-store"}
		if h.CORS != nil {
			// Whether a page may read it depends on the origin, also where none was sent.
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
			// First, so that no unclosed quotation mark swallows it.
			private += ", " + strings.Join(values, ", ")
		}
		x.caching[1] = private
		hdr["Cache-Control"] = x.caching[1:2:2]
	}
}

var originVary = newVaryList([]string{"Origin"})

// addTo adds the names that a response's Vary lacks. Where it has none, room holds the value, if given.
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

// lists reports whether a list of tokens over several lines holds one, in any case.
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

// decidesSharing reports whether the lines of a Cache-Control already state what shared caches may
// do. private and no-cache with field names apply to these fields alone.
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

// cutDirective returns the first directive of a line and what follows its comma. closed reports whether
// all its quoted strings end.
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
