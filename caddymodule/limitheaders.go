package caddymodule

import (
	"net/http"
	"slices"
	"strings"
)

// dropHeaders removes the headers that only Keygate sets from an informational response: the final
// response has them.
func (x *exchange) dropHeaders() {
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		delete(hdr, rule.Actual)
	}
	if x.checked && !x.observed && x.dec.Outcome.N > 0 {
		deleteLimitHeaders(hdr)
	}
}

// writeHeaders puts the limit headers in place of the upstream's, when the response's
// header goes out.
func (x *exchange) writeHeaders() {
	x.writeCacheHeaders()
	x.writeCORS()
	hdr := x.w.Header()
	if rule := x.verdict.Rule; rule != nil && rule.Actual != "" {
		if v := hdr[rule.Actual]; len(v) > 0 {
			x.actual = v[0]
			delete(hdr, rule.Actual)
		}
		if t := hdr["Trailer"]; len(t) > 0 {
			if t = stripTokens(t, func(tok string) bool { return strings.EqualFold(tok, rule.Actual) }); len(t) == 0 {
				delete(hdr, "Trailer")
			} else {
				hdr["Trailer"] = t
			}
		}
	}
	if !x.checked || x.observed || x.dec.Outcome.N == 0 {
		return
	}
	deleteLimitHeaders(hdr)
	x.dec.Outcome.WriteHeaders(hdr, x.req.Now, x.h.headers)
	if len(x.r.Header["Origin"]) > 0 {
		exposeHeaders(hdr)
	}
}

// limitHeaders are the response headers that only Keygate writes, where it writes any.
var limitHeaders = [...]string{
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Ratelimit", "Ratelimit-Policy",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
}

// deleteLimitHeaders deletes what the upstream wrote of them. Nearly always there is none.
func deleteLimitHeaders(hdr http.Header) {
	for name := range hdr {
		if (strings.HasPrefix(name, "Ratelimit") || strings.HasPrefix(name, "X-Ratelimit-")) && slices.Contains(limitHeaders[:], name) {
			delete(hdr, name)
		}
	}
}

const exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, Retry-After"

// exposeHeaders lets scripts of other origins read the limit headers (Fetch Standard,
// section 3.3.4).
func exposeHeaders(hdr http.Header) {
	hdr["Access-Control-Expose-Headers"] = append(hdr["Access-Control-Expose-Headers"], exposed)
}
