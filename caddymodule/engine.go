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

// engines holds the running engines by store. Caddy starts a new configuration before it stops the
// old one, and both use the same engine.
var engines = caddy.NewUsagePool()

const (
	// startTimeout is how long a start may take to open, migrate and check the store. The time to wait for another process that
	// owns an SQLite file is added.
	startTimeout = time.Minute
	// closeTimeout is how long a closing engine may take to write its counts to the store.
	closeTimeout = 10 * time.Second
)

// pooledEngine is an engine in the pool. The pool closes it after the last configuration has
// released it.
type pooledEngine struct{ *engine.Engine }

// Destruct closes the engine.
func (p pooledEngine) Destruct() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return p.Close(ctx)
}

// runningEngines returns the engines in the pool: one, or two while a reload changes the store.
func runningEngines() iter.Seq[*engine.Engine] {
	return func(yield func(*engine.Engine) bool) {
		engines.Range(func(_, value any) bool { return yield(value.(pooledEngine).Engine) })
	}
}

// takeEngine takes the engine of a's store from the pool, and creates the engine if there is none.
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

// newEngine returns an engine for a store. It does not open the store.
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
	own, err := engine.New(engine.Options{Target: t, Log: log, Version: version.Product(), Other: other, Exiting: caddy.Exiting})
	if err != nil {
		return nil, err
	}
	return pooledEngine{own}, nil
}

// engineConfig returns a's configuration in the form that the engine uses. a must be provisioned.
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

// active reports whether Caddy has made a's configuration the active one. The result stays true
// afterwards.
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
