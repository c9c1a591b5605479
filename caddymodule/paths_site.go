package caddymodule

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Paths gives the paths of all requests of a site their canonical form, and rejects ambiguous
// ones, before Caddy chooses a handle block by path. A keygate directive does the same for the
// requests that reach it.
type Paths struct {
	config.PathsConfig

	app  *App
	read *pathReader
	logs *redact.Logs
	// counted is the keyspace in whose metrics rejections are counted; nil if there are several
	// keyspaces.
	counted *config.Keyspace
	refuser
}

func (*Paths) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate_paths", New: func() caddy.Module { return new(Paths) }}
}

func (p *Paths) Provision(ctx caddy.Context) error {
	app, err := configuredApp(ctx)
	if err != nil {
		return err
	}
	p.app, p.refuser.ctx = app, ctx
	paths, err := config.CompilePaths(p.PathsConfig.PathsConfig)
	if err != nil {
		return err
	}
	name := p.Keyspace
	if name == "" && len(app.compiled.Keyspaces) == 1 {
		for only := range app.compiled.Keyspaces {
			name = only
		}
	}
	if name == "" {
		words, err := (*config.ErrorsConfig)(nil).Compile()
		if err != nil {
			return err
		}
		p.refusals = newRefusals(config.StyleProblem, config.DefaultRealm(config.DefaultKeyspace), &words)
	} else {
		if name, err = app.Resolve(name); err != nil {
			return err
		}
		p.counted = app.compiled.Keyspaces[name]
		p.refusals = app.refusals[name]
	}
	var places []apikey.Place
	for _, ks := range slices.Sorted(maps.Keys(app.compiled.Keyspaces)) {
		places = append(places, app.compiled.Keyspaces[ks].Places.List()...)
	}
	p.logs = redact.NewLogs(ctx, redact.NewSecrets(app.compiled.Cleaner, places), nil)
	p.read = newPathReader(paths.Canonicalize, app.compiled.Cleaner.Clean, ctx.Slogger(), name)
	return nil
}

func (p *Paths) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	began := time.Now()
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	path := p.read.canonicalize(r, vars)
	if !path.Rejected() {
		return next.ServeHTTP(w, r)
	}
	log := redact.Begin(p.logs, r)
	defer log.End(w)
	shareState(log, new(directiveState)).checked = true
	stripIdentity(log, r, allOverrides)
	removeUpgrade(r)
	for _, ks := range p.app.compiled.Keyspaces {
		emptyCredentials(ks, r, true)
	}
	log.CleanURI(r)
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
