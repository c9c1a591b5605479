// Package caddymodule mounts Keygate in Caddy. It and its subpackages are the only code that
// imports Caddy.
//
// This package holds the app and the path of a request. The app keeps the engine running over
// reloads:
//
//	keygate                       the app                                  app.go, engine.go
//	http.handlers.keygate         checks requests                          handler.go, exchange.go
//	http.handlers.keygate_paths   gives paths their canonical form         paths_site.go
//
// Its subpackages hold the rest:
//
//	config    the configuration, from a Caddyfile or JSON, and its errors
//	sites     keygate_api, keygate_console, keygate_health and the API on Caddy's admin endpoint
//	cli       the command `caddy keygate`
//	checkup   warnings at the start
//	redact    keeps keys out of logs and traces
//	adminapi  names and types shared by the admin endpoint and the commands
//	version   the versions in this program
package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"

	"github.com/keygate-dev/keygate/caddymodule/cli"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/caddymodule/sites"
)

// init registers all modules, directives and commands with Caddy, one line each. The registering
// functions are in the files of what they register. Their order matters: each directive except the
// console is put directly before basic_auth, so a directive that is registered earlier also runs
// earlier.
func init() {
	registerApp()
	sites.RegisterHealth()
	sites.RegisterAPI()
	sites.RegisterConsole()
	registerHandler()
	registerPaths()
	caddy.RegisterModule(redact.LogFilter{})
	caddy.RegisterModule(new(redact.LogFormat))
	sites.RegisterAdmin()
	cli.Register()
}

func registerHandler() {
	caddy.RegisterModule(new(Handler))
	httpcaddyfile.RegisterDirective("keygate", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("keygate", httpcaddyfile.Before, "basic_auth")
}

// parseDirective returns the routes of a `keygate` directive.
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

// parsePathsRoute returns the route of a `keygate_paths` directive, which handles every request of
// its site.
func parsePathsRoute(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	c, err := config.ParsePathsDirective(h)
	if err != nil {
		return nil, err
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: caddyhttp.Route{
		HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(&Paths{PathsConfig: *c}, "handler", "keygate_paths", nil)},
	}}}, nil
}
