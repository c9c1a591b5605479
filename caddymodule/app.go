package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keygate-dev/keygate/caddymodule/version"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/keygate-dev/keygate/caddymodule/checkup"
	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/caddymodule/sites"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/leak"
)

// App is the keygate app. It keeps the engine running over reloads.
type App struct {
	config.Config

	// compiled is the checked configuration, with its placeholders expanded.
	compiled *config.Compiled

	ctx     caddy.Context
	log     *slog.Logger
	metrics *metrics
	// refusals are the responses to rejected requests, by keyspace.
	refusals map[string]*refusals
	// gitHubKeys verify GitHub's reports of leaks; nil if reports are not accepted.
	gitHubKeys *leak.Keys
	// events is Caddy's events app. It accepts no more subscriptions after the configuration
	// became active.
	events    *caddyevents.App
	wasActive atomic.Bool
	// pooled is the engine's key in the pool; empty if no engine is taken.
	pooled string
	engine *engine.Engine
	// config is this configuration in the form that the engine uses.
	config *engine.Config
	// gateway is the engine's gateway, which handlers use.
	gateway  *cluster.Member
	stopping atomic.Bool

	hashOnce sync.Once
	hashed   string

	rulesMu sync.Mutex
	rules   map[string][]*pathRules
}

func registerApp() {
	caddy.RegisterModule(new(App))
	httpcaddyfile.RegisterGlobalOption(config.AppName, config.ParseGlobalOption)
}

func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: config.AppName, New: func() caddy.Module { return new(App) }}
}

// Provision checks and compiles the configuration and takes the engine of its store from the pool.
// It opens no store and no connection, so that validating a configuration has no effects. But if Caddy starts the
// configuration, Provision makes the process the owner of an SQLite file, or waits for the owner, because sites must not
// listen before that.
func (a *App) Provision(ctx caddy.Context) (err error) {
	a.ctx, a.log = ctx, ctx.Slogger()
	if err := checkCaddy(); err != nil {
		return err
	}
	if a.compiled, err = a.Config.Build(caddy.NewReplacer()); err != nil {
		return err
	}
	a.refusals = make(map[string]*refusals, len(a.compiled.Keyspaces))
	for name, ks := range a.compiled.Keyspaces {
		a.refusals[name] = refusalsOf(ks)
	}
	if a.gitHubKeys, err = a.Leaks.Load(caddy.NewReplacer()); err != nil {
		return err
	}
	eventsApp, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	a.events = eventsApp.(*caddyevents.App)
	if a.metrics, err = newMetrics(ctx.GetMetricsRegistry(), a.compiled.View); err != nil {
		return err
	}
	if err := a.takeEngine(); err != nil {
		return fmt.Errorf("creating the engine: %w", err)
	}
	if sites.Starts(ctx) {
		if err := a.engine.Own(ctx); err != nil {
			return err
		}
	}
	redact.Register(a, a.logSecrets())
	return nil
}

// checkCaddy is a variable so that tests can replace it.
var checkCaddy = redact.CheckCaddy

// logSecrets returns the shapes of the keys of all keyspaces. Texts of these shapes must not appear in logs.
func (a *App) logSecrets() redact.Secrets {
	s := redact.NewSecrets(a.compiled.Cleaner, nil)
	for _, ks := range a.compiled.Keyspaces {
		s = s.And(redact.NewSecrets(a.compiled.Cleaner, ks.Places.List()))
	}
	return s
}

// Start opens the store, unless it is open already, and verifies that the store fits this
// configuration. After an error nothing has changed, and the running configuration stays in
// effect.
func (a *App) Start() error {
	check := checkup.New(a.ctx, a.log, a.compiled)
	if err := check.RejectDropped(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, startTimeout+a.compiled.Target().Wait) // the owner is awaited here without an admin endpoint
	defer cancel()
	// Sites may already serve requests, so the removal of keys from spans begins before anything slow.
	check.CleanTraces()
	if err := a.engine.Apply(ctx, a.config); err != nil {
		return err
	}
	check.Warn()
	return nil
}

// Stop makes health checks report that this configuration is not ready. The engine keeps running:
// requests of this configuration may still be in progress, and another configuration may use the
// engine.
func (a *App) Stop() error {
	a.stopping.Store(true)
	a.engine.Retire(a.config)
	return nil
}

// Cleanup releases the engine. The pool closes the engine after its last configuration has
// released it.
func (a *App) Cleanup() error {
	if a.pooled == "" {
		return nil
	}
	redact.Unregister(a)
	a.engine.Retire(a.config) // needed if Start failed or was not called
	key := a.pooled
	a.pooled = ""
	_, err := engines.Delete(key)
	return err
}

// Ready reports whether the gateway can check keys of at least one keyspace under this
// configuration.
func (a *App) Ready() bool { return a.gateway.Ready() && !a.stopping.Load() }

// ReadyFor reports whether the gateway can check a keyspace's keys under this configuration; ""
// means any keyspace.
func (a *App) ReadyFor(keyspace string) bool {
	return a.Ready() && (keyspace == "" || a.gateway.ReadyFor(keyspace))
}

// configuredApp returns the keygate app of the configuration of ctx.
func configuredApp(ctx caddy.Context) (*App, error) { return config.FindApp[*App](ctx) }

func (a *App) Context() caddy.Context { return a.ctx }

func (a *App) Log() *slog.Logger { return a.log }

func (a *App) Compiled() *config.Compiled { return a.compiled }

func (a *App) Engine() *engine.Engine { return a.engine }

func (a *App) GitHubKeys() *leak.Keys { return a.gitHubKeys }

func (a *App) Verifier() inspect.Checker {
	return &verifier{a}
}

// addRules adds the path rules of a handler to the rules that verify and explain apply to requests of a keyspace.
func (a *App) addRules(keyspace string, r *pathRules) {
	a.rulesMu.Lock()
	defer a.rulesMu.Unlock()
	if a.rules == nil {
		a.rules = make(map[string][]*pathRules)
	}
	a.rules[keyspace] = append(a.rules[keyspace], r)
}

// rulesOf returns the rules of all handlers of a keyspace.
func (a *App) rulesOf(keyspace string) []*pathRules {
	a.rulesMu.Lock()
	defer a.rulesMu.Unlock()
	return a.rules[keyspace]
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ sites.App          = (*App)(nil)
)

// ConfigHash returns the hash of the configuration. The hash is computed at the first call.
func (a *App) ConfigHash() string {
	a.hashOnce.Do(func() { a.hashed = a.Config.ConfigHash() })
	return a.hashed
}

// logReady logs that the gateway now checks keys with this configuration. The line names the
// version and the store; the path of an SQLite file is absolute.
func (a *App) logReady() {
	store := a.compiled.Path
	if a.Store != nil && a.Store.Type == config.StorePostgres {
		store = config.StorePostgres + " " + store
	} else {
		store = config.StoreSQLite + " " + store
	}
	names := slices.Sorted(maps.Keys(a.compiled.Keyspaces))
	var plans []string
	for _, name := range names {
		for _, plan := range a.compiled.Keyspaces[name].PlanOrder {
			plans = append(plans, name+"/"+plan)
		}
	}
	a.log.Info("keygate is ready", "version", version.String(), "store", store, "limits", a.LimitsKind(), "keyspaces", names, "plans", plans)
}
