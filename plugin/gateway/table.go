package gateway

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// entry is what the cache keeps for one secret: everything one look-up brought, as of
// the versions it was loaded at. Only its own counters and bound change.
type entry struct {
	digest   apikey.Digest
	secretID string
	Key      CachedKey
	Tenant   *CachedTenant
	// TenantState and key are the states of the tenant and the key; versions they had.
	TenantState   *tenantState
	KeyState      *keyState
	tenantVersion uint64
	keyVersion    uint64
	// bound is what the entry amounts to under the newest view it was judged by.
	bound atomic.Pointer[bound]

	// usedAt and usedFrom are when and from where the secret last authenticated; dirty says
	// that the entry is on the flusher's list.
	usedAt   atomic.Int64 // unix microseconds
	usedFrom atomic.Pointer[netip.Addr]
	dirty    atomic.Bool
}

// current says that nothing changed the key or its tenant since the entry was loaded.
func (e *entry) current() bool {
	return e.keyVersion == e.KeyState.version.Load() && e.tenantVersion == e.TenantState.version.Load()
}

// deadline returns when the key or this secret expires, whichever is first; zero for never.
func (e *entry) until() time.Time {
	u := e.Key.expires
	if s := e.secretExpires(); s != 0 && (u == 0 || s < u) {
		u = s
	}
	return fromMicro(u)
}

// keyspace returns the name of the key's keyspace.
func (e *entry) keyspace() string { return e.KeyState.id.keyspace }

// keyState is what must not be forgotten of a key while it is in use, and therefore
// stands outside the cache: its version, its buckets, its live requests.
type keyState struct {
	id      stateID
	version atomic.Uint64
	subject *ratelimit.Subject
	live    liveList
	// limitHour is the hour, since 1970, in which it was last told that a limit refused the key.
	limitHour atomic.Uint32
	// TenantState is read and set under the shard's lock: keys do not change tenants, but a
	// tenant's state may be dropped and made again.
	owner *tenantState
	// meter is what Options.NewMeter made for the key.
	meter any
}

// tenantState is the same for a tenant.
type tenantState struct {
	id stateID
	// users is how many key states refer to it, and who else needs it to stay. It rises
	// under the shard's lock, or while it is above 0.
	users   atomic.Int64
	version atomic.Uint64
	subject *ratelimit.Subject
	// live is how many requests of its keys are tracked: most changes to a tenant find none,
	// and need not look through the keys.
	live atomic.Int64
	// creditLock is held by whoever leases credits, or has them recalled; a channel, so that waiting ends
	// with the context. Made when first needed.
	creditLock atomic.Pointer[chan struct{}]
	// cached is what was last loaded of the tenant, at cachedVersion. Under the shard's lock.
	cached        *CachedTenant
	cachedVersion uint64
}

// stateID names a key or a tenant.
type stateID struct {
	keyspace, id string
}

func (k *keyState) name() *stateID    { return &k.id }
func (o *tenantState) name() *stateID { return &o.id }

// subjectOf returns a new subject for who is named so, and the id as it is to be kept: cut from the
// subject's, so that its text is in memory once.
func subjectOf(kind string, id stateID) (*ratelimit.Subject, stateID) {
	text := kind + id.keyspace + ":" + id.id
	return ratelimit.NewSubject(text), stateID{id.keyspace, text[len(text)-len(id.id):]}
}

const tableShards = 1024

// table is the registry of states, and the generations that keep a slow load from
// bringing back what changed while it read.
type table struct {
	seed   maphash.Seed
	shards [tableShards]tableShard
	// creations counts changes that may have made an unknown key known.
	creations atomic.Uint64
	keys      atomic.Int64
	interned  interned
	// newMeter may be nil.
	newMeter func(keyspace, tenant, key string) any
}

type tableShard struct {
	mu sync.Mutex
	// generation rises with every change to a key or tenant of this shard.
	generation atomic.Uint64
	keys       states[keyState, *keyState]
	tenants    states[tenantState, *tenantState]
}

// generations is a snapshot of every shard's generation, noted before a load reads.
type generations [tableShards]uint64

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// shard returns the shard of an id, which one it is, and the id's hash.
func (t *table) shard(id stateID) (*tableShard, int, uint64) {
	hash := maphash.Comparable(t.seed, id)
	i := int(hash % tableShards)
	return &t.shards[i], i, hash
}

// snapshot notes all generations. What a load reads after it, admit judges by it.
func (t *table) snapshot(g *generations) {
	for i := range t.shards {
		g[i] = t.shards[i].generation.Load()
	}
}

// admit makes an entry of a record that was read after g was taken, or returns nil
// where the key or its tenant may have changed since: the record is then to be read again.
func (t *table) admit(g *generations, digest apikey.Digest, r *Record) *entry {
	keyspace := t.intern(r.Key.Keyspace)
	tid := stateID{keyspace, r.Tenant.Slug}
	ts, ti, th := t.shard(tid)
	ts.mu.Lock()
	if ts.generation.Load() != g[ti] {
		ts.mu.Unlock()
		return nil
	}
	owner := t.tenant(ts, th, tid)
	owner.users.Add(1) // until the key's state does
	defer owner.users.Add(-1)
	e := &entry{TenantState: owner, tenantVersion: owner.version.Load()}
	if owner.cached == nil || owner.cachedVersion != e.tenantVersion || owner.cached.Version != r.Tenant.Version {
		owner.cached, owner.cachedVersion = t.cacheTenant(r.Tenant, owner.id.id), e.tenantVersion
	}
	e.Tenant = owner.cached
	ts.mu.Unlock()
	t.fillEntry(e, digest, r)

	// The tenant may change from here on: its version then differs from the entry's.
	kid := stateID{keyspace, r.Key.ID}
	ks, ki, kh := t.shard(kid)
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if ks.generation.Load() != g[ki] {
		return nil
	}
	state := ks.keys.find(kh, kid)
	if state == nil {
		state = new(keyState)
		state.subject, state.id = subjectOf("k:", kid)
		if t.newMeter != nil {
			state.meter = t.newMeter(keyspace, owner.id.id, state.id.id)
		}
		ks.keys.add(t.seed, kh, state)
		t.keys.Add(1)
	}
	e.Key.ID = state.id.id
	if state.owner != owner {
		if state.owner != nil {
			state.owner.users.Add(-1)
		}
		owner.users.Add(1)
		state.owner = owner
	}
	e.KeyState, e.keyVersion = state, state.version.Load()
	return e
}

// tenant returns the tenant's state, made where there was none. The shard is locked.
func (t *table) tenant(s *tableShard, hash uint64, id stateID) *tenantState {
	o := s.tenants.find(hash, id)
	if o == nil {
		o = new(tenantState)
		o.subject, o.id = subjectOf("t:", id)
		s.tenants.add(t.seed, hash, o)
	}
	return o
}

// useTenant returns the tenant's state, made where there was none. It stays until
// it was released.
func (t *table) useTenant(id stateID) *tenantState {
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := t.tenant(s, hash, id)
	o.users.Add(1)
	return o
}

// releaseTenant undoes useTenant. A state that nobody else needs is dropped at once.
func (t *table) releaseTenant(o *tenantState) {
	s, _, _ := t.shard(o.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	o.users.Add(-1)
	t.dropTenant(s, o, time.Now())
}

// dropTenant drops the tenant's state if nobody needs it and it is as new. The shard is locked.
func (t *table) dropTenant(s *tableShard, o *tenantState, now time.Time) {
	if o.users.Load() == 0 && o.subject.Drop(now) {
		o.version.Add(1)
		s.generation.Add(1)
		s.tenants.remove(t.seed, o.id)
	}
}

// eachTenant calls f, outside the locks, with every tenant state, which stays meanwhile.
func (t *table) eachTenant(f func(*tenantState)) {
	var batch []*tenantState
	for i := range t.shards {
		s := &t.shards[i]
		batch = batch[:0]
		s.mu.Lock()
		s.tenants.all(func(o *tenantState) {
			o.users.Add(1)
			batch = append(batch, o)
		})
		s.mu.Unlock()
		for _, o := range batch {
			f(o)
			o.users.Add(-1)
		}
	}
}

// invalidateKey makes every entry of the key a miss, also those that are being loaded now,
// and returns its state, nil where the key is not in use.
func (t *table) invalidateKey(id stateID) *keyState {
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation.Add(1)
	state := s.keys.find(hash, id)
	if state != nil {
		state.version.Add(1)
	}
	return state
}

// invalidateTenant is invalidateKey for a tenant, and so for all of its keys.
func (t *table) invalidateTenant(id stateID) *tenantState {
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation.Add(1)
	state := s.tenants.find(hash, id)
	if state != nil {
		state.version.Add(1)
	}
	return state
}

// invalidateAll makes every entry a miss: for when what changed is not known.
func (t *table) invalidateAll() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.generation.Add(1)
		s.keys.all(func(k *keyState) { k.version.Add(1) })
		s.tenants.all(func(o *tenantState) { o.version.Add(1) })
		s.mu.Unlock()
	}
	t.creations.Add(1)
}

// eachKey calls f, outside the locks, with every key state, or with a tenant's only.
func (t *table) eachKey(owner *tenantState, f func(*keyState)) {
	var batch []*keyState
	for i := range t.shards {
		s := &t.shards[i]
		batch = batch[:0]
		s.mu.Lock()
		s.keys.all(func(k *keyState) {
			if owner == nil || k.owner == owner {
				batch = append(batch, k)
			}
		})
		s.mu.Unlock()
		for _, k := range batch {
			f(k)
		}
	}
}

// findKey returns the key's state, nil where it is not in use.
func (t *table) findKey(id stateID) *keyState {
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.find(hash, id)
}

// findTenant returns the tenant's state, nil where it is not in use.
func (t *table) findTenant(id stateID) *tenantState {
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tenants.find(hash, id)
}

// sweep drops key states that are as new, until at most keep are left. Their subjects
// are marked, so that a request that still holds one looks the key up again instead of counting
// where nobody else finds it, and their entries become misses. A tenant's state
// stays while any key state refers to it; most tenants have few keys, so only keys are counted.
func (t *table) sweep(now time.Time, keep int64) {
	if t.keys.Load() <= keep {
		return
	}
	var dropped []*keyState
	for i := range t.shards {
		s := &t.shards[i]
		dropped = dropped[:0]
		s.mu.Lock()
		s.keys.all(func(k *keyState) {
			if t.keys.Load() <= keep || !k.live.empty() || !k.subject.Idle(now) {
				return
			}
			// First, so that a request which is tracked from here on finds it: see Track.
			k.version.Add(1)
			if k.live.empty() && k.subject.Drop(now) {
				s.generation.Add(1) // a load that found this state must not finish with it
				dropped = append(dropped, k)
				t.keys.Add(-1)
				k.owner.users.Add(-1)
			}
		})
		for _, k := range dropped {
			s.keys.remove(t.seed, k.id)
		}
		s.mu.Unlock()
	}
	var tenants []*tenantState
	for i := range t.shards {
		s := &t.shards[i]
		tenants = tenants[:0]
		s.mu.Lock()
		s.tenants.all(func(o *tenantState) { tenants = append(tenants, o) })
		for _, o := range tenants {
			t.dropTenant(s, o, now)
		}
		s.mu.Unlock()
	}
}

// cached says how many keys are in use.
func (t *table) keyCount() int64 { return t.keys.Load() }
