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

// Secrets finds keys in two ways: by their shape anywhere in a text, and by their place in a
// request, whatever their shape.
type Secrets struct {
	cleaner *apikey.Cleaner
	places  []place
	// credential is the result of credentialOf for the cleaner.
	credential func(string) string
}

// place is a place for keys, with the name of its header; "" for the query.
type place struct {
	apikey.Place
	header string
}

// NewSecrets returns the Secrets that finds keys with the shapes of cleaner, and texts in the
// places.
func NewSecrets(cleaner *apikey.Cleaner, places []apikey.Place) Secrets {
	s := Secrets{cleaner, make([]place, len(places)), credentialOf(cleaner)}
	for i, p := range places {
		s.places[i] = place{p, p.Header()}
	}
	return s
}

// And returns a Secrets that finds the keys of both s and t.
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

// credentialOf returns a function that reduces a text in a place for keys to its public part. Of a
// text without the shape of a key nothing is kept.
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

// Text returns t without keys, or t itself if it holds none.
func (s *Secrets) Text(t string) string { return s.cleaner.Clean(t) }

// uri returns a request target without keys and without credentials in its query.
func (s *Secrets) uri(uri string) string { return s.Text(s.query(uri)) }

// query returns a request target without credentials in its query.
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

// requestHeader returns h without keys in names and values, or h itself if it holds none.
func (s *Secrets) requestHeader(h http.Header) http.Header { return s.cleanHeader(h, true) }

// inPlaces returns the value of a request header without the credentials in places for keys.
func (s *Secrets) inPlaces(name, v string) string {
	for i := range s.places {
		if p := &s.places[i]; p.header == name {
			v = p.Map(v, s.credential)
		}
	}
	return v
}

// values returns values without keys of a known shape, or values itself if they hold none.
func (s *Secrets) values(values []string) []string { return s.cleanValues("", values, false) }

// cleanValues returns a header's values without keys of a known shape, or values itself if nothing
// changes. If ofRequest is true, it also removes the credentials in places for keys.
func (s *Secrets) cleanValues(name string, values []string, ofRequest bool) []string {
	out := values
	for i, v := range values {
		c := v
		switch {
		case i > 0 && v == values[i-1]:
			c = out[i-1] // A repeated value is cleaned only once, because HTTP/2 clients can repeat a value at the cost of one byte each.
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

// header returns h without keys of a known shape, or h itself if it holds none.
func (s *Secrets) header(h http.Header) http.Header { return s.cleanHeader(h, false) }

// cleanHeader returns h without keys in names and values, or h itself if it holds none. See
// cleanValues for ofRequest.
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

// field returns f without keys, or f itself if it holds none. Values other than strings are
// searched in their JSON form.
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
		// A value without a JSON form can't be searched, so the whole value is replaced.
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

// cleanForwarded removes keys from the values of a header that is forwarded to an upstream: see
// RequestLog.CleanHeader.
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
