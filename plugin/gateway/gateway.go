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
)

// Options are what an engine is made of. All fields without a default are required.
type Options struct {
	Store Store
	// Limiter charges requests. Default: ratelimit.NewLocal.
	Limiter ratelimit.Limiter
	// Logger hears what operators should know. Default: slog.Default.
	Logger *slog.Logger
	// Node names this process among those that share the store. Default: "local".
	Node string
	// Registry is where gateways that share the store meet; nil where it is this one's alone.
	Registry Registry
	// Staleness is for how long keys in memory are judged while nothing is heard from a shared
	// store. Default: an hour.
	Staleness Staleness
	// NodeInfo returns the program's version and what tells its configuration from others',
	// for the other gateways. Default: neither is told.
	NodeInfo func() (version, configHash string)
	// CacheEntries is how many keys are kept ready. Default: 500,000. A key in use takes
	// about 1 KiB, and as much again where it is the only one of its tenant.
	CacheEntries int64
	// NewMeter makes what Decision.Meter returns for a key, when the key comes into use; it must not
	// block. Default: nothing is made.
	NewMeter func(keyspace, tenant, key string) any
}

const (
	defaultCacheEntries = 500_000
	defaultStaleness    = time.Hour
	// startWait is how long a request that comes before the engine is ready waits for it.
	startWait = 3 * time.Second
	// sweepInterval is how often states that are no longer needed are dropped.
	sweepInterval = 30 * time.Second
	// failureEntries bounds the table of addresses that sent unknown keys, per keyspace.
	failureEntries = 1 << 16
)

// Gateway judges requests. It holds only state, so it outlives the configurations that
// use it; each request brings the View it is judged by. Safe for concurrent use.
type Gateway struct {
	store   Store
	limiter ratelimit.Limiter
	log     *slog.Logger
	node    string

	keys      *keytable.Table
	addresses *ratelimit.Addresses
	terms     termsInUse
	// failures by keyspace name; the map is replaced, never changed.
	failures   atomic.Pointer[map[string]*keyspaceFailures]
	failuresMu sync.Mutex

	ready   chan struct{} // closed when Start has succeeded
	isReady atomic.Bool
	closed  atomic.Bool
	startMu sync.Mutex
	stop    context.CancelFunc
	running sync.WaitGroup

	dirtyMu        sync.Mutex
	dirty          []*keytable.Entry
	dirtyAddresses map[*ratelimit.Subject]struct{}
	// unstoredLogged is when the log last told that addresses are counted in memory alone. Under flushMu.
	unstoredLogged time.Time
	flushMu        sync.Mutex // one flush at a time

	tokenChanges atomic.Uint64
	seq          atomic.Int64 // newest change applied
	reportedSeq  atomic.Int64 // newest one that others are, or will be, told of
	// lastRead is the newest change that was read as applied, nil for none; only the follower sets it.
	lastRead atomic.Pointer[Change]
	// member is nil where the store is this process's alone.
	member *membership
	// mirror is the store where that answers by a copy; nil where it does not. era is that
	// which was last followed.
	mirror           Mirror
	mirrorGeneration uint64
	health           *keytable.StoreHealth
	watcher          atomic.Pointer[watcherBox]
}

type keyspaceFailures struct {
	policy *ratelimit.Policy
	*ratelimit.Failures
}

// New returns an engine that judges nothing yet. It does not touch the store.
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
		store: o.Store, limiter: o.Limiter, log: o.Logger, node: o.Node,
		keys: keys, health: health, addresses: ratelimit.NewAddresses(), ready: make(chan struct{}),
		dirtyAddresses: map[*ratelimit.Subject]struct{}{},
	}
	if o.Registry != nil {
		if o.Staleness.Default <= 0 {
			o.Staleness.Default = defaultStaleness
		}
		g.member = newMembership(o.Registry, o.Staleness, o.NodeInfo)
	}
	g.failures.Store(&map[string]*keyspaceFailures{})
	return g, nil
}

// Start makes the engine ready: it asks the store where its changes stand, and begins
// to follow them, to write counts back, and to fill the filter of all digests beside
// running requests. Blocks on the store, within ctx. Idempotent; after a failure it may be called again.
func (g *Gateway) Start(ctx context.Context) error {
	g.startMu.Lock()
	defer g.startMu.Unlock()
	if g.isReady.Load() {
		return nil
	}
	if g.closed.Load() {
		return errors.New("the gateway was closed")
	}
	// First: what is changed from then on waits for this node, and what was changed before is
	// what is loaded.
	if g.mirror, _ = ability[Mirror](g.store); g.mirror != nil {
		g.mirrorGeneration = g.mirror.Generation()
	}
	switch err := g.join(ctx); {
	case err == nil:
		g.awaitMirror(ctx, time.Now())
	case !g.joinFromReplica(err):
		return fmt.Errorf("joining the gateways that share the store: %w", err)
	}
	began := time.Now()
	seq, err := g.store.LastSeq(ctx)
	if err != nil {
		return fmt.Errorf("reading the change sequence: %w", err)
	}
	if err := g.store.DropLeases(ctx, g.node); err != nil {
		return fmt.Errorf("releasing credits held before the restart: %w", err)
	}
	g.seq.Store(seq)
	g.caughtUp(began)
	run, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	loops := []func(context.Context){g.follow, g.flushLoop, g.sweepLoop, g.keys.FillFilter}
	if g.member != nil {
		loops = append(loops, g.reportLoop, g.staleLoop)
	}
	for _, f := range loops {
		g.running.Go(func() { f(run) })
	}
	g.isReady.Store(true)
	close(g.ready)
	return nil
}

// Close writes back what was counted, returns leased credits and lets go of the cache.
// Requests that still run may go on calling: they are answered Unavailable. It does not close the store.
// Idempotent.
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
	if e := g.leave(ctx); err == nil {
		err = e
	}
	g.keys.Close()
	return err
}

// Ready says that keys can be judged now, of one keyspace at least.
func (g *Gateway) Ready() bool {
	return g.isReady.Load() && !g.closed.Load() && (g.member == nil || !g.member.allStale(time.Now()))
}

// ReadyFor says that keys of a keyspace can be judged now.
func (g *Gateway) ReadyFor(keyspace string) bool { return g.Ready() && !g.stale(time.Now(), keyspace) }

// waitReady says whether the engine is ready, after waiting for it briefly.
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

// Stats is what the engine can say about itself.
type Stats struct {
	Node  string
	Ready bool
	// Stale says that it is not ready because nothing was heard of the store for too long.
	Stale       bool
	Degraded    bool
	KeysCached  int64
	StoreErrors int64
	LastError   string
	// Seq is the newest change this node has applied.
	Seq int64
	// Lag is how long ago all changes there were had last been applied; 0 where the store is
	// this process's own.
	Lag time.Duration
	// FilterReady says that unknown keys are refused without a look-up.
	FilterReady bool
}

// Stats does not block.
func (g *Gateway) Stats() Stats {
	stale := g.isReady.Load() && !g.closed.Load() && g.member != nil && g.member.allStale(time.Now())
	return Stats{Node: g.node, Ready: g.Ready(), Stale: stale, Degraded: g.degraded(), KeysCached: g.keys.KeyCount(),
		StoreErrors: g.health.Errors(), LastError: g.health.Problem(), Seq: g.seq.Load(), Lag: g.lag(), FilterReady: g.keys.FilterReady()}
}

// failuresOf returns the keyspace's table of failed attempts, nil where it limits none.
func (g *Gateway) failuresOf(ks *Keyspace) *ratelimit.Failures {
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
	f := &keyspaceFailures{ks.Failures, ratelimit.NewFailures(ks.Failures, failureEntries)}
	next[ks.Name] = f
	g.failures.Store(&next)
	return f.Failures
}

// same says that the limit is still the one the table counts for.
func (f *keyspaceFailures) same(p *ratelimit.Policy) bool {
	return f.policy == p || *f.policy == *p
}

// sweepLoop drops what is no longer needed.
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

// markAddressDirty notes that quotas of the bill's address, if it has any, were counted.
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

// Addr returns the netip form of an address a proxy gives as text; invalid where it is none.
func Addr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}
