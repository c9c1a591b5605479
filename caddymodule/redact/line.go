package redact

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// The objects in a log line have the same fields as caddyhttp.LoggableHTTPRequest and
// caddyhttp.LoggableHTTPHeader, but are written without copying the request or its header map.

// loggedRequest is the request in a log line. It holds no key.
type loggedRequest struct {
	remote, proto, method, host, uri string
	clientIP                         any
	header                           *loggedHeader
	transferEncoding                 []string
	tls                              *tls.ConnectionState
}

// request returns the field with the request as it arrived, without keys, in the form of Caddy's
// access log.
func (a *RequestLog) request(header *loggedHeader) zap.Field {
	s := &a.secrets
	if header == nil {
		header = newLoggedHeader(a.r.Header, a.server.Logs != nil && a.server.Logs.ShouldLogCredentials, s)
	}
	method, uri, remote := a.r.Method, a.r.RequestURI, a.r.RemoteAddr
	if o, ok := a.ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		method, uri, remote = o.Method, o.RequestURI, o.RemoteAddr
	}
	req := &loggedRequest{
		remote:           remote,
		proto:            a.r.Proto,
		method:           s.Text(method),
		host:             s.Text(a.r.Host),
		uri:              a.URI(uri),
		clientIP:         a.vars[caddyhttp.ClientIPVarKey],
		header:           header,
		transferEncoding: a.r.TransferEncoding,
	}
	if a.r.TLS != nil {
		state := *a.r.TLS
		state.ServerName = s.Text(state.ServerName)
		req.tls = &state
	}
	return zap.Object("request", req)
}

func (r *loggedRequest) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	ip, port, err := net.SplitHostPort(r.remote)
	if err != nil {
		ip, port = r.remote, ""
	}
	enc.AddString("remote_ip", ip)
	enc.AddString("remote_port", port)
	if ip, ok := r.clientIP.(string); ok {
		enc.AddString("client_ip", ip)
	}
	enc.AddString("proto", r.proto)
	enc.AddString("method", r.method)
	enc.AddString("host", r.host)
	enc.AddString("uri", r.uri)
	_ = enc.AddObject("headers", r.header)
	if r.transferEncoding != nil {
		_ = enc.AddArray("transfer_encoding", caddyhttp.LoggableStringArray(r.transferEncoding))
	}
	if r.tls != nil {
		_ = enc.AddObject("tls", caddyhttp.LoggableTLSConnState(*r.tls))
	}
	return nil
}

// loggedHeader is a request's header in a log line, in no particular order. It holds no key.
type loggedHeader struct {
	fields []loggedValues
	// cleaner is the cleaner that removed keys from the header last.
	cleaner *apikey.Cleaner
	// suspects are the names of headers that held a key or were not searched for keys.
	suspects []string
	// few is the initial storage of suspects, which avoids an allocation. Nearly every request has
	// one suspect.
	few [2]string
}

type loggedValues struct {
	name   string
	values []string
}

// redactedValues replaces the values of headers with credentials, as in Caddy's log.
var redactedValues = []string{redacted}

// newLoggedHeader returns a copy of h for a log line, so that h may change later. Credentials that
// are not keys are shown only if credentials is true.
func newLoggedHeader(h http.Header, credentials bool, s *Secrets) *loggedHeader {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	out, room := &loggedHeader{fields: make([]loggedValues, 0, len(h))}, make([]string, 0, n)
	out.suspects = out.few[:0]
	for name, values := range h {
		if !credentials && isCredentialHeader(name) {
			out.fields = append(out.fields, loggedValues{name, redactedValues})
			out.suspects = append(out.suspects, name)
			continue
		}
		from := len(room)
		room = append(room, values...)
		out.fields = append(out.fields, loggedValues{name, room[from:len(room):len(room)]})
	}
	out.clean(s)
	return out
}

// clean removes the keys that s knows. It searches no text again that the same cleaner has
// searched.
func (h *loggedHeader) clean(s *Secrets) {
	known := h.cleaner == s.cleaner
	h.cleaner = s.cleaner
	for i := range h.fields {
		f := &h.fields[i]
		before, after, suspect := "", "", false
		for k, v := range f.values {
			if k == 0 || v != before {
				before, after = v, s.inPlaces(f.name, v)
				if !known {
					after = s.Text(after)
				}
			}
			if after != v {
				f.values[k], suspect = after, true
			}
		}
		if suspect {
			h.suspects = append(h.suspects, f.name)
		}
		if !known {
			f.name = s.Text(f.name)
		}
	}
}

func (h *loggedHeader) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	for i := range h.fields {
		_ = enc.AddArray(h.fields[i].name, caddyhttp.LoggableStringArray(h.fields[i].values))
	}
	return nil
}

// loggedResponse is the response header of a RequestLog in a log line.
type loggedResponse RequestLog

func (r *loggedResponse) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if r.w == nil {
		return nil
	}
	credentials := r.server.Logs.ShouldLogCredentials
	for name, values := range r.w.Header() {
		if !credentials && isCredentialHeader(name) {
			values = redactedValues
		} else {
			values = r.secrets.values(values)
		}
		_ = enc.AddArray(r.secrets.Text(name), caddyhttp.LoggableStringArray(values))
	}
	return nil
}

// header returns the response's header without keys: those of the RequestLog and those that s
// knows.
func (r *loggedResponse) header(s *Secrets) http.Header {
	if r.w == nil {
		return nil
	}
	h := r.w.Header()
	if r.secrets.cleaner != s.cleaner {
		h = r.secrets.header(h)
	}
	return s.requestHeader(h)
}

// isCredentialHeader reports whether Caddy replaces the header's values in logs.
func isCredentialHeader(name string) bool {
	switch len(name) {
	case len("Cookie"):
		return strings.EqualFold(name, "Cookie")
	case len("Set-Cookie"):
		return strings.EqualFold(name, "Set-Cookie")
	case len("Authorization"):
		return strings.EqualFold(name, "Authorization")
	case len("Proxy-Authorization"):
		return strings.EqualFold(name, "Proxy-Authorization")
	}
	return false
}
