package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
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
	clean  []func(string) string
	places []apikey.Place
}

// and returns what both know.
func (s logSecrets) and(t logSecrets) logSecrets {
	return logSecrets{append(slices.Clone(s.clean), t.clean...), append(slices.Clone(s.places), t.places...)}
}

// text returns t without keys; t itself where there are none.
func (s *logSecrets) text(t string) string {
	if t == "" {
		return t
	}
	for _, clean := range s.clean {
		t = clean(t)
	}
	return t
}

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
func (s *logSecrets) uri(uri string) string {
	for _, p := range s.places {
		if p.Kind == apikey.InQuery {
			uri = s.query(uri, p.Name)
		}
	}
	return s.text(uri)
}

func (s *logSecrets) query(uri, name string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		k, v, _ := strings.Cut(pair, "=")
		if k2, err := url.QueryUnescape(k); err == nil && k2 == name && v != "" {
			pairs[i] = k + "=" + s.credential(v)
		}
	}
	return path + "?" + strings.Join(pairs, "&")
}

// requestHeader returns h without keys, h itself where there are none. Names are
// cleaned too.
func (s *logSecrets) requestHeader(h http.Header) http.Header {
	out, copied := h, false
	for name, values := range h {
		for i, v := range values {
			c := s.headerValue(name, v)
			if c == v {
				continue
			}
			if !copied {
				out, copied = h.Clone(), true
			}
			out[name][i] = c
		}
	}
	return s.header(out)
}

// headerValue returns a value of a request's header without keys.
func (s *logSecrets) headerValue(name, v string) string {
	for i := range s.places {
		if p := &s.places[i]; headerOf(p) == name {
			v = s.held(p, v)
		}
	}
	return s.text(v)
}

// values returns values without keys of a known shape, values itself where there are none.
func (s *logSecrets) values(values []string) []string {
	out := values
	for i, v := range values {
		if c := s.text(v); c != v {
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
		pairs := strings.Split(v, ";")
		for i, pair := range pairs {
			if name, val, ok := strings.Cut(pair, "="); ok && strings.TrimSpace(name) == p.Name {
				pairs[i] = name + "=" + s.credential(val)
			}
		}
		return strings.Join(pairs, ";")
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
	for i, v := range values {
		if c := l.onward(v); c != v {
			values = slices.Clone(values)
			values[i] = c
			h[name] = values
		}
	}
}

// cleanURI takes keys out of what handlers behind this one log of r's URI. The URL stays,
// since it says what is asked for.
func (a *accessLog) cleanURI(r *http.Request) { r.RequestURI = a.secrets.uri(r.RequestURI) }
