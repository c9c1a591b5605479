// Package caddymodule mounts Keygate in Caddy. It is the only package here that
// imports Caddy: it parses the configuration, compiles it into what the engine of
// plugin/gateway understands, carries requests to that engine, and keeps the engine
// alive from one configuration to the next. Nothing is decided in it.
//
//	keygate          the app: store, peppers, keyspaces, plans        app.go, config.go
//	http.handlers.keygate         judges requests                     handler.go, config_handler.go
//	http.handlers.keygate_paths   gives paths one form                paths_site.go
//	http.handlers.keygate_health  says whether keys can be judged     health.go
//	http.handlers.keygate_api     the management API on a site        api_site.go
//	http.handlers.keygate_console the web console of a keyspace       console_site.go
//	caddy.logging.encoders.filter.keygate  keeps keys out of logs    redact
//	caddy.logging.encoders.keygate         the same for all fields   redact
//	admin.api.keygate             the management API, for this machine  admin.go
//	caddy keygate …               commands over that API              command*.go
//
// A configuration comes as a Caddyfile (caddyfile*.go) or as JSON. Both end in the
// same structs, which config*.go documents field by field, and both are judged by the
// same code, compile*.go: what differs is only that a Caddyfile's errors name a line.
package caddymodule

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/cli"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/caddymodule/sites"
)

// init registers everything this package brings to Caddy, one line each, in the
// file that holds the thing. The order of directives matters: each is put directly
// before basic_auth but the console, so one that is registered earlier also runs earlier.
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
