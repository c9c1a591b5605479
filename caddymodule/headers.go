package caddymodule

import (
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/keygate-dev/keygate/caddymodule/redact"
)

const (
	// Context headers tell the upstream who the caller is. All names are canonical.
	headerTenantID       = "X-Tenant-Id"
	headerTenantPlan     = "X-Tenant-Plan"
	headerKeyID          = "X-Key-Id"
	headerKeyName        = "X-Key-Name"
	headerKeyScopes      = "X-Key-Scopes"
	headerKeyEnvironment = "X-Key-Environment"
)

// contextFamilies are the prefixes of the context headers. Upstreams trust all headers with these
// prefixes.
var contextFamilies = [...]string{"x-tenant-", "x-key-"}

// Override headers make some upstreams serve another path or method than the checked one.
var (
	pathOverrideHeaders = [...]string{
		"x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri", "x-forwarded-path",
		"x-script-name", "x-waws-unencoded-url", "x-envoy-original-path",
	}
	methodOverrideHeaders = [...]string{"x-http-method-override", "x-http-method", "x-method-override", "x-forwarded-method", "x-original-method"}
)

// overrides is a set of override headers to remove.
type overrides uint8

const (
	noOverrides overrides = iota
	pathOverrides
	allOverrides
)

// foldsTo reports whether an upstream could read name as want or, with prefix, as a name that
// begins with want. Upstreams behind CGI, WSGI or PHP ignore case and treat "-", "_" and "." as
// one character. Some servers treat every character except letters and digits so ("X!Tenant!Id"),
// and Caddy drops only names with "_" and ".". want is lower case with dashes. foldsTo does not
// allocate.
func foldsTo(name, want string, prefix bool) bool {
	if len(name) < len(want) || !prefix && len(name) != len(want) {
		return false
	}
	for i := 0; i < len(want); i++ {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case (c < 'a' || c > 'z') && (c < '0' || c > '9'):
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// isContextHeader reports whether an upstream could read name as a context header.
func isContextHeader(name string) bool {
	// The first character rules out most headers.
	if len(name) < 6 || name[0] != 'X' && name[0] != 'x' {
		return false
	}
	for _, f := range contextFamilies {
		if foldsTo(name, f, true) {
			return true
		}
	}
	return false
}

// holds reports whether name is one of the override headers.
func (o overrides) holds(name string) bool {
	if o == noOverrides || len(name) < 13 || name[0] != 'X' && name[0] != 'x' {
		return false
	}
	return isOneOf(name, pathOverrideHeaders[:]) || o == allOverrides && isOneOf(name, methodOverrideHeaders[:])
}

func isOneOf(name string, headers []string) bool {
	for _, h := range headers {
		if foldsTo(name, h, false) {
			return true
		}
	}
	return false
}

// stripIdentity removes from r the context headers that a client sent: in every spelling, in
// trailers, and as names in Connection, which would make the proxy remove the gateway's own
// headers. It also removes the override headers in overrides. log removes keys from the remaining
// headers, because later handlers log them.
func stripIdentity(log *redact.RequestLog, r *http.Request, overrides overrides) {
	for name, values := range r.Header {
		if isContextHeader(name) || overrides.holds(name) {
			delete(r.Header, name)
			continue
		}
		log.CleanHeader(r.Header, name, values)
	}
	log.CleanHeaders(r.Header)
	if values := r.Header["Connection"]; len(values) > 0 {
		// The map is written only after a change: writing to a full map makes it grow, even for an
		// existing name.
		if left := stripTokens(values, isContextHeader); len(left) != len(values) || &left[0] != &values[0] {
			r.Header["Connection"] = left
		}
	}
	stripTrailers(r, overrides)
	if r.Trailer != nil && r.Body != nil {
		// Trailers arrive after the body. Over HTTP/1, unannounced trailers also arrive, if the
		// map exists.
		r.Body = &trailerBody{r.Body, r, overrides}
	}
	stripUpgrade(r.Header)
}

// stripUpgrade removes a request to switch to another version of HTTP (RFC 9110, section 7.8;
// "h2c" in RFC 7540). If an upstream agreed, the connection would become a tunnel for requests
// that are never checked. Upgrades to WebSockets and similar protocols stay, since they carry no
// HTTP requests.
func stripUpgrade(h http.Header) {
	for _, v := range h["Upgrade"] {
		for tok := range strings.SplitSeq(v, ",") {
			if isHTTPProtocol(strings.TrimSpace(tok)) {
				delete(h, "Upgrade")
				delete(h, "Http2-Settings")
				return
			}
		}
	}
}

// isHTTPProtocol reports whether proto, from an Upgrade header, is a version of HTTP: "h2c",
// "HTTP/2.0", or "TLS/1.2" with HTTP in it (RFC 2817).
func isHTTPProtocol(proto string) bool {
	name, _, _ := strings.Cut(proto, "/")
	switch strings.ToLower(name) {
	case "h2", "h2c", "h3", "http", "tls":
		return true
	}
	return false
}

// headerNames is a set of header names.
type headerNames struct {
	few  [8]string
	n    int
	more []string
}

// note adds the names of h's fields. It does not allocate for up to eight names.
func (s *headerNames) note(h http.Header) {
	for name := range h {
		if s.n < len(s.few) {
			s.few[s.n] = name
			s.n++
		} else {
			s.more = append(s.more, name)
		}
	}
}

// keep removes from h all fields whose names are not in s.
func (s *headerNames) keep(h http.Header) {
	for name := range h {
		if !slices.Contains(s.few[:s.n], name) && !slices.Contains(s.more, name) {
			delete(h, name)
		}
	}
}

func stripTrailers(r *http.Request, overrides overrides) {
	for name := range r.Trailer {
		if isContextHeader(name) || overrides.holds(name) {
			delete(r.Trailer, name)
		}
	}
}

// stripTokens returns comma-separated values without the tokens for which drop returns true. It
// does not change the values in place, because the log may still show them as they arrived.
func stripTokens(values []string, drop func(string) bool) []string {
	found := false
	for _, v := range values {
		for tok := range strings.SplitSeq(v, ",") {
			found = found || drop(strings.TrimSpace(tok))
		}
	}
	if !found {
		return values
	}
	var out []string
	for _, v := range values {
		var keep []string
		for tok := range strings.SplitSeq(v, ",") {
			if tok = strings.TrimSpace(tok); tok != "" && !drop(tok) {
				keep = append(keep, tok)
			}
		}
		if len(keep) > 0 {
			out = append(out, strings.Join(keep, ", "))
		}
	}
	return out
}

// percentEncode returns s as a header value: the percent sign and all bytes except visible ASCII
// become %XX (RFC 3986). Spaces between other characters stay.
func percentEncode(s string) string {
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// trailerBody removes the context headers from the trailers, which arrive at the end of the body.
// The proxy reads the body through it, so they are removed before the proxy copies the trailers.
type trailerBody struct {
	io.ReadCloser
	r         *http.Request
	overrides overrides
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		stripTrailers(b.r, b.overrides)
	}
	return n, err
}
