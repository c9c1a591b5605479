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
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
)

// App is the keygate app. It owns the engine over reloads.
type App struct {
	config.Config

	// compiled is the configuration, checked and with its placeholders expanded.
	compiled *config.Compiled

	ctx     caddy.Context
	log     *slog.Logger
	metrics *metrics
	// refusals are the responses to rejected requests, by keyspace.
	refusals map[string]*refusals
	// gitHubKeys sign GitHub's reports of leaks; nil: none are taken.
	gitHubKeys *leak.Keys
	// events is Caddy's events app. It rejects subscriptions once the configuration has been active.
	events    *caddyevents.App
	wasActive atomic.Bool
	// pooled is the key under which engine was taken from the pool; empty while it was not.
	pooled string
	engine *engine.Engine
	// config is this configuration as the engine uses it.
	config *engine.Config
	// gateway is the engine's, for handlers.
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

// CaddyModule returns the module's ID and constructor.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: config.AppName, New: func() caddy.Module { return new(App) }}
}

// Provision checks and compiles the configuration and takes the engine of its store
// from the pool. It opens nothing, so that validating a configuration leaves no trace.
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
		return fmt.Errorf("making the gateway: %w", err)
	}
	redact.Register(a, a.logSecrets())
	return nil
}

// checkCaddy is replaced by tests.
var checkCaddy = redact.CheckCaddy

// logSecrets returns the keys of all keyspaces, as logs must not show them.
func (a *App) logSecrets() redact.Secrets {
	s := redact.NewSecrets(a.compiled.Cleaner, nil)
	for _, ks := range a.compiled.Keyspaces {
		s = s.And(redact.NewSecrets(a.compiled.Cleaner, ks.Places.List()))
	}
	return s
}

// Start opens the store where no configuration before did, and checks that it and this
// configuration belong together. Where they don't, nothing has changed and the
// configuration that runs goes on.
func (a *App) Start() error {
	check := checkup.New(a.ctx, a.log, a.compiled)
	if err := check.RejectDropped(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, startTimeout)
	defer cancel()
	// First, since sites may serve requests already.
	check.CleanTraces()
	if err := a.engine.Apply(ctx, a.config); err != nil {
		return err
	}
	check.Warn()
	return nil
}

// Stop ends the readiness that health checks see. The engine stays: requests of this
// configuration may still run, and another configuration may have taken it over.
func (a *App) Stop() error {
	a.stopping.Store(true)
	a.engine.Retire(a.config)
	return nil
}

// Cleanup lets go of the engine, which ends with the last configuration that uses it.
func (a *App) Cleanup() error {
	if a.pooled == "" {
		return nil
	}
	redact.Unregister(a)
	a.engine.Retire(a.config) // also where Start was not called, or failed
	key := a.pooled
	a.pooled = ""
	_, err := engines.Delete(key)
	return err
}

// Ready reports whether keys of at least one keyspace can be checked under this configuration.
func (a *App) Ready() bool { return a.gateway.Ready() && !a.stopping.Load() }

// ReadyFor reports whether keys of a keyspace can be checked under this configuration; of any where it is "".
func (a *App) ReadyFor(keyspace string) bool {
	return a.Ready() && (keyspace == "" || a.gateway.ReadyFor(keyspace))
}

// configuredApp returns the app for a handler that needs it.
func configuredApp(ctx caddy.Context) (*App, error) { return config.FindApp[*App](ctx) }

// Context implements sites.App.
func (a *App) Context() caddy.Context { return a.ctx }

// Log implements sites.App.
func (a *App) Log() *slog.Logger { return a.log }

// Compiled implements sites.App.
func (a *App) Compiled() *config.Compiled { return a.compiled }

// Engine implements sites.App.
func (a *App) Engine() *engine.Engine { return a.engine }

// GitHubKeys implements sites.App.
func (a *App) GitHubKeys() *leak.Keys { return a.gitHubKeys }

// Verifier implements sites.App.
func (a *App) Verifier() management.RequestChecker {
	return &verifier{a}
}

// addRules adds the rules of a handler of this configuration to those by which verify and explain
// check a keyspace's requests.
func (a *App) addRules(keyspace string, r *pathRules) {
	a.rulesMu.Lock()
	defer a.rulesMu.Unlock()
	if a.rules == nil {
		a.rules = make(map[string][]*pathRules)
	}
	a.rules[keyspace] = append(a.rules[keyspace], r)
}

// rulesOf returns the rules of every handler of a keyspace.
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

// ConfigHash implements sites.App. It computes the hash once.
func (a *App) ConfigHash() string {
	a.hashOnce.Do(func() { a.hashed = a.Config.ConfigHash() })
	return a.hashed
}

// logReady logs that the keys of this configuration are checked from now on, with the program
// and the store that do so. The path of an SQLite file is absolute.
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
