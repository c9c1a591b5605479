package redact

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"
)

// LogFormat is a log format without API keys: Caddy's filter format with LogFilter for each field
// that can hold a key. It accepts the options of the filter format, such as another format to
// wrap.
//
//	log {
//		format keygate
//	}
type LogFormat struct{ logging.FilterEncoder }

// filteredFields are the fields that get the filter: those of requests, of requests to the admin
// endpoint, and of lines at level DEBUG.
var filteredFields = append([]string{
	"request>method", "request>host", "request>uri", "request>headers", "request>tls>server_name", "resp_headers",
	"method", "host", "uri", "headers", "env",
}, debugFields[:]...)

func (*LogFormat) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.keygate", New: func() caddy.Module { return new(LogFormat) }}
}

// Provision adds a LogFilter to each field that has no filter in the configuration.
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
