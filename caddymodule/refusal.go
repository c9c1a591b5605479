package caddymodule

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// quotaExceeded is the problem type for exceeded limits, and quotaExceededTitle its title. Both
// are from the registry of RFC 9457 section 4.2, where draft-ietf-httpapi-ratelimit-headers
// registered them.
const (
	quotaExceeded      = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	quotaExceededTitle = "Request cannot be satisfied as assigned quota has been exceeded"
)

// refusal is the response to one rejected request: its reason and details.
type refusal struct {
	reason gateway.Reason
	// realm is the directive's realm; empty for the keyspace's.
	realm string
	// keySent reports whether the request held a key, valid or not.
	keySent bool
	// retryAfter is the time until the request may be sent again; 0 if unknown. Headers that need
	// a number then show one second.
	retryAfter time.Duration
	// violated holds the names of the exceeded policies.
	violated []string
	// scopes are the scopes that the route requires.
	scopes []string
}

// refusals writes the responses to rejected requests of one keyspace. The bodies are rendered
// once. Immutable, safe for concurrent use.
type refusals struct {
	contentType string
	realm       string
	answers     [gateway.NumReasons]answer
}

// answer is the response for one reason.
type answer struct {
	status int
	body   []byte
	// open is body without its closing brace, for problems that name the exceeded policies; nil
	// for other reasons.
	open []byte
}

// refusalsOf returns the refusals of a keyspace.
func refusalsOf(ks *config.Keyspace) *refusals {
	return newRefusals(ks.Style, config.DefaultRealm(ks.Name), &ks.Refusals)
}

// newRefusals renders the body for every reason in a style.
func newRefusals(style, realm string, words *[gateway.NumReasons]gateway.Refusal) *refusals {
	r := &refusals{contentType: "application/json", realm: realm}
	if style == config.StyleProblem {
		r.contentType = "application/problem+json"
	}
	for reason := gateway.MissingKey; reason < gateway.NumReasons; reason++ {
		w := words[reason]
		a := answer{status: w.Status}
		switch style {
		case config.StyleDetail:
			a.body = render(struct {
				Detail string `json:"detail"`
			}{w.Message})
		case config.StyleEnvelope:
			type inner struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			}
			a.body = render(struct {
				Error inner `json:"error"`
			}{inner{w.Code, w.Message}})
		default:
			p := problem{Type: "about:blank", Title: http.StatusText(w.Status), Status: w.Status, Detail: w.Message, Code: w.Code}
			if reason == gateway.RateLimited || reason == gateway.QuotaExceeded {
				p.Type, p.Title = quotaExceeded, quotaExceededTitle
			}
			if p.Title == "" {
				// The status has no registered phrase, so the reason's name is the title.
				p.Title = reason.String()
			}
			a.body = render(p)
			if reason.IsLimit() {
				a.open = a.body[: len(a.body)-1 : len(a.body)-1]
			}
		}
		r.answers[reason] = a
	}
	return r
}

// problem is a body according to RFC 9457. code is an extension of Keygate; violated-policies is
// one of draft-ietf-httpapi-ratelimit-headers.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// render returns v as JSON, without HTML escaping.
func render(v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	// Encoding a struct of strings and numbers can't fail.
	_ = e.Encode(v)
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

// header sets the headers that every rejection has, even if an error route writes the body: the
// challenge, the caching, and the time to retry.
func (r *refusals) header(h http.Header, ref *refusal) {
	status := r.answers[ref.reason].status
	if c := r.challenge(status, ref); c != "" {
		h.Set("WWW-Authenticate", c)
	}
	h.Set("Cache-Control", "no-store")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		seconds := int64((ref.retryAfter + time.Second - 1) / time.Second)
		h.Set("Retry-After", strconv.FormatInt(max(seconds, 1), 10))
	}
}

// challenge returns the value of WWW-Authenticate (RFC 6750, section 3). If no key was sent, the
// challenge names no error: the client learns only what to send.
func (r *refusals) challenge(status int, ref *refusal) string {
	realm := r.realm
	if ref.realm != "" {
		realm = ref.realm
	}
	realm = `Bearer realm="` + quote(realm) + `"`
	switch {
	case status == http.StatusUnauthorized && ref.keySent:
		return realm + `, error="invalid_token"`
	case status == http.StatusUnauthorized:
		return realm
	case status == http.StatusForbidden && ref.reason == gateway.InsufficientScope:
		realm += `, error="insufficient_scope"`
		if len(ref.scopes) > 0 {
			realm += `, scope="` + strings.Join(ref.scopes, " ") + `"`
		}
		return realm
	case status == http.StatusBadRequest && ref.reason == gateway.AmbiguousKey:
		return realm + `, error="invalid_request"`
	}
	return ""
}

// quote escapes the characters that would end a quoted string (RFC 9110, section 5.6.4).
func quote(s string) string {
	if !strings.ContainsAny(s, `\"`) {
		return s
	}
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}

// body returns the body for a reason and its Content-Type. The caller must not change the body.
func (r *refusals) body(ref *refusal) (contentType string, body []byte) {
	a := &r.answers[ref.reason]
	if a.open == nil || len(ref.violated) == 0 {
		return r.contentType, a.body
	}
	b := append(a.open, `,"violated-policies":`...)
	b = append(b, render(ref.violated)...)
	return r.contentType, append(b, '}')
}

// write writes the rejection, headers and body, to w. Other fields of w's header stay.
func (r *refusals) write(w http.ResponseWriter, req *http.Request, ref *refusal) {
	h := w.Header()
	r.header(h, ref)
	contentType, body := r.body(ref)
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(r.answers[ref.reason].status)
	if req.Method != http.MethodHead {
		// An error here means that the client has closed the connection.
		_, _ = w.Write(body)
	}
}
