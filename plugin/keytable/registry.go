package keytable

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

const registryShards = 1024

// registry holds the states of keys and tenants in use. Its generations count changes. A load compares them before and
// after its read, so that a slow load never brings back a record that changed meanwhile.
type registry struct {
	seed   maphash.Seed
	shards [registryShards]registryShard
	// creations counts changes that may have made an unknown key known.
	creations atomic.Uint64
	keys      atomic.Int64
	shared    sharedSubjects
	// newMeter may be nil.
	newMeter func(keyspace, tenant, key string) any
}

type registryShard struct {
	mu sync.Mutex
	// generation rises with every change to a key or tenant of this shard.
	generation atomic.Uint64
	keys       states[KeyState, *KeyState]
	tenants    states[TenantState, *TenantState]
}

// generations is a snapshot of every shard's generation, taken before a load reads.
type generations [registryShards]uint64

func (t *registry) init(newMeter func(keyspace, tenant, key string) any) {
	t.seed, t.newMeter = maphash.MakeSeed(), newMeter
}

// shard returns the shard of an id, its index, and the id's hash.
func (t *registry) shard(id ID) (*registryShard, int, uint64) {
	hash := maphash.Comparable(t.seed, id)
	i := int(hash % registryShards)
	return &t.shards[i], i, hash
}

// snapshot stores all generations in g. Call it before the read whose record goes to admit.
func (t *registry) snapshot(g *generations) {
	for i := range t.shards {
		g[i] = t.shards[i].generation.Load()
	}
}

// admit makes an entry of a record that was read after the generations g were taken. It returns nil if the key or its tenant
// may have changed since then; the caller must then read the record again.
func (t *registry) admit(g *generations, digest apikey.Digest, r *Record) *Entry {
	tid := ID{r.Key.Keyspace, r.Tenant.Slug}
	ts, ti, th := t.shard(tid)
	ts.mu.Lock()
	if ts.generation.Load() != g[ti] {
		ts.mu.Unlock()
		return nil
	}
	owner := t.tenant(ts, th, tid)
	owner.users.Add(1) // This use keeps the tenant's state in memory until the key's state refers to it.
	defer owner.users.Add(-1)
	e := &Entry{TenantState: owner, tenantVersion: owner.version.Load()}
	if owner.cached == nil || owner.cachedVersion != e.tenantVersion || owner.cached.Version != r.Tenant.Version {
		owner.cached, owner.cachedVersion = cacheTenant(r.Tenant, owner.ID.ID), e.tenantVersion
	}
	e.Tenant = owner.cached
	ts.mu.Unlock()
	fillEntry(e, digest, r)

	// A change of the tenant from here on gives the tenant another version than the entry has, so the entry becomes a miss.
	kid := ID{r.Key.Keyspace, r.Key.ID}
	shared := t.useShared(r.Key)
	defer t.shared.release(shared)
	ks, ki, kh := t.shard(kid)
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if ks.generation.Load() != g[ki] {
		return nil
	}
	state := ks.keys.find(kh, kid)
	if state != nil && state.shared != shared && (shared != nil || state.Subject.ID() != holderID(kid)) {
		// The key has another allowance than before.
		t.removeKey(ks, state)
		state = nil
	}
	if state == nil {
		state = new(KeyState)
		state.Subject, state.ID = subjectOf(keyPrefix, kid)
		if shared != nil {
			state.Subject, state.shared = shared.Subject, shared
			t.shared.use(shared)
		}
		if t.newMeter != nil {
			state.Meter = t.newMeter(state.ID.Keyspace, owner.ID.ID, state.ID.ID)
		}
		ks.keys.add(t.seed, kh, state)
		t.keys.Add(1)
	}
	e.Key.ID = state.ID.ID
	if state.owner != owner {
		if state.owner != nil {
			state.owner.users.Add(-1)
		}
		owner.users.Add(1)
		state.owner = owner
	}
	e.KeyState, e.keyVersion = state, state.version.Load()
	if shared != nil && r.Key.StatusAt(time.Now()) == StatusActive {
		state.Subject.HandOver(holderID(kid))
	}
	return e
}

// removeKey removes the state of a key that is used again with another state. The shard is locked.
func (t *registry) removeKey(s *registryShard, k *KeyState) {
	k.version.Add(1)
	s.generation.Add(1)
	s.keys.remove(t.seed, k.ID)
	t.keys.Add(-1)
	k.owner.users.Add(-1)
	t.shared.release(k.shared)
}

// tenant returns the tenant's state, and makes it where there was none. The shard is locked.
func (t *registry) tenant(s *registryShard, hash uint64, id ID) *TenantState {
	o := s.tenants.find(hash, id)
	if o == nil {
		o = new(TenantState)
		o.Subject, o.ID = subjectOf(tenantPrefix, id)
		s.tenants.add(t.seed, hash, o)
	}
	return o
}

// UseTenant returns the tenant's state, and makes it where there was none. The state stays
// until ReleaseTenant.
func (t *registry) UseTenant(keyspace, name string) *TenantState {
	id := ID{keyspace, name}
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := t.tenant(s, hash, id)
	o.users.Add(1)
	return o
}

// ReleaseTenant undoes UseTenant. A state without other users is dropped at once.
func (t *registry) ReleaseTenant(o *TenantState) {
	s, _, _ := t.shard(o.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	o.users.Add(-1)
	t.dropTenant(s, o, time.Now())
}

// dropTenant drops the tenant's state if it has no users and is idle. The shard is locked.
func (t *registry) dropTenant(s *registryShard, o *TenantState, now time.Time) {
	if o.users.Load() == 0 && o.Subject.Drop(now) {
		o.version.Add(1)
		s.generation.Add(1)
		s.tenants.remove(t.seed, o.ID)
	}
}

// EachTenant calls f with every tenant state, and holds no lock meanwhile. The state stays
// while f runs.
func (t *registry) EachTenant(f func(*TenantState)) {
	var batch []*TenantState
	for i := range t.shards {
		s := &t.shards[i]
		batch = batch[:0]
		s.mu.Lock()
		s.tenants.all(func(o *TenantState) {
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

// invalidateKey makes every entry of the key a cache miss, also entries that are being loaded. It returns the state of the
// key, or nil if the key is not in use.
func (t *registry) invalidateKey(id ID) *KeyState {
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

// invalidateTenant makes every entry of the tenant's keys a cache miss, also entries that are being loaded. It returns the
// state of the tenant, or nil if no key of the tenant is in use.
func (t *registry) invalidateTenant(id ID) *TenantState {
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

// invalidateAll makes every entry a miss.
func (t *registry) invalidateAll() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.generation.Add(1)
		s.keys.all(func(k *KeyState) { k.version.Add(1) })
		s.tenants.all(func(o *TenantState) { o.version.Add(1) })
		s.mu.Unlock()
	}
	t.creations.Add(1)
}

// eachKey calls f with the state of every key or, if owner is not nil, of every key of that tenant. It holds no lock during
// the calls.
func (t *registry) eachKey(owner *TenantState, f func(*KeyState)) {
	var batch []*KeyState
	for i := range t.shards {
		s := &t.shards[i]
		batch = batch[:0]
		s.mu.Lock()
		s.keys.all(func(k *KeyState) {
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

// FindKey returns the key's state, nil where the key is not in use.
func (t *registry) FindKey(keyspace, name string) *KeyState {
	id := ID{keyspace, name}
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.find(hash, id)
}

// FindTenant returns the tenant's state, nil where no key of it is in use.
func (t *registry) FindTenant(keyspace, name string) *TenantState {
	id := ID{keyspace, name}
	s, _, hash := t.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tenants.find(hash, id)
}

// sweep drops states of idle keys until at most keep states are left. It marks the subjects of these keys as dropped, so
// that a request which still holds such a subject looks the key up again. The cached entries of the keys become misses.
// Only key states are counted, because a tenant's state stays as long as a key state refers to it.
func (t *registry) sweep(now time.Time, keep int64) {
	t.shared.sweep(now)
	if t.keys.Load() <= keep {
		return
	}
	var dropped []*KeyState
	for i := range t.shards {
		s := &t.shards[i]
		dropped = dropped[:0]
		s.mu.Lock()
		s.keys.all(func(k *KeyState) {
			if t.keys.Load() <= keep || !k.live.empty() || !k.Subject.Idle(now) {
				return
			}
			// The version is raised before the list is searched again. So a request that is tracked later notices the raised version,
			// see Track.
			k.version.Add(1)
			if k.live.empty() && t.shared.drop(k, now) {
				s.generation.Add(1) // The generation is raised so that a load that found this state does not finish with it.
				dropped = append(dropped, k)
				t.keys.Add(-1)
				k.owner.users.Add(-1)
			}
		})
		for _, k := range dropped {
			s.keys.remove(t.seed, k.ID)
		}
		s.mu.Unlock()
	}
	var tenants []*TenantState
	for i := range t.shards {
		s := &t.shards[i]
		tenants = tenants[:0]
		s.mu.Lock()
		s.tenants.all(func(o *TenantState) { tenants = append(tenants, o) })
		for _, o := range tenants {
			t.dropTenant(s, o, now)
		}
		s.mu.Unlock()
	}
}

// KeyCount returns how many keys are in use.
func (t *registry) KeyCount() int64 { return t.keys.Load() }
