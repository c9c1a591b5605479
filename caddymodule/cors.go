package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// CORSConfig states which pages of other origins may read responses (Fetch Standard, section 3.3).
// In JSON it is an object, or a list of origins: their pages may read refusals alone, and credentials are
// allowed to origins that are named.
type CORSConfig struct {
	// Origins are allowed origins, such as "https://app.example.com", or "*" for all.
	Origins []string `json:"origins"`
	// Methods that pages may use, for preflights that are answered here. Default: the one that a
	// preflight asks for.
	Methods []string `json:"methods,omitempty"`
	// Headers that pages may send, for preflights that are answered here. Default: those that a
	// preflight asks for.
	Headers []string `json:"headers,omitempty"`
	// Credentials allows requests with cookies and client certificates. A key in a header needs it not.
	// Default: false.
	Credentials bool `json:"credentials,omitempty"`
	// MaxAge is how long browsers may keep an answer to a preflight, up to 24h. Default: what browsers
	// choose.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
	// Answer answers preflights here; none reaches the upstream. Default: false.
	Answer bool `json:"answer,omitempty"`

	// refusalsOnly reports whether only a list of origins is stated.
	refusalsOnly bool
}

// maxCORSAge is the longest time that any browser keeps an answer to a preflight.
const maxCORSAge = 24 * time.Hour

// UnmarshalJSON implements json.Unmarshaler.
func (c *CORSConfig) UnmarshalJSON(b []byte) error {
	*c = CORSConfig{}
	if text := bytes.TrimSpace(b); len(text) > 0 && text[0] == '[' {
		c.refusalsOnly = true
		return json.Unmarshal(b, &c.Origins)
	}
	type object CORSConfig
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode((*object)(c)); err != nil {
		return fmt.Errorf("cors: %w", err)
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (c CORSConfig) MarshalJSON() ([]byte, error) {
	if c.refusalsOnly {
		return json.Marshal(c.Origins)
	}
	type object CORSConfig
	return json.Marshal(object(c))
}

// check checks c, which may be nil.
func (c *CORSConfig) check() error {
	if c == nil {
		return nil
	}
	origins := "cors.origins"
	if c.refusalsOnly {
		origins = "cors"
	} else if len(c.Origins) == 0 {
		return fieldErrorf("cors", "cors: no origin is stated: add the line 'origins https://app.example.com'")
	}
	for i, origin := range c.Origins {
		path := fmt.Sprintf("%s[%d]", origins, i)
		if slices.Contains(c.Origins[:i], origin) {
			return fieldErrorf(path, "cors: origin '%s' is stated twice", origin)
		}
		if origin == "*" {
			if len(c.Origins) > 1 {
				return fieldErrorf(path, "cors: '*' is every origin, so no other can be stated beside it")
			}
			continue
		}
		if err := checkOrigin(origin); err != nil {
			return &fieldError{path, err}
		}
	}
	if c.Credentials && c.everyOrigin() {
		return fieldErrorf("cors.credentials", "cors: browsers accept no credentials for the origin '*': name the origins, or remove 'credentials'")
	}
	for i, m := range c.Methods {
		path := fmt.Sprintf("cors.methods[%d]", i)
		switch {
		case m == "*":
			return fieldErrorf(path, "cors: '*' is no method: without the line 'methods' every method is allowed")
		case !fieldName.MatchString(m) || m != strings.ToUpper(m):
			return fieldErrorf(path, "cors: '%s' is no method; methods are in capitals, separated by blanks, such as 'methods GET POST'", m)
		case slices.Contains(c.Methods[:i], m):
			return fieldErrorf(path, "cors: method '%s' is stated twice", m)
		}
	}
	for i, h := range c.Headers {
		path := fmt.Sprintf("cors.headers[%d]", i)
		switch {
		case h == "*":
			return fieldErrorf(path, "cors: '*' is no header: without the line 'headers' every header is allowed")
		case !fieldName.MatchString(h):
			return fieldErrorf(path, "cors: '%s' is no name of a header; names are separated by blanks, such as 'headers X-API-Key Content-Type'", h)
		case slices.ContainsFunc(c.Headers[:i], func(other string) bool { return strings.EqualFold(h, other) }):
			return fieldErrorf(path, "cors: header '%s' is stated twice", h)
		}
	}
	if age := time.Duration(c.MaxAge); age < 0 || age > maxCORSAge || age%time.Second != 0 {
		return fieldErrorf("cors.max_age", "cors: max_age is from 1s to 24h in whole seconds, not '%s'", age)
	}
	return nil
}

func (c *CORSConfig) everyOrigin() bool { return slices.Contains(c.Origins, "*") }

// allow lets pages of origin read the response with that header, and reports whether they may. c may be nil.
func (c *CORSConfig) allow(hdr http.Header, origin string) bool {
	if c == nil || origin == "" {
		return false
	}
	for _, o := range c.Origins {
		switch {
		case o == "*":
			hdr["Access-Control-Allow-Origin"] = []string{"*"}
			return true
		case strings.EqualFold(o, origin):
			hdr["Access-Control-Allow-Origin"] = []string{origin}
			if c.Credentials || c.refusalsOnly {
				hdr["Access-Control-Allow-Credentials"] = []string{"true"}
			}
			return true
		}
	}
	return false
}

// writeCORS lets pages of allowed origins read a response of the upstream that does not state
// itself who may read it.
func (x *exchange) writeCORS() {
	c := x.h.CORS
	if c == nil || c.refusalsOnly || x.rejected || x.preflight || x.w.status == http.StatusSwitchingProtocols {
		return
	}
	hdr := x.w.Header()
	if len(hdr["Access-Control-Allow-Origin"]) > 0 {
		return
	}
	c.allow(hdr, x.r.Header.Get("Origin"))
	if !c.everyOrigin() {
		originVary.addTo(hdr, nil)
	}
}

// answersPreflight reports whether the request is a preflight that is answered here: for a method
// and a path that the directive's matcher takes.
func (x *exchange) answersPreflight(path rulePath) bool {
	c := x.h.CORS
	return x.preflight && c != nil && c.Answer && !x.h.rules.Judge(requestedMethod(x.r), path).Outside
}

var preflightVary = newVaryList([]string{"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"})

// maxRequestedHeaders is how long a list of headers is allowed that a preflight asks for.
const maxRequestedHeaders = 4 << 10

// answer answers the preflight r.
func (c *CORSConfig) answer(w http.ResponseWriter, r *http.Request) {
	hdr := w.Header()
	preflightVary.addTo(hdr, nil)
	if c.allow(hdr, r.Header.Get("Origin")) {
		methods, headers := c.Methods, c.Headers
		if len(methods) == 0 {
			methods = []string{requestedMethod(r)}
		}
		if len(headers) == 0 {
			headers = requestedHeaders(r)
		}
		hdr["Access-Control-Allow-Methods"] = []string{strings.Join(methods, ", ")}
		if len(headers) > 0 {
			hdr["Access-Control-Allow-Headers"] = []string{strings.Join(headers, ", ")}
		}
		if c.MaxAge > 0 {
			hdr["Access-Control-Max-Age"] = []string{strconv.FormatInt(int64(time.Duration(c.MaxAge)/time.Second), 10)}
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// requestedMethod returns the method that the preflight r asks for.
func requestedMethod(r *http.Request) string { return r.Header.Get("Access-Control-Request-Method") }

// requestedHeaders returns the names of headers that the preflight r asks for; none where the list is
// longer than any honest one.
func requestedHeaders(r *http.Request) (names []string) {
	list := strings.Join(r.Header["Access-Control-Request-Headers"], ",")
	if len(list) > maxRequestedHeaders {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.Trim(name, " \t"); name != "*" && fieldName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// corsOption returns the option cors.
func corsOption(l lines, c *HandlerConfig) option {
	return option{parse: func(d *caddyfile.Dispenser) error {
		l.note("cors", d)
		inline := d.RemainingArgs()
		cors := &CORSConfig{Origins: inline}
		words := func(name, usage string, to *[]string) option {
			return option{parse: func(d *caddyfile.Dispenser) (err error) {
				l.note("cors."+name, d)
				*to, err = args(d, 1, -1, usage)
				return err
			}}
		}
		origins := words("origins", "origins <origin>...", &cors.Origins)
		opts := options{
			"origins": {parse: func(d *caddyfile.Dispenser) error {
				if len(inline) > 0 {
					return d.Errf("cors: origins are stated in the line 'cors' and in its block: remove them from the line")
				}
				return origins.parse(d)
			}},
			"methods": words("methods", "methods <method>...", &cors.Methods),
			"headers": words("headers", "headers <name>...", &cors.Headers),
			"credentials": {parse: func(d *caddyfile.Dispenser) error {
				l.note("cors.credentials", d)
				return bare(d, &cors.Credentials)
			}},
			"max_age": {parse: func(d *caddyfile.Dispenser) error {
				l.note("cors.max_age", d)
				return duration(d, &cors.MaxAge)
			}},
			"answer": {parse: func(d *caddyfile.Dispenser) error { return bare(d, &cors.Answer) }},
		}
		if err := block(d, "cors", opts); err != nil {
			return err
		}
		cors.refusalsOnly = len(inline) > 0 && len(cors.Methods)+len(cors.Headers) == 0 && !cors.Credentials && cors.MaxAge == 0 && !cors.Answer
		c.CORS = cors
		return nil
	}}
}

var (
	_ json.Unmarshaler = (*CORSConfig)(nil)
	_ json.Marshaler   = CORSConfig{}
)
