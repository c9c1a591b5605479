package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/keygate-dev/keygate/caddymodule/config"
)

func registerHandler() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterDirective("keygate", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("keygate", httpcaddyfile.Before, "basic_auth")
}

// parseDirective makes the routes of a `keygate` directive.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	directives, err := config.ParseHandlerDirective(h)
	if err != nil {
		return nil, err
	}
	var routes []httpcaddyfile.ConfigValue
	for _, d := range directives {
		routes = append(routes, h.NewRoute(d.Matcher, &Handler{HandlerConfig: d.Config})...)
	}
	return routes, nil
}

func registerPaths() {
	caddy.RegisterModule(new(Paths))
	httpcaddyfile.RegisterDirective("keygate_paths", parsePathsRoute)
	httpcaddyfile.RegisterDirectiveOrder("keygate_paths", httpcaddyfile.Before, "rewrite")
}

// parsePathsRoute makes the route of a `keygate_paths` directive, which runs for every request of its site.
func parsePathsRoute(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	c, err := config.ParsePathsDirective(h)
	if err != nil {
		return nil, err
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: caddyhttp.Route{
		HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(&Paths{PathsConfig: *c}, "handler", "keygate_paths", nil)},
	}}}, nil
}
