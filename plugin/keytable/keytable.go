// Package keytable keeps the API keys and tenants that are in use in memory, so that a request's
// key is found without asking the store.
//
// A Table has two parts. A bounded cache holds an Entry for each secret: everything that one look-up in the store returned.
// A registry holds the state of each key and tenant that must not be evicted while the key is in use: its version, its
// limits, its running requests. An entry is current as long as these versions are the ones that it was loaded with. So a
// change invalidates entries by raising a version, and correctness does not depend on when the cache drops them.
//
// The package knows no configuration and decides about no request; package gateway does both.
package keytable

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit/clients"
)

// Options configure a Table. Store, Health, Logger and MaxKeys are required.
type Options struct {
	Store  Store
	Health *StoreHealth
	Logger *slog.Logger
	// MaxKeys is how many entries the cache holds, and how many idle keys the registry keeps.
	MaxKeys int64
	// NewMeter, where not nil, returns the meter of a key that comes into use, see
	// KeyState.Meter. It must not block.
	NewMeter func(keyspace, tenant, key string) any
}

// Table finds keys. Make one with New. Safe for concurrent use.
type Table struct {
	store   Store
	health  *StoreHealth
	log     *slog.Logger
	maxKeys int64

	registry
	cache          *cache
	loads          *loader
	comparer       comparer
	unknownLookups *turns.Queue

	// filter holds all stored digests. It is nil until it is filled for the first time. filling is the next filter while it is
	// being filled.
	filter, filling atomic.Pointer[filter]
	refill          chan struct{}
	// filterGaps counts how often the filter may have missed a digest. filterMu prevents that a filter is installed while
	// filterGaps is raised.
	filterGaps atomic.Int64
	filterMu   sync.Mutex

	rewrites chan rewrite
	// lastAddr is the client address that was stored last in an entry. Entries with the same address share this copy.
	lastAddr atomic.Pointer[netip.Addr]
	closed   atomic.Bool
}

// New returns an empty table. It does not read the store.
func New(o Options) (*Table, error) {
	c, err := newCache(o.MaxKeys)
	if err != nil {
		return nil, err
	}
	t := &Table{
		store: o.Store, health: o.Health, log: o.Logger, maxKeys: o.MaxKeys,
		cache: c, loads: newLoader(), comparer: newComparer(), unknownLookups: turns.New(unknownLookupRules),
		refill: make(chan struct{}, 1), rewrites: make(chan rewrite, 1024),
	}
	t.registry.init(o.NewMeter)
	return t, nil
}

// SetStore sets the store of a table that was made without one. Call it once, before the first
// look-up.
func (t *Table) SetStore(s Store) { t.store = s }

// Close drops the cache. Later look-ups ask the store. Idempotent; does not close the store.
func (t *Table) Close() {
	t.closed.Store(true)
	t.cache.close()
}

// Sweep drops the states of idle keys until at most Options.MaxKeys are left.
func (t *Table) Sweep(now time.Time) { t.sweep(now, t.maxKeys) }

// SweepAll drops the states of all idle keys.
func (t *Table) SweepAll(now time.Time) { t.sweep(now, 0) }

// Query is a presented key to look for.
type Query struct {
	Now      time.Time
	Keyspace string
	// Salt distinguishes equal digests of two keyspaces in the cache.
	Salt       uint64
	Grammar    *apikey.Grammar
	Hasher     *apikey.Hasher
	Credential string
	// Addr is the client's address.
	Addr netip.Addr
	// Failures counts the unknown keys that each address has sent. It is nil if unknown keys are not limited. Addresses above
	// their limit are served last.
	Failures *clients.Failures
	// AskStore makes Load ask the store even for a key that this table takes for unknown. Set it if this node may have missed
	// changes.
	AskStore bool
}

// Get returns the current entry of a digest in a keyspace, nil where the cache holds none.
// It does not allocate.
func (t *Table) Get(digest *apikey.Digest, salt uint64, keyspace string) *Entry {
	word, _ := digestWords(digest[:])
	if e := t.cache.get(word ^ salt); e != nil && e.digest == *digest && e.Keyspace() == keyspace && e.Current() {
		return e
	}
	return nil
}

// Touch records that e's secret authenticated at now from addr, for the next flush. It does
// not allocate for an address that was recorded just before.
func (t *Table) Touch(e *Entry, now time.Time, addr netip.Addr) {
	e.usedAt.Store(now.UnixMicro())
	if p := e.usedFrom.Load(); p == nil || *p != addr {
		t.setUsedFrom(e, addr)
	}
}

// setUsedFrom stores the client's address in the entry. It is a separate function so that the address escapes to the heap
// only here. Many keys are used from one address, so entries share the copy that was made last.
func (t *Table) setUsedFrom(e *Entry, addr netip.Addr) {
	p := t.lastAddr.Load()
	if p == nil || *p != addr {
		p = &addr
		t.lastAddr.Store(p)
	}
	e.usedFrom.Store(p)
}

// Invalidate makes every entry a miss, discards the filter and then rechecks all live requests. Call it if the store has
// changed and the changes are not known one by one.
func (t *Table) Invalidate() {
	t.invalidateAll()
	t.discardFilter()
	t.eachKey(nil, t.recheckKey)
}

// Apply applies changes of the store. When it returns, no entry that was loaded before the changes is current, and live
// requests whose key is no longer valid have been ended. A change may be applied more than once. Apply blocks on the store,
// within ctx. An error means that the digests of new keys could not be read; entries are invalidated in any case.
func (t *Table) Apply(ctx context.Context, changes []Change) error {
	var recheck []func()
	for _, c := range changes {
		id := ID{c.Keyspace, c.ID}
		switch c.Kind {
		case ChangeTenant:
			if owner := t.invalidateTenant(id); owner != nil {
				if a := owner.Subject.OpenAccount(); a != nil {
					a.Invalidate()
				}
				recheck = append(recheck, func() {
					if owner.live.Load() > 0 {
						t.eachKey(owner, t.recheckKey)
					}
				})
			}
		case ChangeKey:
			if k := t.invalidateKey(id); k != nil {
				recheck = append(recheck, func() { t.recheckKey(k) })
			}
		}
	}
	digests, err := t.digestsOf(ctx, changes)
	if t.addToFilter(digests) {
		t.requestRefill()
	}
	if err != nil {
		// Which digests are new is unknown: until the filter is filled again, the store is asked.
		t.discardFilter()
	}
	// creations is raised after addToFilter. So a look-up that began before the change can't mark a new key as unknown.
	t.creations.Add(1)
	for _, f := range recheck {
		f()
	}
	return err
}
