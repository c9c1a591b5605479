package caddymodule

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

// The objects in a line are written as caddyhttp.LoggableHTTPRequest and
// caddyhttp.LoggableHTTPHeader write them, field by field, but from what is kept of a request and
// without keys: neither a copy of the request nor one of its header map is made for that.

// loggedRequest is a request as lines show it. It holds no key.
type loggedRequest struct {
	remote, proto, method, host, uri string
	clientIP                         any
	header                           *loggedHeader
	transferEncoding                 []string
	tls                              *tls.ConnectionState
}

// request is the request as Caddy logs it: as it arrived, but for its keys.
func (a *accessLog) request(header *loggedHeader) zap.Field {
	s := &a.secrets
	if header == nil {
		header = loggedHeaderOf(a.r.Header, a.server.Logs != nil && a.server.Logs.ShouldLogCredentials, s)
	}
	method, uri, remote := a.r.Method, a.r.RequestURI, a.r.RemoteAddr
	if o, ok := a.ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		method, uri, remote = o.Method, o.RequestURI, o.RemoteAddr
	}
	req := &loggedRequest{
		remote:           remote,
		proto:            a.r.Proto,
		method:           s.text(method),
		host:             s.text(a.r.Host),
		uri:              a.uri(uri),
		clientIP:         a.vars[caddyhttp.ClientIPVarKey],
		header:           header,
		transferEncoding: a.r.TransferEncoding,
	}
	if a.r.TLS != nil {
		state := *a.r.TLS
		state.ServerName = s.text(state.ServerName)
		req.tls = &state
	}
	return zap.Object("request", req)
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
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

// loggedHeader is a request's header as lines show it, in no order. It holds no key.
type loggedHeader struct {
	fields []loggedValues
	// cleaner is that by which it holds no key.
	cleaner *apikey.Cleaner
	// suspects are the names of those headers that hold a key, or of which that is not known.
	suspects []string
	// few is room for suspects: nearly always there is one.
	few [2]string
}

type loggedValues struct {
	name   string
	values []string
}

// redactedValues are what Caddy shows of headers that hold credentials.
var redactedValues = []string{redacted}

// loggedHeaderOf returns what is to be logged of h, which may change from then on. Credentials are shown, as far
// as they are no keys, only where that is asked for.
func loggedHeaderOf(h http.Header, credentials bool, s *logSecrets) *loggedHeader {
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

// clean takes the keys out that s knows. What was cleaned by the same cleaner it does not read again.
func (h *loggedHeader) clean(s *logSecrets) {
	known := h.cleaner == s.cleaner
	h.cleaner = s.cleaner
	for i := range h.fields {
		f := &h.fields[i]
		before, after, suspect := "", "", false
		for k, v := range f.values {
			if k == 0 || v != before {
				before, after = v, s.inPlaces(f.name, v)
				if !known {
					after = s.text(after)
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
			f.name = s.text(f.name)
		}
	}
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (h *loggedHeader) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	for i := range h.fields {
		_ = enc.AddArray(h.fields[i].name, caddyhttp.LoggableStringArray(h.fields[i].values))
	}
	return nil
}

// loggedResponse is the header of an accessLog's response as lines show it.
type loggedResponse accessLog

// MarshalLogObject implements zapcore.ObjectMarshaler.
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
		_ = enc.AddArray(r.secrets.text(name), caddyhttp.LoggableStringArray(values))
	}
	return nil
}

// header returns the response's header without keys, those that s knows included.
func (r *loggedResponse) header(s *logSecrets) http.Header {
	if r.w == nil {
		return nil
	}
	h := r.w.Header()
	if r.secrets.cleaner != s.cleaner {
		h = r.secrets.header(h)
	}
	return s.requestHeader(h)
}

// isCredentialHeader says whether Caddy hides the values of a header of that name.
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
