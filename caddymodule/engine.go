package caddymodule

import (
	"context"
	"iter"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/version"
	"github.com/keygate-dev/keygate/plugin/engine"
)

// engines keeps running engines over reloads, by the store they serve: Caddy starts a new configuration before it stops
// the old one, and both use the same engine.
var engines = caddy.NewUsagePool()

const (
	// startTimeout bounds how long a start takes with the store: opening, migrating, checking.
	startTimeout = time.Minute
	// closeTimeout bounds how long an engine that ends takes to write back its counts.
	closeTimeout = 10 * time.Second
)

// pooledEngine is an engine in the pool, which closes it with the last configuration that uses it.
type pooledEngine struct{ *engine.Engine }

// Destruct implements caddy.Destructor.
func (p pooledEngine) Destruct() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return p.Close(ctx)
}

// runningEngines returns the engines of all configurations: one, or two while a reload changes the store.
func runningEngines() iter.Seq[*engine.Engine] {
	return func(yield func(*engine.Engine) bool) {
		engines.Range(func(_, value any) bool { return yield(value.(pooledEngine).Engine) })
	}
}

// takeEngine takes the engine of a's store from the pool, and makes it where there is none.
func (a *App) takeEngine() error {
	e, _, err := engines.LoadOrNew(a.compiled.Identity, func() (caddy.Destructor, error) { return newEngine(a.compiled.Target(), a.log) })
	if err != nil {
		return err
	}
	a.pooled, a.engine = a.compiled.Identity, e.(pooledEngine).Engine
	a.gateway = a.engine.Gateway()
	a.config = a.engineConfig()
	return nil
}

// newEngine returns an engine for a store, which it does not touch.
func newEngine(t engine.Target, log *slog.Logger) (caddy.Destructor, error) {
	var own *engine.Engine
	other := func() (store string, serving bool) {
		for e := range runningEngines() {
			if e != own && e.Gateway().Ready() {
				return e.Target().Path, true
			}
		}
		return "", false
	}
	own, err := engine.New(engine.Options{Target: t, Log: log, Version: version.Product(), Other: other})
	if err != nil {
		return nil, err
	}
	return pooledEngine{own}, nil
}

// engineConfig returns a as the engine uses it. a is provisioned.
func (a *App) engineConfig() *engine.Config {
	c := &engine.Config{
		View: a.compiled.View, Address: a.compiled.Secrets.Address(), Replica: a.compiled.Secrets.Replica, Limits: a.compiled.Secrets.Limits, Staleness: a.Staleness(),
		Keyspaces: make(map[string]engine.Keyspace, len(a.compiled.Keyspaces)), Signer: a.compiled.CheckpointSigner(), Hash: a.ConfigHash(), Log: a.log,
		Active: a.active, Ready: a.logReady, Events: subscriber{a},
	}
	for name, ks := range a.compiled.Keyspaces {
		c.Keyspaces[name] = engine.Keyspace{Webhooks: a.compiled.WebhookSettings(name), UsageHours: ks.UsageHours}
	}
	if a.compiled.Secrets.DSN == "" && !filepath.IsAbs(a.compiled.Secrets.StorePath) {
		c.Note = filepath.Join(caddy.AppDataDir(), config.AppName, "store-"+a.ConfigHash())
	}
	return c
}

// active reports whether Caddy runs a's configuration as a whole. Once it did, it stays true.
func (a *App) active() bool {
	if a.wasActive.Load() {
		return true
	}
	if app, err := caddy.ActiveContext().AppIfConfigured(config.AppName); err != nil || app != caddy.App(a) {
		return false
	}
	a.wasActive.Store(true)
	return true
}
