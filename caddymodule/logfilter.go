package caddymodule

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/management"
)

// LogFilter writes what of an API key may be shown in place of the key, in the log field
// it is put on: what has a prefix and the shape of any configured keyspace's keys, and
// whatever stands where keys do. Requests that reach the keygate directive are logged
// without keys in any case; this is for the others, a wrong host, a redirect or another site:
//
//	log {
//		format filter {
//			request>uri     keygate
//			request>headers keygate
//			resp_headers    keygate
//		}
//	}
type LogFilter struct{}

func registerLogFilter() { caddy.RegisterModule(LogFilter{}) }

// CaddyModule returns the module's ID and constructor.
func (LogFilter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.filter.keygate", New: func() caddy.Module { return new(LogFilter) }}
}

// UnmarshalCaddyfile reads the filter's name, after which nothing may stand.
func (LogFilter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Filter implements logging.LogFieldFilter.
func (LogFilter) Filter(in zapcore.Field) zapcore.Field {
	s := known.secrets()
	switch h := in.Interface.(type) {
	case caddyhttp.LoggableHTTPHeader:
		h.Header = s.addresses(s.requestHeader(h.Header))
		in.Interface = h
		return in
	// Lines of our own are without their keyspace's keys already, but not without those of others.
	case *loggedHeader:
		h.clean(s)
		for i := range h.fields {
			h.fields[i].cleanAddresses(s)
		}
		return in
	case *loggedResponse:
		in.Interface = caddyhttp.LoggableHTTPHeader{
			Header:               s.addresses(h.header(s)),
			ShouldLogCredentials: h.server.Logs.ShouldLogCredentials,
		}
		return in
	}
	if in.Type == zapcore.StringType {
		in.String = s.uri(in.String)
		return in
	}
	return s.field(in)
}

// addressHeaders hold URLs.
var addressHeaders = [...]string{"Referer", "Location", "Content-Location"}

// addresses returns h without the credentials in the queries of its headers that hold a URL, h
// itself where there are none. Of keys that are told by their shape it is without already.
func (s *logSecrets) addresses(h http.Header) http.Header {
	out, copied := h, false
	for _, name := range addressHeaders {
		for i, v := range h[name] {
			c := s.query(v)
			if c == v {
				continue
			}
			if !copied {
				out, copied = h.Clone(), true
			}
			out[name][i] = c
		}
	}
	return out
}

// cleanAddresses takes keys out of the queries of f's values, where they are URLs.
func (f *loggedValues) cleanAddresses(s *logSecrets) {
	if !slices.Contains(addressHeaders[:], f.name) {
		return
	}
	for i, v := range f.values {
		f.values[i] = s.query(v)
	}
}

// known is what the filter goes by: the keyspaces of every configuration that is
// provisioned, so of both while one takes over from the other.
var known knownKeys

type knownKeys struct {
	mu     sync.Mutex
	apps   map[*App]logSecrets
	merged atomic.Pointer[logSecrets]
}

// usualPlaces are where keys stand whatever a keyspace says; management tokens are told anywhere.
var usualPlaces = logSecrets{
	cleaner: management.TokenCleaner(),
	places: []apikey.Place{
		{Kind: apikey.InAuthorization, Name: "Bearer"},
		{Kind: apikey.InHeader, Name: "X-Api-Key"},
	},
}

// secrets returns what is known now. It does not block.
func (k *knownKeys) secrets() *logSecrets {
	if s := k.merged.Load(); s != nil {
		return s
	}
	return &usualPlaces
}

// add makes a's keyspaces known.
func (k *knownKeys) add(a *App) {
	s := logSecrets{cleaner: a.cleaner}
	for _, ks := range a.keyspaces {
		s = s.and(logSecrets{a.cleaner, ks.Places.List()})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.apps == nil {
		k.apps = make(map[*App]logSecrets)
	}
	k.apps[a] = s
	k.merge()
}

// remove forgets a, which may not have been added.
func (k *knownKeys) remove(a *App) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.apps, a)
	k.merge()
}

func (k *knownKeys) merge() {
	all := usualPlaces
	for _, s := range k.apps {
		all = s.and(all) // its own cleaner, where it is the only one: lines are cleaned by that
	}
	k.merged.Store(&all)
}

var (
	_ logging.LogFieldFilter = LogFilter{}
	_ caddyfile.Unmarshaler  = LogFilter{}
)
