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

// LogFilter is a filter for a log field: it replaces each API key by its public part. It finds
// texts with the prefix and shape of any configured keyspace's keys, and every text in a place for
// keys. Requests that reach the keygate directive are always logged without keys. The filter is
// for all other requests: those with a wrong host, redirects, and other sites.
//
//	log {
//		format filter {
//			request>uri     keygate
//			request>headers keygate
//			resp_headers    keygate
//		}
//	}
type LogFilter struct{}

func (LogFilter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.filter.keygate", New: func() caddy.Module { return new(LogFilter) }}
}

// UnmarshalCaddyfile reads the filter's name, which has no arguments.
func (LogFilter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Filter returns the field without keys.
func (LogFilter) Filter(in zapcore.Field) zapcore.Field {
	s := known.secrets()
	switch h := in.Interface.(type) {
	case caddyhttp.LoggableHTTPHeader:
		h.Header = s.addresses(s.requestHeader(h.Header))
		in.Interface = h
		return in
	// A line of RequestLog holds no keys of its own keyspace, but it may hold keys of other
	// keyspaces.
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

// addressHeaders are headers whose value is a URL.
var addressHeaders = [...]string{"Referer", "Location", "Content-Location"}

// addresses returns h without credentials in the queries of URL headers, or h itself if there are
// none. Keys with a known shape must be removed before.
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

// cleanAddresses removes credentials from the queries of URLs in f's values.
func (f *loggedValues) cleanAddresses(s *Secrets) {
	if !slices.Contains(addressHeaders[:], f.name) {
		return
	}
	for i, v := range f.values {
		f.values[i] = s.query(v)
	}
}

// known holds the keys that the modules of this package remove: those of every provisioned
// configuration. While one configuration replaces another, it holds the keys of both.
var known knownKeys

type knownKeys struct {
	mu     sync.Mutex
	owners map[any]Secrets
	merged atomic.Pointer[Secrets]
}

// usualPlaces are places that are searched for keys whatever the keyspaces configure. Management
// tokens are found by their shape.
var usualPlaces = NewSecrets(management.TokenCleaner(), []apikey.Place{
	{Kind: apikey.InAuthorization, Name: "Bearer"},
	{Kind: apikey.InHeader, Name: "X-Api-Key"},
})

// secrets returns the keys that are registered now. It does not block.
func (k *knownKeys) secrets() *Secrets {
	if s := k.merged.Load(); s != nil {
		return s
	}
	return &usualPlaces
}

// Register makes LogFilter, LogFormat and CleanSpans remove a configuration's keys, until
// Unregister is called with the same owner.
func Register(owner any, keys Secrets) {
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.owners == nil {
		known.owners = make(map[any]Secrets)
	}
	known.owners[owner] = keys
	known.merge()
}

// Unregister undoes Register. It does nothing for an unknown owner.
func Unregister(owner any) {
	known.mu.Lock()
	defer known.mu.Unlock()
	delete(known.owners, owner)
	known.merge()
}

func (k *knownKeys) merge() {
	all := usualPlaces
	for _, s := range k.owners {
		// A single owner keeps its own cleaner, so that lines which this cleaner has cleaned are not searched again.
		all = s.And(all)
	}
	k.merged.Store(&all)
}

var (
	_ logging.LogFieldFilter = LogFilter{}
	_ caddyfile.Unmarshaler  = LogFilter{}
)
