package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Paths gives the paths of all requests of a site their canonical form and rejects those that are
// ambiguous, before Caddy chooses a handle block by them. A keygate directive does the same for the
// requests that reach it.
type Paths struct {
	// Keyspace in whose words requests are rejected. Default: the only keyspace where there is one,
	// else problem details.
	Keyspace string `json:"keyspace,omitempty"`
	rules.PathsConfig

	app  *App
	read *pathReader
	logs *requestLogs
	// counted is the keyspace that rejections are counted for; nil where there are several.
	counted *keyspace
	refuser
}

func registerPaths() {
	caddy.RegisterModule(new(Paths))
	httpcaddyfile.RegisterDirective("keygate_paths", parsePathsDirective)
	httpcaddyfile.RegisterDirectiveOrder("keygate_paths", httpcaddyfile.Before, "rewrite")
}

// CaddyModule returns the Caddy module information.
func (*Paths) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate_paths", New: func() caddy.Module { return new(Paths) }}
}

// parsePathsDirective reads the directive `keygate_paths`, which takes no matcher:
//
//	keygate_paths [<keyspace>] {
//		allow   encoded_slash|parameters <path>...   repeatable
//		as_sent <path>...                            repeatable
//		report
//	}
func parsePathsDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // consume the directive's name
	p := new(Paths)
	l := make(lines)
	l.note("keyspace", h.Dispenser)
	at := *h.Dispenser
	names, err := args(h.Dispenser, 0, 1, "keygate_paths [<keyspace>] { … }")
	if err != nil {
		return nil, err
	}
	if len(names) == 1 {
		if strings.ContainsAny(names[0][:1], "/@*") {
			return nil, at.Errf("keygate_paths takes no matcher: it holds for the whole site; state exceptions inside its block, such as 'as_sent %s'", "/s3/*")
		}
		p.Keyspace = names[0]
	}
	app, err := optionApp(h)
	if err != nil {
		return nil, err
	}
	if app == nil {
		return nil, at.Err("keygate_paths needs the global option keygate { … }")
	}
	if p.Keyspace != "" {
		if _, err := app.resolve(p.Keyspace); err != nil {
			return nil, at.WrapErr(err)
		}
	}
	if err := block(h.Dispenser, "keygate_paths", pathsOptions(l, &p.PathsConfig)); err != nil {
		return nil, err
	}
	if _, err := compilePaths(p.PathsConfig); err != nil {
		return nil, l.locate(&at, err)
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: caddyhttp.Route{
		HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(p, "handler", "keygate_paths", nil)},
	}}}, nil
}

// compilePaths compiles c. Errors are fieldErrors.
func compilePaths(c rules.PathsConfig) (*rules.Paths, error) {
	set, err := (&HandlerConfig{Config: rules.Config{Paths: c}}).compileRules(nil)
	if err != nil {
		return nil, err
	}
	return set.Paths, nil
}

// Provision sets up p.
func (p *Paths) Provision(ctx caddy.Context) error {
	app, err := configuredApp(ctx)
	if err != nil {
		return err
	}
	p.app, p.refuser.ctx = app, ctx
	paths, err := compilePaths(p.PathsConfig)
	if err != nil {
		return err
	}
	name := p.Keyspace
	if name == "" && len(app.keyspaces) == 1 {
		for only := range app.keyspaces {
			name = only
		}
	}
	if name == "" {
		words, err := (*ErrorsConfig)(nil).compile()
		if err != nil {
			return err
		}
		p.refusals = newRefusals(styleProblem, defaultRealm(defaultKeyspace), &words)
	} else {
		if name, err = app.resolve(name); err != nil {
			return err
		}
		p.counted = app.keyspaces[name]
		p.refusals = app.refusals[name]
	}
	var places []apikey.Place
	for _, ks := range slices.Sorted(maps.Keys(app.keyspaces)) {
		places = append(places, app.keyspaces[ks].Places.List()...)
	}
	p.logs = newRequestLogs(ctx, app.cleaner, places)
	p.read = newPathReader(paths.Read, app.cleaner.Clean, ctx.Slogger(), name)
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (p *Paths) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	began := time.Now()
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	path := p.read.canonicalize(r, vars)
	if !path.Rejected() {
		return next.ServeHTTP(w, r)
	}
	log := beginAccessLog(p.logs, r)
	defer log.end(w)
	log.noteJudged()
	log.strip(r, allOverrides)
	removeUpgrade(r)
	for _, ks := range p.app.keyspaces {
		ks.empty(r, true)
	}
	log.cleanURI(r)
	if p.counted != nil {
		p.app.metrics.observe(p.counted.Keyspace, "", gateway.AmbiguousPath, time.Since(began))
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("keygate.reason", gateway.AmbiguousPath.String())
	}
	return p.answerRefusal(w, r, &refusal{reason: gateway.AmbiguousPath})
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Paths)(nil)
	_ caddyhttp.MiddlewareHandler = (*Paths)(nil)
)
