// Package engine builds a gateway with its store and all parts that need both. An engine keeps these parts while
// configurations change. The package does not depend on the program around it, such as Caddy.
//
//	state.go          the lifecycle: states, Apply, Retire, Close
//	config.go         the parts of a configuration
//	engine.go         the parts of an engine, and access to them
//	store.go          opening the store, changing its address
//	limits.go         counting in Redis or in this process
//	compatibility.go  checks that a store and a configuration belong together
//	plans.go          moving tenants of former plans
//	note.go           a warning of an SQLite file that is new by mistake
//	events.go, log.go  passing events and messages on to the active configuration
package engine

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/revocations"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/usage"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// Options configure an Engine.
type Options struct {
	Target Target
	// Log receives messages before the first configuration is applied. Default: slog.Default.
	Log *slog.Logger
	// Version names the program, with its version, for the other nodes. Default: "".
	Version string
	// Other returns the store of another engine in this process. serving reports whether the other engine
	// serves while the program changes from it to this engine. Other does not block. Default: there is no
	// other engine.
	Other func() (store string, serving bool)
	// Exiting reports whether the process is about to end. It does not block. Default: the process never announces its end.
	Exiting func() bool
}

// Engine is one gateway and its store. New makes an Engine. An Engine is safe for concurrent use.
type Engine struct {
	target  Target
	version string
	other   func() (store string, serving bool)
	exiting func() bool
	log     *slog.Logger
	logs    *logHandler
	gateway *cluster.Member
	usage   *usage.Tracker
	limits  *limits
	events  *relay

	// owned is the ownership of the SQLite file. It is nil before the first Apply, and for a shared store. applying guards
	// the field until the store is open; afterwards it does not change.
	owned *sqlite.Ownership

	// state holds a State, but never Degraded. The method degraded computes that state.
	state atomic.Int32
	// life is a context that Close ends. background counts the goroutines that end with life.
	life       context.Context
	end        context.CancelFunc
	background sync.WaitGroup
	// closed is closed at the end of Close.
	closed chan struct{}
	// Apply, Retire and Close hold the lock applying. Each verification holds the lock verifying. Holders may wait for the
	// store.
	applying, verifying sync.Mutex
	// opened holds the store and the parts that need it. It is nil in the state Opening.
	opened atomic.Pointer[opened]

	mu sync.Mutex
	// configs are the adopted configurations, oldest first. active is the last of them, or nil if there is
	// none.
	configs []*adopted
	active  atomic.Pointer[adopted]
}

// opened is an open store and the parts that need the store. An opened is immutable.
type opened struct {
	store    Store
	manager  *management.Manager
	auth     *auth.Authority
	registry *webhooks.Registry
	leaks    *leaks.Reporter
	webhooks *webhook.Service
	at       time.Time
}

// New returns an engine in the state Opening. New opens no store, so that a check of a configuration
// creates no files. It returns an error if the container or the machine would lose the SQLite file.
func New(o Options) (*Engine, error) {
	if !o.Target.Shared() {
		if err := sqlite.CheckMount(o.Target.Path); err != nil {
			return nil, err
		}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Other == nil {
		o.Other = func() (string, bool) { return "", false }
	}
	e := &Engine{target: o.Target, version: o.Version, other: o.Other, exiting: o.Exiting, closed: make(chan struct{}), logs: newLogHandler(o.Log.Handler())}
	e.log = slog.New(e.logs)
	e.life, e.end = context.WithCancel(context.Background())
	e.events = newRelay(e)
	e.usage = usage.NewTracker(o.Target.Node, e.log)
	e.usage.KeepHours = e.usageHours
	var err error
	e.gateway, err = cluster.New(cluster.Options{
		Options: gateway.Options{
			Logger: e.log, Node: o.Target.Node,
			NewMeter: func(keyspace, tenant, key string) any { return e.usage.Counter(keyspace, tenant, key) },
		},
		Shared: o.Target.Shared(), NodeInfo: e.about,
	})
	if err != nil {
		return nil, err
	}
	e.limits = &limits{log: e.log, gateway: e.gateway.Gateway, replica: e.Replica}
	return e, nil
}

// Target returns the store and the node of the engine.
func (e *Engine) Target() Target { return e.target }

// Gateway returns the gateway, which checks requests.
func (e *Engine) Gateway() *cluster.Member { return e.gateway }

// Usage returns the usage tracker, which counts the requests of keys.
func (e *Engine) Usage() *usage.Tracker { return e.usage }

// Store returns the store, or nil in the state Opening.
func (e *Engine) Store() Store {
	if o := e.opened.Load(); o != nil {
		return o.store
	}
	return nil
}

// Manager returns the manager, which changes tenants and keys, or nil in the state Opening.
func (e *Engine) Manager() *management.Manager {
	if o := e.opened.Load(); o != nil {
		return o.manager
	}
	return nil
}

// Auth returns the authority, which issues and checks tokens and sessions, or nil in the state Opening.
func (e *Engine) Auth() *auth.Authority {
	if o := e.opened.Load(); o != nil {
		return o.auth
	}
	return nil
}

// Leaks returns the handler of reports of leaked keys, or nil in the state Opening.
func (e *Engine) Leaks() *leaks.Reporter {
	if o := e.opened.Load(); o != nil {
		return o.leaks
	}
	return nil
}

// Webhooks returns the registry, which manages webhooks, or nil in the state Opening.
func (e *Engine) Webhooks() *webhooks.Registry {
	if o := e.opened.Load(); o != nil {
		return o.registry
	}
	return nil
}

// OpenedAt returns when the engine opened the store, to the second. It returns false in the state
// Opening.
func (e *Engine) OpenedAt() (time.Time, bool) {
	if o := e.opened.Load(); o != nil {
		return o.at, true
	}
	return time.Time{}, false
}

// Replica returns the node's copy of the store, or nil if the node has no copy.
func (e *Engine) Replica() *replica.Replica {
	r, _ := e.Store().(*replica.Replica)
	return r
}

// Limits returns the limits that are counted in Redis, or nil if this process counts them.
func (e *Engine) Limits() *SharedLimits { return e.limits.shared.Load() }

// RevocationStats returns how many revocations this node sent and received through Redis.
func (e *Engine) RevocationStats() revocations.Stats { return e.limits.revocationStats() }

// View returns the view of the active configuration, or nil if no configuration is active.
func (e *Engine) View() *gateway.View {
	if a := e.active.Load(); a != nil {
		return a.View
	}
	return nil
}

// Wants reports whether the active configuration's subscriber would receive an event of a type.
func (e *Engine) Wants(eventType string) bool { return e.events.Wants(eventType) }

// about returns this node's version and the hash of its configuration, which the other nodes list.
func (e *Engine) about() (version, configHash string) {
	if a := e.active.Load(); a != nil {
		configHash = a.Hash
	}
	return e.version, configHash
}

// webhookSettings returns the active configuration's settings for a keyspace's webhooks.
func (e *Engine) webhookSettings(keyspace string) webhooks.Settings {
	if a := e.active.Load(); a != nil {
		return a.Keyspaces[keyspace].Webhooks
	}
	return webhooks.Settings{}
}

// signer returns the active configuration's signer of the audit chain, or nil if there is none.
func (e *Engine) signer() audit.Signer {
	if a := e.active.Load(); a != nil {
		return a.Signer
	}
	return nil
}

// keyspaces returns the names of the active configuration's keyspaces, sorted.
func (e *Engine) keyspaces() []string {
	if a := e.active.Load(); a != nil {
		return slices.Sorted(maps.Keys(a.Keyspaces))
	}
	return nil
}

// usageHours returns how long the store keeps a keyspace's hourly usage.
func (e *Engine) usageHours(keyspace string) time.Duration {
	if a := e.active.Load(); a != nil {
		if ks, ok := a.Keyspaces[keyspace]; ok {
			return ks.UsageHours
		}
	}
	return usage.DefaultHours
}

// closeTimeout bounds the time to write data back to the store if no caller's context bounds that time.
const closeTimeout = 10 * time.Second

// finishLeaks handles the waiting reports of leaked keys if c is the engine's only configuration,
// because no other configuration can handle them after c.
func (e *Engine) finishLeaks(c *Config) {
	e.mu.Lock()
	last := len(e.configs) == 1 && e.configs[0].Config == c
	e.mu.Unlock()
	reporter := e.Leaks()
	if reporter == nil || !last {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	reporter.Finish(ctx)
}

// close closes the parts of the engine. It closes each part before the parts that the part needs.
func (e *Engine) close(ctx context.Context) error {
	defer e.events.close()
	o := e.opened.Load()
	if o != nil {
		if err := o.webhooks.Close(ctx); err != nil {
			e.log.Error("webhook deliveries that were running could not be released: they are repeated only after their lease has expired", "error", err)
		}
		o.leaks.Finish(ctx) // Finish handles the reports of leaked keys that came after the last Retire.
	}
	// Closing the usage tracker waits for requests that still run, because they use the gateway.
	err := e.usage.Close(ctx)
	err = errors.Join(err, e.gateway.Close(ctx))
	e.limits.close(ctx)
	if o != nil {
		err = errors.Join(err, o.store.Close())
	}
	if e.owned != nil {
		e.owned.Release()
	}
	return err
}
