package caddymodule

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// leakingLoggers returns the names, sorted, of the configuration's logs that would
// write an X-Api-Key header in clear when a request meets no keygate directive: those
// that take lines of the HTTP server and have no filter for it. It writes nothing. The
// configuration must be provisioned under ctx.
func leakingLoggers(ctx caddy.Context) []string {
	cfg, _ := unexported(reflect.ValueOf(&ctx).Elem(), "cfg").(*caddy.Config)
	if cfg == nil || cfg.Logging == nil {
		return nil
	}
	var leaking []string
	for name, log := range cfg.Logging.Logs {
		if takesRequests(name, log) && showsHeader(log) {
			leaking = append(leaking, name)
		}
	}
	slices.Sort(leaking)
	return leaking
}

// takesRequests says whether log takes lines that carry requests.
func takesRequests(name string, log *caddy.CustomLog) bool {
	core := (&caddy.Logging{Logs: map[string]*caddy.CustomLog{name: log}}).Logger(httpApp{}).Core()
	loggers := []string{"http.log.error", "http.log.access"}
	for _, included := range log.Include {
		// The log of one site: http.log.access.log0.
		if strings.HasPrefix(included, "http.") {
			loggers = append(loggers, included)
		}
	}
	return slices.ContainsFunc(loggers, func(logger string) bool {
		return core.Check(zapcore.Entry{LoggerName: logger, Level: zapcore.ErrorLevel}, nil) != nil
	})
}

// showsHeader says whether log's encoder, filters and all, lets the header through.
func showsHeader(log *caddy.CustomLog) bool {
	const probe = "0b9cf1c6d3a84e7fa1d25e06"
	enc, _ := unexported(reflect.ValueOf(&log.BaseLog).Elem(), "encoder").(zapcore.Encoder)
	if enc == nil {
		return false
	}
	// client_ip is looked for among the variables.
	vars := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{})
	req := &http.Request{Header: http.Header{"X-Api-Key": {probe}}}
	line, err := enc.Clone().EncodeEntry(zapcore.Entry{}, []zap.Field{
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: req.WithContext(vars)}),
	})
	if err != nil {
		return true
	}
	defer line.Free()
	return strings.Contains(line.String(), probe)
}
