package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// CORSConfig configures which pages of other origins may read responses (Fetch Standard, section
// 3.3). In JSON it is an object or a list of origins. With a list, pages may read only rejections,
// and named origins may send credentials.
type CORSConfig struct {
	// Origins are the allowed origins, such as "https://app.example.com", or "*" for all.
	Origins []string `json:"origins"`
	// Methods are the methods that Keygate allows when it answers preflights. Default: the one
	// that the preflight asks for.
	Methods []string `json:"methods,omitempty"`
	// Headers are the request headers that Keygate allows when it answers preflights. Default:
	// those that the preflight asks for.
	Headers []string `json:"headers,omitempty"`
	// Credentials allows requests with cookies and client certificates. Keys in headers work
	// without it. Default: false.
	Credentials bool `json:"credentials,omitempty"`
	// MaxAge is how long browsers may cache the answer to a preflight, up to 24h. Default: the
	// browser's choice.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
	// Answer makes Keygate answer preflights instead of the upstream. Default: false.
	Answer bool `json:"answer,omitempty"`

	// isList is true if the configuration is only a list of origins.
	isList bool
}

// maxCORSAge is the longest time that any browser caches an answer to a preflight.
const maxCORSAge = 24 * time.Hour

func (c *CORSConfig) UnmarshalJSON(b []byte) error {
	*c = CORSConfig{}
	if text := bytes.TrimSpace(b); len(text) > 0 && text[0] == '[' {
		c.isList = true
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

func (c CORSConfig) MarshalJSON() ([]byte, error) {
	if c.isList {
		return json.Marshal(c.Origins)
	}
	type object CORSConfig
	return json.Marshal(object(c))
}

// Check checks c, which may be nil.
func (c *CORSConfig) Check() error {
	if c == nil {
		return nil
	}
	origins := "cors.origins"
	if c.isList {
		origins = "cors"
	} else if len(c.Origins) == 0 {
		return Errorf("cors", "cors: no origin is stated: add the line 'origins https://app.example.com'")
	}
	for i, origin := range c.Origins {
		path := fmt.Sprintf("%s[%d]", origins, i)
		if slices.Contains(c.Origins[:i], origin) {
			return Errorf(path, "cors: origin '%s' is stated twice", origin)
		}
		if origin == "*" {
			if len(c.Origins) > 1 {
				return Errorf(path, "cors: '*' allows every origin, so remove the others")
			}
			continue
		}
		if err := checkOrigin(origin); err != nil {
			return &fieldError{path, err}
		}
	}
	if c.Credentials && c.EveryOrigin() {
		return Errorf("cors.credentials", "cors: browsers accept no credentials for the origin '*': name the origins, or remove 'credentials'")
	}
	for i, m := range c.Methods {
		path := fmt.Sprintf("cors.methods[%d]", i)
		switch {
		case m == "*":
			return Errorf(path, "cors: '*' is not a method: without the line 'methods' every method is allowed")
		case !FieldName.MatchString(m) || m != strings.ToUpper(m):
			return Errorf(path, "cors: '%s' is not a method; methods are in capitals, separated by blanks, such as 'methods GET POST'", m)
		case slices.Contains(c.Methods[:i], m):
			return Errorf(path, "cors: method '%s' is stated twice", m)
		}
	}
	for i, h := range c.Headers {
		path := fmt.Sprintf("cors.headers[%d]", i)
		switch {
		case h == "*":
			return Errorf(path, "cors: '*' is not a header name: without the line 'headers' every header is allowed")
		case !FieldName.MatchString(h):
			return Errorf(path, "cors: '%s' is not a header name; names are separated by blanks, such as 'headers X-API-Key Content-Type'", h)
		case slices.ContainsFunc(c.Headers[:i], func(other string) bool { return strings.EqualFold(h, other) }):
			return Errorf(path, "cors: header '%s' is stated twice", h)
		}
	}
	if age := time.Duration(c.MaxAge); age < 0 || age > maxCORSAge || age%time.Second != 0 {
		return Errorf("cors.max_age", "cors: max_age is from 1s to 24h in whole seconds, not '%s'", age)
	}
	return nil
}

// RefusalsOnly reports whether pages of the origins may read only rejections, not the upstream's
// responses.
func (c *CORSConfig) RefusalsOnly() bool { return c.isList }

// EveryOrigin reports whether pages of every origin are allowed.
func (c *CORSConfig) EveryOrigin() bool { return slices.Contains(c.Origins, "*") }

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
		cors.isList = len(inline) > 0 && len(cors.Methods)+len(cors.Headers) == 0 && !cors.Credentials && cors.MaxAge == 0 && !cors.Answer
		c.CORS = cors
		return nil
	}}
}

var (
	_ json.Unmarshaler = (*CORSConfig)(nil)
	_ json.Marshaler   = CORSConfig{}
)

// checkOrigin returns an error unless s is an origin as browsers send it: a scheme, a host, and a
// port if it is not the scheme's default.
func checkOrigin(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != s || s != strings.ToLower(s) {
		return fmt.Errorf("cors: '%s' is not an origin as browsers send it, such as 'https://app.example.com'", s)
	}
	return nil
}
