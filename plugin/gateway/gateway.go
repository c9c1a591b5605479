package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/clients"
)

// Options are the parts and settings of a Gateway. Fields without a default are required.
type Options struct {
	// Store may be nil until SetStore.
	Store Store
	// Limiter charges requests. Default: ratelimit.NewLocal.
	Limiter ratelimit.Limiter
	// Logger gets messages for operators. Default: slog.Default.
	Logger *slog.Logger
	// Node is the name of this process among those that share the store. Default: "local".
	Node string
	// Freshness reports how current the keys in memory are. It is needed if several gateways share
	// the store, and nil otherwise. Package cluster provides it.
	Freshness Freshness
	// CacheEntries is how many keys are kept in memory. Default: 500,000. A key in use takes about 1 KiB, and about 2 KiB if
	// its tenant has no other key.
	CacheEntries int64
	// NewMeter makes the usage counter of a key when the key comes into use; Decision.Meter returns it. NewMeter must not
	// block. nil: usage is not counted.
	NewMeter func(keyspace, tenant, key string) any
}

const (
	defaultCacheEntries = 500_000
	// startWait is how long a request waits for a gateway that is not ready yet.
	startWait = 3 * time.Second
	// sweepInterval is the time between sweeps, which drop idle states.
	sweepInterval = 30 * time.Second
	// failureEntries bounds the table of addresses that sent unknown keys, per keyspace.
	failureEntries = 1 << 16
)

// Freshness reports how current the keys in memory are. Its methods do not block.
type Freshness interface {
	// Stale reports whether keys of a keyspace may no longer be accepted from memory. It must not
	// allocate.
	Stale(now time.Time, keyspace string) bool
	// Lagging reports whether this gateway may not know keys yet that another node created recently.
	Lagging(now time.Time) bool
}

// Gateway checks requests. It keeps state but no configuration: each request brings the View of its configuration. So a
// Gateway outlives the configurations that use it. Package cluster makes it follow the changes in a shared store. Safe for
// concurrent use.
type Gateway struct {
	store   Store
	limiter atomic.Pointer[ratelimit.Limiter]
	log     *slog.Logger
	node    string

	keys      *keytable.Table
	addresses *clients.Addresses
	terms     termsInUse
	// failures are the tables of failed attempts by keyspace name; the map is replaced, never
	// changed.
	failures   atomic.Pointer[map[string]*keyspaceFailures]
	failuresMu sync.Mutex

	ready   chan struct{} // Start closes the channel ready when it has succeeded.
	isReady atomic.Bool
	closed  atomic.Bool
	startMu sync.Mutex
	stop    context.CancelFunc
	running sync.WaitGroup

	dirtyMu        sync.Mutex
	dirty          []*keytable.Entry
	dirtyAddresses map[*ratelimit.Subject]struct{}
	// unstoredLogged is when the log last warned about addresses without a stored count. Guarded
	// by flushMu.
	unstoredLogged time.Time
	flushMu        sync.Mutex // flushMu serializes flushes.

	// freshness is nil if no other process shares the store.
	freshness Freshness
	health    *keytable.StoreHealth
	watcher   atomic.Pointer[watcherBox]
}

type keyspaceFailures struct {
	policy *ratelimit.Policy
	*clients.Failures
}

// New returns a gateway that is not ready yet. It does not read the store.
func New(o Options) (*Gateway, error) {
	if o.Limiter == nil {
		o.Limiter = ratelimit.NewLocal()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Node == "" {
		o.Node = "local"
	}
	if o.CacheEntries <= 0 {
		o.CacheEntries = defaultCacheEntries
	}
	health := keytable.NewStoreHealth(o.Logger)
	keys, err := keytable.New(keytable.Options{Store: o.Store, Health: health, Logger: o.Logger, MaxKeys: o.CacheEntries, NewMeter: o.NewMeter})
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		store: o.Store, log: o.Logger, node: o.Node,
		keys: keys, health: health, freshness: o.Freshness, addresses: clients.NewAddresses(), ready: make(chan struct{}),
		dirtyAddresses: map[*ratelimit.Subject]struct{}{},
	}
	g.SetLimiter(o.Limiter)
	g.failures.Store(&map[string]*keyspaceFailures{})
	return g, nil
}

// SetStore sets the store of a gateway whose Options had none. Call it once, before Start.
func (g *Gateway) SetStore(s Store) {
	g.store = s
	g.keys.SetStore(s)
}

// SetLimiter makes l charge all later requests. l also releases, adjusts and resets requests that the former limiter
// charged. SetLimiter is safe while requests run.
func (g *Gateway) SetLimiter(l ratelimit.Limiter) { g.limiter.Store(&l) }

// limits returns the current limiter.
func (g *Gateway) limits() ratelimit.Limiter { return *g.limiter.Load() }

// Start makes the gateway ready. It releases the credits that a former process of this node
// leased, and starts writing counts and filling the filter of digests in the background. It blocks
// on the store within ctx. It is idempotent, and may be called again after an error.
func (g *Gateway) Start(ctx context.Context) error {
	g.startMu.Lock()
	defer g.startMu.Unlock()
	if g.isReady.Load() {
		return nil
	}
	if g.closed.Load() {
		return errors.New("the gateway was closed")
	}
	if err := g.store.DropLeases(ctx, g.node); err != nil {
		return fmt.Errorf("releasing the credits that this node leased before the restart: %w", err)
	}
	run, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	for _, f := range []func(context.Context){g.flushLoop, g.sweepLoop, g.keys.FillFilter} {
		g.running.Go(func() { f(run) })
	}
	g.isReady.Store(true)
	close(g.ready)
	return nil
}

// Close writes all counts, returns leased credits and drops the cache. Later checks answer
// Unavailable. It does not close the store. Idempotent.
func (g *Gateway) Close(ctx context.Context) error {
	g.startMu.Lock()
	defer g.startMu.Unlock()
	if g.closed.Swap(true) || g.stop == nil {
		g.keys.Close()
		return nil
	}
	g.stop()
	g.running.Wait()
	err := g.flush(ctx)
	if e := g.returnLeases(ctx); err == nil {
		err = e
	}
	g.keys.Close()
	return err
}

// Ready reports whether the gateway was started and not closed.
func (g *Gateway) Ready() bool { return g.isReady.Load() && !g.closed.Load() }

// Name returns the node's name.
func (g *Gateway) Name() string { return g.node }

// Keys returns the table of the keys in use.
func (g *Gateway) Keys() *keytable.Table { return g.keys }

// Health returns the record of whether the store answers.
func (g *Gateway) Health() *keytable.StoreHealth { return g.health }

// Logger returns the logger for operators.
func (g *Gateway) Logger() *slog.Logger { return g.log }

// waitReady reports whether the gateway is ready, after waiting for it up to startWait.
func (g *Gateway) waitReady(ctx context.Context) bool {
	if g.isReady.Load() {
		return !g.closed.Load()
	}
	t := time.NewTimer(startWait)
	defer t.Stop()
	select {
	case <-g.ready:
		return !g.closed.Load()
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// Stats is the state of a gateway.
type Stats struct {
	Node  string
	Ready bool
	// Degraded reports that the store cannot be read or written.
	Degraded    bool
	KeysCached  int64
	StoreErrors int64
	LastError   string
	// FilterReady reports that unknown keys are rejected without a look-up.
	FilterReady bool
}

// Stats returns the state of the gateway. It does not block.
func (g *Gateway) Stats() Stats {
	return Stats{Node: g.node, Ready: g.Ready(), Degraded: g.degraded(), KeysCached: g.keys.KeyCount(),
		StoreErrors: g.health.Errors(), LastError: g.health.Problem(), FilterReady: g.keys.FilterReady()}
}

// failuresOf returns the keyspace's table of failed attempts, nil if the keyspace has no limit on
// them.
func (g *Gateway) failuresOf(ks *Keyspace) *clients.Failures {
	if ks.Failures == nil {
		return nil
	}
	if f := (*g.failures.Load())[ks.Name]; f != nil && f.same(ks.Failures) {
		return f.Failures
	}
	g.failuresMu.Lock()
	defer g.failuresMu.Unlock()
	old := *g.failures.Load()
	if f := old[ks.Name]; f != nil && f.same(ks.Failures) {
		return f.Failures
	}
	next := make(map[string]*keyspaceFailures, len(old)+1)
	for n, f := range old {
		next[n] = f
	}
	f := &keyspaceFailures{ks.Failures, clients.NewFailures(ks.Failures, failureEntries)}
	next[ks.Name] = f
	g.failures.Store(&next)
	return f.Failures
}

// same reports whether the table f counts failed attempts for the limit p.
func (f *keyspaceFailures) same(p *ratelimit.Policy) bool {
	return f.policy == p || *f.policy == *p
}

// sweepLoop drops idle states every sweepInterval, until ctx ends.
func (g *Gateway) sweepLoop(ctx context.Context) {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			g.keys.Sweep(now)
			g.addresses.Sweep(now)
			for _, f := range *g.failures.Load() {
				f.Sweep(now)
			}
		case <-ctx.Done():
			return
		}
	}
}

// markAddressDirty makes the next flush write the counts of the bill's client address, if quotas were counted for it.
func (g *Gateway) markAddressDirty(b *ratelimit.Bill) {
	for i := range b.Address.Lines {
		if b.Address.Lines[i].Policy.Kind == ratelimit.Quota {
			g.dirtyMu.Lock()
			g.dirtyAddresses[b.Address.Subject] = struct{}{}
			g.dirtyMu.Unlock()
			return
		}
	}
}

// Addr parses the text of a client's address, as a proxy gives it. The result of an invalid text
// is the zero Addr.
func Addr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}
