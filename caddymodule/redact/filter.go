package redact

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

// LogFilter is a filter for a log field: it replaces each API key by the part that may be shown. It finds texts with a
// prefix and the shape of any configured keyspace's keys, and each text in a place of keys. Requests that reach the
// keygate directive are logged without keys in any case; the filter is for the others: a wrong host, a
// redirect, or another site.
//
//	log {
//		format filter {
//			request>uri     keygate
//			request>headers keygate
//			resp_headers    keygate
//		}
//	}
type LogFilter struct{}

// CaddyModule returns the module's ID and constructor.
func (LogFilter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.filter.keygate", New: func() caddy.Module { return new(LogFilter) }}
}

// UnmarshalCaddyfile reads the filter's name. It takes no arguments.
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
	// Keygate's own lines hold no keys of their keyspace, but may hold those of others.
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

// addresses returns h without the credentials in the queries of its headers that hold a URL, h itself where there are
// none. Keys that are known by their shape were taken out before.
func (s *Secrets) addresses(h http.Header) http.Header {
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

// cleanAddresses takes credentials out of the queries of f's values, where these are URLs.
func (f *loggedValues) cleanAddresses(s *Secrets) {
	if !slices.Contains(addressHeaders[:], f.name) {
		return
	}
	for i, v := range f.values {
		f.values[i] = s.query(v)
	}
}

// known are the keys that the modules of this package take out: those of every provisioned configuration, so of both
// while one replaces the other.
var known knownKeys

type knownKeys struct {
	mu     sync.Mutex
	owners map[any]Secrets
	merged atomic.Pointer[Secrets]
}

// usualPlaces are places of keys whatever the keyspaces state. Management tokens are known by their shape.
var usualPlaces = NewSecrets(management.TokenCleaner(), []apikey.Place{
	{Kind: apikey.InAuthorization, Name: "Bearer"},
	{Kind: apikey.InHeader, Name: "X-Api-Key"},
})

// secrets returns the keys that are known now. It does not block.
func (k *knownKeys) secrets() *Secrets {
	if s := k.merged.Load(); s != nil {
		return s
	}
	return &usualPlaces
}

// Register makes the keys of a configuration known to LogFilter, LogFormat and CleanSpans, until Unregister is called for
// the same owner.
func Register(owner any, keys Secrets) {
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.owners == nil {
		known.owners = make(map[any]Secrets)
	}
	known.owners[owner] = keys
	known.merge()
}

// Unregister undoes Register. owner may not have been registered.
func Unregister(owner any) {
	known.mu.Lock()
	defer known.mu.Unlock()
	delete(known.owners, owner)
	known.merge()
}

func (k *knownKeys) merge() {
	all := usualPlaces
	for _, s := range k.owners {
		all = s.And(all) // the only owner keeps its own cleaner, by which lines were cleaned already
	}
	k.merged.Store(&all)
}

var (
	_ logging.LogFieldFilter = LogFilter{}
	_ caddyfile.Unmarshaler  = LogFilter{}
)
