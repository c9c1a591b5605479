package main

import (
	"net/http"
	"strings"
)

// replayClass is one kind of intended difference.
type replayClass struct {
	name string
	// changelog is a text that the section "Unreleased" of CHANGELOG.md must hold.
	changelog string
	// matches reports whether a difference is of this kind.
	matches func(d difference) bool
}

// difference is one difference between two outcomes of a request.
type difference struct {
	what, old, now string
	request        replayRequest
	before, after  exchange
}

// unexplained is the class of the differences that match no other class.
const unexplained = "unexplained"

// rejected reports whether the gateway itself answered with an error.
func (x exchange) rejected() bool { return x.status >= 400 && len(x.received) == 0 }

// checked reports whether the upstream received the request with the context of a key.
func (x exchange) checked() bool {
	return len(x.received) == 1 && x.received[0].header.Get("X-Key-ID") != ""
}

// replayClasses are the intended differences from the last release. The first class that matches a
// difference takes it. Each release empties the list.
var replayClasses = []replayClass{
	{"ambiguous path", "is rejected with 400 `ambiguous_path`", func(d difference) bool {
		return d.after.status == http.StatusBadRequest && strings.Contains(d.after.body, "The request path is ambiguous.")
	}},
	{"ambiguous path, HEAD", "is rejected with 400 `ambiguous_path`", func(d difference) bool {
		return d.after.status == http.StatusBadRequest && d.request.odd && d.request.method == http.MethodHead && d.after.rejected()
	}},
	{"other names of a path", "`protect`, `scope` and `cost` also hold for a path's other names", func(d difference) bool {
		return d.request.odd && len(d.before.received) == 1 &&
			(!d.before.checked() && (d.after.checked() || d.after.status == http.StatusUnauthorized) || d.after.status == http.StatusForbidden && d.before.status != d.after.status)
	}},
	{"canonical path", "Paths go upstream in their canonical form", func(d difference) bool {
		return d.what == "upstream target"
	}},
	{"rejections are not stored", "Every rejection carries `Cache-Control: no-store`", func(d difference) bool {
		return d.what == "response header Cache-Control" && d.now == `["no-store"]` && d.after.rejected()
	}},
	{"responses are private", "`Cache-Control: private` unless the upstream says", func(d difference) bool {
		return d.what == "response header Cache-Control" && strings.Contains(d.now, "private") && !d.after.rejected()
	}},
	{"responses vary", "carry `Vary` with the headers that can hold a key", func(d difference) bool {
		return d.what == "response header Vary"
	}},
	{"upgrades need a check", "`Upgrade` and extended CONNECT are removed from requests that were not checked", func(d difference) bool {
		return d.before.status == http.StatusSwitchingProtocols && d.after.status != d.before.status ||
			d.now == "absent" && (d.what == "upstream header Upgrade" || d.what == "upstream header Connection")
	}},
	{"preflights", "Only a real CORS preflight passes without a key", func(d difference) bool {
		return d.request.method == http.MethodOptions && !d.before.checked() && (d.after.checked() || d.after.rejected())
	}},
	{"matchers are rules", "A matcher of `path`, `not path` and `method` is a rule like any other", func(d difference) bool {
		return d.request.host == matchedHost && !d.before.checked() && (d.after.checked() || d.after.rejected())
	}},
	{"one form of a path", "A path has one form, which is checked and forwarded", func(d difference) bool {
		return d.request.odd && (d.before.rejected() || d.before.checked() && !d.after.checked())
	}},
	{"other names cost as much", "A rule for `/v1/jobs/*` also holds for `/v1/jobs`", func(d difference) bool {
		return d.request.limited // earlier requests have used up different amounts of the limit
	}},
}

// classify returns the class of a difference, and the text that CHANGELOG.md must hold for it.
func classify(d difference) (class, changelog string) {
	for _, c := range replayClasses {
		if c.matches(d) {
			return c.name, c.changelog
		}
	}
	return unexplained, ""
}
