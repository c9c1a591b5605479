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
	places  []place
	// credential is what credentialOf returns for the cleaner.
	credential func(string) string
}

// place is a place of keys with the name of its header, "" for a query.
type place struct {
	apikey.Place
	header string
}

// NewSecrets returns the secrets whose shapes cleaner knows, or that stand in one of the places.
func NewSecrets(cleaner *apikey.Cleaner, places []apikey.Place) Secrets {
	s := Secrets{cleaner, make([]place, len(places)), credentialOf(cleaner)}
	for i, p := range places {
		s.places[i] = place{p, p.Header()}
	}
	return s
}

// And returns secrets that know the keys of s and of t.
func (s Secrets) And(t Secrets) Secrets {
	cleaner := s.cleaner.With(t.cleaner)
	out := Secrets{cleaner, slices.Clone(s.places), credentialOf(cleaner)}
	for _, p := range t.places {
		if !slices.Contains(out.places, p) {
			out.places = append(out.places, p)
		}
	}
	return out
}

// credentialOf returns a function that reduces a text in a key's place to the part that may be shown: as much as of any
// key, and nothing of a text of another shape.
func credentialOf(cleaner *apikey.Cleaner) func(string) string {
	return func(t string) string {
		if t == "" {
			return t
		}
		if c := cleaner.Clean(t); c != t {
			return c
		}
		return redacted
	}
}

// Text returns t without keys, t itself where there are none.
func (s *Secrets) Text(t string) string { return s.cleaner.Clean(t) }

// uri cleans a request target, its query's credentials included.
func (s *Secrets) uri(uri string) string { return s.Text(s.query(uri)) }

// query cleans the credentials in the query of a request target.
func (s *Secrets) query(uri string) string {
	for i := range s.places {
		if s.places[i].header != "" {
			continue
		}
		at := strings.IndexByte(uri, '?')
		if at < 0 {
			break
		}
		if query := s.places[i].Map(uri[at+1:], s.credential); query != uri[at+1:] {
			uri = uri[:at+1] + query
		}
	}
	return uri
}

// requestHeader returns h without keys in names and values, h itself where there are none.
func (s *Secrets) requestHeader(h http.Header) http.Header { return s.cleanHeader(h, true) }

// inPlaces returns a value of a request's header without the credentials that stand in places of keys.
func (s *Secrets) inPlaces(name, v string) string {
	for i := range s.places {
		if p := &s.places[i]; p.header == name {
			v = p.Map(v, s.credential)
		}
	}
	return v
}

// values returns values without keys of a known shape, values itself where there are none.
func (s *Secrets) values(values []string) []string { return s.cleanValues("", values, false) }

// cleanValues returns a header's values without keys of a known shape and, of a request's header, without the
// credentials that stand in places of keys; values itself where there are none.
func (s *Secrets) cleanValues(name string, values []string, ofRequest bool) []string {
	out := values
	for i, v := range values {
		c := v
		switch {
		case i > 0 && v == values[i-1]:
			c = out[i-1] // HTTP/2 repeats a value for a byte
		case ofRequest:
			c = s.Text(s.inPlaces(name, v))
		default:
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

// header returns h without keys of a known shape, h itself where there are none.
func (s *Secrets) header(h http.Header) http.Header { return s.cleanHeader(h, false) }

// cleanHeader returns h with clean names and, by cleanValues, clean values; h itself where all are clean.
func (s *Secrets) cleanHeader(h http.Header, ofRequest bool) http.Header {
	out, copied := h, false
	for name, values := range h {
		safe := s.cleanValues(name, values, ofRequest)
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
