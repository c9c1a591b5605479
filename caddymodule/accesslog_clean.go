package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// redacted is what Caddy writes in place of credentials.
const redacted = "REDACTED"

// logSecrets knows keys: by their shape, wherever they stand, and by the place where they
// stand, whatever their shape.
type logSecrets struct {
	cleaner *apikey.Cleaner
	places  []apikey.Place
}

// and returns what both know.
func (s logSecrets) and(t logSecrets) logSecrets {
	out := logSecrets{s.cleaner.With(t.cleaner), slices.Clone(s.places)}
	for _, p := range t.places {
		if !slices.Contains(out.places, p) {
			out.places = append(out.places, p)
		}
	}
	return out
}

// text returns t without keys; t itself where there are none.
func (s *logSecrets) text(t string) string { return s.cleaner.Clean(t) }

// credential returns what may be shown of a text that stands where keys do: as much as
// of any key, and nothing where no key's shape is seen.
func (s *logSecrets) credential(t string) string {
	if t == "" {
		return t
	}
	if c := s.text(t); c != t {
		return c
	}
	return redacted
}

// uri cleans a request target, its query's credentials included.
func (s *logSecrets) uri(uri string) string { return s.text(s.query(uri)) }

// query cleans the credentials in the query of a request target.
func (s *logSecrets) query(uri string) string {
	for i := range s.places {
		if s.places[i].Kind != apikey.InQuery {
			continue
		}
		at := strings.IndexByte(uri, '?')
		if at < 0 {
			break
		}
		if !apikey.MayHoldParam(uri[at+1:], s.places[i].Name) {
			continue
		}
		query := mapParts(uri[at+1:], '&', func(pair string) string {
			k, v, _ := strings.Cut(pair, "=")
			if v == "" || !apikey.NamesParam(k, s.places[i].Name) {
				return pair
			}
			return k + "=" + s.credential(v)
		})
		if len(query) != len(uri)-at-1 || query != uri[at+1:] {
			uri = uri[:at+1] + query
		}
	}
	return uri
}

// mapParts returns s with each of its parts between separators as f returns it, s itself where
// none changes. Empty parts stay.
func mapParts(s string, separator byte, f func(part string) string) string {
	var out strings.Builder
	done := 0
	for i := 0; i < len(s); i++ {
		if s[i] == separator {
			continue
		}
		end := len(s)
		if n := strings.IndexByte(s[i:], separator); n >= 0 {
			end = i + n
		}
		if part := f(s[i:end]); part != s[i:end] {
			out.WriteString(s[done:i])
			out.WriteString(part)
			done = end
		}
		i = end
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

// requestHeader returns h without keys, h itself where there are none. Names are
// cleaned too.
func (s *logSecrets) requestHeader(h http.Header) http.Header {
	out, copied := h, false
	for name, values := range h {
		safeName, safe := s.text(name), values
		for i, v := range values {
			c := v
			if i > 0 && v == values[i-1] {
				c = safe[i-1] // HTTP/2 repeats a value for a byte
			} else {
				c = s.text(s.inPlaces(name, v))
			}
			if c == v {
				continue
			}
			if &safe[0] == &values[0] {
				safe = slices.Clone(values)
			}
			safe[i] = c
		}
		if safeName == name && (len(values) == 0 || &safe[0] == &values[0]) {
			continue
		}
		if !copied {
			out, copied = maps.Clone(h), true
		}
		delete(out, name)
		out[safeName] = safe
	}
	return out
}

// inPlaces returns a value of a request's header with what stands where keys do cleaned.
func (s *logSecrets) inPlaces(name, v string) string {
	for i := range s.places {
		if p := &s.places[i]; headerOf(p) == name {
			v = s.held(p, v)
		}
	}
	return v
}

// values returns values without keys of a known shape, values itself where there are none.
func (s *logSecrets) values(values []string) []string {
	out := values
	for i, v := range values {
		c := v
		if i > 0 && v == values[i-1] {
			c = out[i-1]
		} else {
			c = s.text(v)
		}
		if c != v {
			if &out[0] == &values[0] {
				out = slices.Clone(values)
			}
			out[i] = c
		}
	}
	return out
}

// headerOf returns the canonical name of the header that a place is in; "" for a query.
func headerOf(p *apikey.Place) string {
	switch p.Kind {
	case apikey.InAuthorization:
		return "Authorization"
	case apikey.InCookie:
		return "Cookie"
	case apikey.InHeader:
		return p.Name
	}
	return ""
}

// held cleans what p says may be a credential in the value of a header, and that only.
func (s *logSecrets) held(p *apikey.Place, v string) string {
	switch p.Kind {
	case apikey.InAuthorization:
		scheme, rest, ok := strings.Cut(strings.TrimLeft(v, " \t"), " ")
		if !ok || !strings.EqualFold(scheme, p.Name) {
			return v
		}
		return scheme + " " + s.credential(rest)
	case apikey.InCookie:
		return mapParts(v, ';', func(pair string) string {
			name, val, ok := strings.Cut(pair, "=")
			if !ok || strings.TrimSpace(name) != p.Name {
				return pair
			}
			return name + "=" + s.credential(val)
		})
	}
	return s.credential(v)
}

// header returns h without keys of a known shape, h itself where there are none.
func (s *logSecrets) header(h http.Header) http.Header {
	out, copied := h, false
	for name, values := range h {
		safe := s.values(values)
		safeName := s.text(name)
		if safeName == name && (len(values) == 0 || &safe[0] == &values[0]) {
			continue
		}
		if !copied {
			out, copied = maps.Clone(h), true
		}
		delete(out, name)
		out[safeName] = safe
	}
	return out
}

// field returns f without keys, f itself where there are none. Values other than
// strings are told by how they are written.
func (s *logSecrets) field(f zap.Field) zap.Field {
	switch f.Type {
	case zapcore.StringType:
		f.Key, f.String = s.text(f.Key), s.text(f.String)
		return f
	case zapcore.ByteStringType, zapcore.BinaryType, zapcore.StringerType, zapcore.ErrorType, zapcore.ReflectType,
		zapcore.ArrayMarshalerType, zapcore.ObjectMarshalerType, zapcore.InlineMarshalerType:
	default:
		return f
	}
	enc := zapcore.NewMapObjectEncoder()
	f.AddTo(enc)
	for k, v := range enc.Fields {
		if b, ok := v.([]byte); ok {
			enc.Fields[k] = string(b)
		}
	}
	text, err := json.Marshal(enc.Fields)
	if err != nil {
		// What can't be written can't be checked.
		return zap.String(f.Key, redacted)
	}
	c := s.text(string(text))
	if c == string(text) {
		return f
	}
	var safe map[string]any
	if json.Unmarshal([]byte(c), &safe) != nil || len(safe) != 1 {
		return zap.String(f.Key, redacted)
	}
	for k, v := range safe {
		f = zap.Any(k, v)
	}
	return f
}

// cleanOnward takes keys out of a header of a request where none belongs, before it goes on: handlers behind
// may log it. Spared are the places that may hold a key, which are emptied of it, and the headers that
// Caddy shows in no line unless told to: they are the application's.
func (l *requestLogs) cleanOnward(h http.Header, name string, values []string) {
	for _, spared := range l.spared {
		if name == spared {
			return
		}
	}
	safe := values
	for i, v := range values {
		c := v
		if i > 0 && v == values[i-1] {
			c = safe[i-1]
		} else {
			c = l.onward(v)
		}
		if c == v {
			continue
		}
		if &safe[0] == &values[0] {
			safe = slices.Clone(values)
			h[name] = safe
		}
		safe[i] = c
	}
}

// cleanURI takes keys out of what handlers behind this one log of r's URI. The URL stays,
// since it says what is asked for.
func (a *accessLog) cleanURI(r *http.Request) { r.RequestURI = a.uri(r.RequestURI) }

// uri is the secrets' uri, which it remembers: several lines and fields show the same one.
func (a *accessLog) uri(uri string) string {
	if a.cleanedURI.in != uri {
		a.cleanedURI = cleanedText{uri, a.secrets.uri(uri)}
	}
	return a.cleanedURI.out
}

// cleanedText is a text and what it is without keys.
type cleanedText struct{ in, out string }
