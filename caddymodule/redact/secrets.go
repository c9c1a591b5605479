package redact

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

// redacted is the text that Caddy writes in place of credentials.
const redacted = "REDACTED"

// Secrets knows keys by their shape, anywhere in a text, and by their place in a request, whatever their shape.
type Secrets struct {
	cleaner *apikey.Cleaner
	places  []apikey.Place
}

// NewSecrets returns the secrets whose shapes cleaner knows, or that stand in one of the places.
func NewSecrets(cleaner *apikey.Cleaner, places []apikey.Place) Secrets {
	return Secrets{cleaner, places}
}

// And returns secrets that know the keys of s and of t.
func (s Secrets) And(t Secrets) Secrets {
	out := Secrets{s.cleaner.With(t.cleaner), slices.Clone(s.places)}
	for _, p := range t.places {
		if !slices.Contains(out.places, p) {
			out.places = append(out.places, p)
		}
	}
	return out
}

// Text returns t without keys, t itself where there are none.
func (s *Secrets) Text(t string) string { return s.cleaner.Clean(t) }

// credential returns the part of a text in a key's place that may be shown: as much as of any key, and nothing of a
// text of another shape.
func (s *Secrets) credential(t string) string {
	if t == "" {
		return t
	}
	if c := s.Text(t); c != t {
		return c
	}
	return redacted
}

// uri cleans a request target, its query's credentials included.
func (s *Secrets) uri(uri string) string { return s.Text(s.query(uri)) }

// query cleans the credentials in the query of a request target.
func (s *Secrets) query(uri string) string {
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

// mapParts returns s with f applied to each part between separators, s itself where none changes. Empty parts stay.
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

// requestHeader returns h without keys in names and values, h itself where there are none.
func (s *Secrets) requestHeader(h http.Header) http.Header {
	out, copied := h, false
	for name, values := range h {
		safeName, safe := s.Text(name), values
		for i, v := range values {
			c := v
			if i > 0 && v == values[i-1] {
				c = safe[i-1] // HTTP/2 repeats a value for a byte
			} else {
				c = s.Text(s.inPlaces(name, v))
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

// inPlaces returns a value of a request's header without the credentials that stand in places of keys.
func (s *Secrets) inPlaces(name, v string) string {
	for i := range s.places {
		if p := &s.places[i]; p.Header() == name {
			v = s.held(p, v)
		}
	}
	return v
}

// values returns values without keys of a known shape, values itself where there are none.
func (s *Secrets) values(values []string) []string {
	out := values
	for i, v := range values {
		c := v
		if i > 0 && v == values[i-1] {
			c = out[i-1]
		} else {
			c = s.Text(v)
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

// held cleans the part of a header's value that p names, and leaves the rest.
func (s *Secrets) held(p *apikey.Place, v string) string {
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
func (s *Secrets) header(h http.Header) http.Header {
	out, copied := h, false
	for name, values := range h {
		safe := s.values(values)
		safeName := s.Text(name)
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

// field returns f without keys, f itself where there are none. Values other than strings are searched as JSON.
func (s *Secrets) field(f zap.Field) zap.Field {
	switch f.Type {
	case zapcore.StringType:
		f.Key, f.String = s.Text(f.Key), s.Text(f.String)
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
		// A value that can't be written can't be searched.
		return zap.String(f.Key, redacted)
	}
	c := s.Text(string(text))
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

// cleanForwarded takes keys out of the values of a header that goes on to an upstream: see RequestLog.CleanHeader.
func (l *Logs) cleanForwarded(h http.Header, name string, values []string) {
	for _, kept := range l.keptHeaders {
		if name == kept {
			return
		}
	}
	safe := values
	for i, v := range values {
		c := v
		if i > 0 && v == values[i-1] {
			c = safe[i-1]
		} else {
			c = l.forwardedText(v)
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
