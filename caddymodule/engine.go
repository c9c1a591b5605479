package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/revocations"
	"github.com/keygate-dev/keygate/plugin/usage"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// engines keeps running engines over reloads, by the store they serve: a new
// configuration is started before the old one is stopped, and both use the same.
var engines = caddy.NewUsagePool()

// closeTimeout bounds how long an engine that ends may take to write back its counts.
const closeTimeout = 10 * time.Second

// engine is one gateway and its store. It is made without touching the store, so that a
// configuration can be provisioned only to be looked at.
type engine struct {
	gateway *gateway.Gateway
	where   storePlace
	log     *logRelay
	lazy    *lazyStore
	events  *events
	usage   *usage.Tracker
	// limits is where requests are counted, as the newest configuration wants it.
	limits *ratelimit.Switch
	// herald tells other gateways what is refused while a shared store is away.
	herald revocations.Switch

	// starting is held by one start at a time, which may wait for the store.
	starting sync.Mutex

	mu sync.Mutex
	// store is nil until the first start.
	store   store
	manager *management.Manager
	// shared counts in Redis; nil where limits are local.
	shared *sharedLimits
	// since is when the store was opened; nil before.
	since atomic.Pointer[time.Time]
	// webhooks delivers events; nil as store is.
	webhooks *webhook.Service
	// apps are the started configurations, newest last. Management goes by the newest;
	// where that fails to come up after all, by the one before.
	apps []*App
}

// lazyStore is the store of a gateway made before its store is opened. The gateway asks
// nothing of it before its Start, and the store is set before that.
type lazyStore struct{ gateway.Store }

// newEngine returns an engine for a store.
func newEngine(where storePlace, log *slog.Logger) (*engine, error) {
	e := &engine{where: where, log: newLogRelay(log.Handler()), lazy: new(lazyStore), limits: ratelimit.NewSwitch(ratelimit.NewLocal())}
	e.events = newEvents(e)
	var err error
	e.usage = usage.NewTracker(where.node, slog.New(e.log))
	e.usage.KeepHours = e.usageHours
	o := gateway.Options{
		Store: e.lazy, Limiter: e.limits, Logger: slog.New(e.log), Node: where.node,
		NewMeter: func(keyspace, tenant, key string) any { return e.usage.Counter(keyspace, tenant, key) },
	}
	if where.shared() {
		o.Registry, o.NodeInfo = e.lazy, e.about
	}
	e.gateway, err = gateway.New(o)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// start makes the engine serve a: it opens the store where that was not done yet, and
// refuses where store and configuration do not belong together. It blocks on the store. A
// shared one that is away is tried beside, and requests are answered once it is there.
func (e *engine) start(ctx context.Context, a *App) error {
	e.starting.Lock()
	defer e.starting.Unlock()
	if err := e.open(ctx); err != nil {
		return e.beside(err)
	}
	if err := e.redirect(ctx, a); err != nil {
		return err
	}
	e.gateway.SetStaleness(a.trust())
	err := e.attempt(ctx, a)
	if err = e.beside(err); err != nil && !e.triesOn(err) {
		e.settle()
		return err
	}
	if err := e.redirectLimits(ctx, a.secrets.limits); err != nil {
		e.settle()
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.useLimits(ctx, a.secrets.limits); err != nil {
		e.settleLocked()
		return err
	}
	e.apps = append(e.apps, a)
	e.log.follow(a.log.Handler())
	if err != nil {
		a.log.Error("the store does not answer: it is tried on, and requests are answered with 503 until it does", "error", err)
		go e.tryOn(a)
		return nil
	}
	a.logReady()
	e.webhooks.Start()
	go a.inherit(e.store)
	return nil
}

// open opens the store where that was not done yet.
func (e *engine) open(ctx context.Context) error {
	if e.opened() != nil {
		return nil
	}
	s, err := openStore(ctx, e.where, &e.herald, slog.New(e.log))
	if err != nil {
		return fmt.Errorf("opening the store %s: %w", e.where.path, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.store, e.lazy.Store = s, s
	now := time.Now().UTC().Truncate(time.Second)
	e.since.Store(&now)
	e.manager = management.New(management.Config{
		Store: s, Engine: e.gateway, View: e.view, Logger: slog.New(e.log),
		Webhooks: e.webhookSettings, Listener: e.events, Signer: e.headSigner,
	})
	e.webhooks = e.newWebhooks()
	e.gateway.Watch(e.webhooks)
	return nil
}

// prove checks that the store and a belong together, and starts what needs the store.
func (e *engine) prove(ctx context.Context, a *App) error {
	if err := checkPeppers(ctx, e.store, a.view.Hasher); err != nil {
		return err
	}
	if err := checkPlans(ctx, e.store, a.view); err != nil {
		return err
	}
	if err := e.gateway.Start(ctx); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	if err := e.usage.Start(ctx, e.store); err != nil {
		return err
	}
	if err := e.store.SavePeppers(ctx, a.view.Hasher.Checks()); err != nil {
		return fmt.Errorf("storing the check values of the peppers: %w", err)
	}
	return nil
}

// stop forgets a. It may not have been started.
func (e *engine) stop(a *App) {
	e.finishLeaks(a)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.apps = slices.DeleteFunc(e.apps, func(other *App) bool { return other == a })
	if n := len(e.apps); n > 0 {
		e.log.follow(e.apps[n-1].log.Handler())
		if err := e.settleLimits(e.apps[n-1].secrets.limits); err != nil {
			a.log.Error("going back to the limits of the configuration that goes on", "error", err)
		}
		e.settleLocked()
	}
}

// finishLeaks deals with the reports of leaks that wait, where a is the last configuration by which it can be done.
func (e *engine) finishLeaks(a *App) {
	e.mu.Lock()
	m, last := e.manager, len(e.apps) == 1 && e.apps[0] == a
	e.mu.Unlock()
	if m == nil || !last {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	m.FinishLeaks(ctx)
}

// giveUp makes the configuration that goes on outweigh a, where a is the newer one: it
// did not come up, and may have judged requests while its other parts started.
func (e *engine) giveUp(a *App) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.apps); n > 0 && e.apps[n-1] != a && a.view.Newer(e.apps[n-1].view) {
		e.apps[n-1].view.Renew()
	}
}

// view returns the configuration that management goes by, nil while none is running.
func (e *engine) view() *gateway.View {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.apps); n > 0 {
		return e.apps[n-1].view
	}
	return nil
}

// management returns what changes tenants and keys; nil before the first start.
func (e *engine) management() *management.Manager {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.manager
}

// Destruct ends the engine with the last configuration that used it. Requests that
// still run are answered that keys can't be judged.
func (e *engine) Destruct() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	defer e.events.close()
	e.closeWebhooks(ctx)
	if m := e.management(); m != nil {
		m.FinishLeaks(ctx) // what was reported since the last stop
	}
	// First what waits for requests that still run: they go on asking the gateway.
	err := e.usage.Close(ctx)
	err = errors.Join(err, e.gateway.Close(ctx))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.shared != nil {
		e.shared.close(ctx)
	}
	if e.store != nil {
		err = errors.Join(err, e.store.Close())
	}
	return err
}
