package redact

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"
)

// LogFormat is a log format that writes no API key: Caddy's filter format with LogFilter on each field in
// which a key can be. It takes the options of the filter format, such as another format to wrap.
//
//	log {
//		format keygate
//	}
type LogFormat struct{ logging.FilterEncoder }

// filteredFields are the fields of requests, of requests to the admin endpoint, and of lines of level DEBUG.
var filteredFields = append([]string{
	"request>method", "request>host", "request>uri", "request>headers", "request>tls>server_name", "resp_headers",
	"method", "host", "uri", "headers", "env",
}, debugFields[:]...)

// CaddyModule returns the module's ID and constructor.
func (*LogFormat) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.keygate", New: func() caddy.Module { return new(LogFormat) }}
}

// Provision sets up f. A filter that the configuration states for a field stays.
func (f *LogFormat) Provision(ctx caddy.Context) error {
	if err := f.FilterEncoder.Provision(ctx); err != nil {
		return err
	}
	for _, field := range filteredFields {
		if f.Fields[field] == nil {
			f.Fields[field] = LogFilter{}
		}
	}
	return nil
}

var (
	_ caddy.Provisioner                = (*LogFormat)(nil)
	_ caddyfile.Unmarshaler            = (*LogFormat)(nil)
	_ caddy.ConfiguresFormatterDefault = (*LogFormat)(nil)
	_ zapcore.Encoder                  = (*LogFormat)(nil)
)
