package keytable

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Entry is what one look-up returned: a secret, its key and its tenant, and the versions that
// their states had. Immutable except for Bound and the time and address of the last use.
type Entry struct {
	digest   apikey.Digest
	SecretID string
	Key      CachedKey
	Tenant   *CachedTenant
	// TenantState and KeyState are the states of the tenant and the key. tenantVersion and
	// keyVersion are the versions that the states had when the entry was loaded.
	TenantState   *TenantState
	KeyState      *KeyState
	tenantVersion uint64
	keyVersion    uint64
	// Bound is the entry compiled for the configuration that last checked it. It is nil before the first check.
	Bound atomic.Pointer[Bound]

	// usedAt and usedFrom are the time and the address at which the secret last authenticated. dirty reports whether the entry
	// is on the list for the next flush.
	usedAt   atomic.Int64 // Unix microseconds
	usedFrom atomic.Pointer[netip.Addr]
	dirty    atomic.Bool
}

// Bound is an Entry compiled for one configuration: the terms and limits that apply to the entry's
// key. Immutable.
type Bound struct {
	// Terms is a value of package gateway. This package does not read it.
	Terms any
	// Tenant and Key are the limits that are counted for the tenant and for the key.
	Tenant, Key []ratelimit.Line
}

// Validity states whether a key, one secret of it and its tenant can be used, and otherwise why
// not.
type Validity uint8

const (
	Valid Validity = iota
	// Revoked is also the state of a secret that was rotated out while its key is valid.
	Revoked
	Disabled
	Expired
	TenantInactive
	// Deleted means that the store has no such key or tenant any more.
	Deleted
	// Stale means that the store did not answer for too long, so that the key's state is unknown.
	Stale
)

// ValidityAt returns whether the entry's key can be used at now. Does not allocate.
func (e *Entry) ValidityAt(now time.Time) Validity {
	switch {
	case e.Key.Revoked:
		return Revoked
	case e.Key.Disabled:
		return Disabled
	case e.Key.expires != 0 && now.UnixMicro() >= e.Key.expires:
		return Expired
	case e.secretExpires() != 0 && now.UnixMicro() >= e.secretExpires():
		return Revoked
	case !e.Tenant.Active:
		return TenantInactive
	}
	return Valid
}

// AllowsAddr reports whether the key may be used from addr. Does not allocate.
func (e *Entry) AllowsAddr(addr netip.Addr) bool {
	blocks := e.Key.allowedIPs()
	if len(blocks) == 0 {
		return true
	}
	addr = addr.Unmap().WithZone("")
	for _, p := range blocks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Current reports whether nothing changed the key or its tenant since the entry was loaded.
func (e *Entry) Current() bool {
	return e.keyVersion == e.KeyState.version.Load() && e.tenantVersion == e.TenantState.version.Load()
}

// Until returns when the key or this secret expires, whichever is first; zero for never.
func (e *Entry) Until() time.Time {
	u := e.Key.expires
	if s := e.secretExpires(); s != 0 && (u == 0 || s < u) {
		u = s
	}
	return fromMicro(u)
}

// Keyspace returns the name of the key's keyspace.
func (e *Entry) Keyspace() string { return e.KeyState.ID.Keyspace }

// LastUse returns the time and the address of the secret's last authentication since the entry was loaded. It returns the
// zero time and an invalid address if there was none.
func (e *Entry) LastUse() (at time.Time, from netip.Addr) {
	if us := e.usedAt.Load(); us != 0 {
		at = time.UnixMicro(us)
	}
	if a := e.usedFrom.Load(); a != nil {
		from = *a
	}
	return at, from
}

// MarkDirty marks the entry as listed for a flush, and reports whether it was not before.
func (e *Entry) MarkDirty() bool { return !e.dirty.Load() && e.dirty.CompareAndSwap(false, true) }

// ClearDirty removes the mark that MarkDirty set.
func (e *Entry) ClearDirty() { e.dirty.Store(false) }

// KeyState is the part of a key's state that must not be lost while the key is in use: its version, its limit counts and
// its running requests. So the state is not in the cache, which may evict entries.
type KeyState struct {
	ID      ID
	version atomic.Uint64
	Subject *ratelimit.Subject
	// shared is not nil if another key has taken over the allowance, and so the Subject. The lock of the shard guards it.
	shared *sharedSubject
	live   liveList
	// limitHour is the hour, since 1970, in which ClaimLimitHour last succeeded.
	limitHour atomic.Uint32
	// owner is the state of the key's tenant. The lock of the shard guards it. A key never changes its tenant, but the tenant's
	// state may be dropped and made again.
	owner *TenantState
	// Meter is the result of Options.NewMeter for the key. A request finds the meter together with the key, so counting needs
	// no look-up. The meter is dropped together with this state and made again later. So a key may have several meters, one
	// after the other.
	Meter any
}

// ClaimLimitHour reports whether this is the first call for the hour (counted since 1970) or a
// later one. Of concurrent first calls, one returns true.
func (k *KeyState) ClaimLimitHour(hour uint32) bool {
	last := k.limitHour.Load()
	return last < hour && k.limitHour.CompareAndSwap(last, hour)
}

// LimitHourClaimed reports whether ClaimLimitHour would return false for the hour.
func (k *KeyState) LimitHourClaimed(hour uint32) bool { return k.limitHour.Load() >= hour }

// Holds reports whether the key holds its allowance. If not, another key has taken over the allowance.
func (k *KeyState) Holds() bool { return k.Subject.Holder() == holderID(k.ID) }

// holderID returns the id of a key as the holder of a Subject.
func holderID(id ID) string { return keyPrefix + id.Keyspace + ":" + id.ID }

// keyPrefix and tenantPrefix begin the ids of the subjects of keys and tenants.
const (
	keyPrefix    = "k:"
	tenantPrefix = "t:"
)

// TenantState is the state of a tenant that must not be lost while a key of the tenant is in use.
type TenantState struct {
	ID ID
	// users counts the key states and callers that need this tenant's state. It is raised under the shard's lock, or while it
	// is above 0.
	users   atomic.Int64
	version atomic.Uint64
	Subject *ratelimit.Subject
	// live counts the tracked requests of the tenant's keys. Most tenants have none when they change, and then the change need
	// not search the tenant's keys.
	live atomic.Int64
	// creditLock is held by the goroutine that leases or returns credits; a channel, so that waiting ends
	// with a context. Made when first needed.
	creditLock atomic.Pointer[chan struct{}]
	// cached is the tenant's record as it was last loaded, when the state had the version
	// cachedVersion. The shard's lock guards both.
	cached        *CachedTenant
	cachedVersion uint64
}

// LockCredits waits, within ctx, until no other goroutine leases or returns the tenant's credits.
// Its error wraps ErrStore.
func (o *TenantState) LockCredits(ctx context.Context) error {
	select {
	case o.creditChan() <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for a tenant's credits: %w", ErrStore, ctx.Err())
	}
}

// UnlockCredits releases the lock of LockCredits.
func (o *TenantState) UnlockCredits() { <-o.creditChan() }

func (o *TenantState) creditChan() chan struct{} {
	if c := o.creditLock.Load(); c != nil {
		return *c
	}
	c := make(chan struct{}, 1)
	o.creditLock.CompareAndSwap(nil, &c)
	return *o.creditLock.Load()
}

// ID identifies a key by its id, or a tenant by its slug.
type ID struct {
	Keyspace, ID string
}

func (k *KeyState) name() *ID    { return &k.ID }
func (o *TenantState) name() *ID { return &o.ID }

// subjectOf returns a new subject, whose id begins with prefix, and id with its texts cut from the
// subject's id, so that each text is in memory once.
func subjectOf(prefix string, id ID) (*ratelimit.Subject, ID) {
	text := prefix + id.Keyspace + ":" + id.ID
	return ratelimit.NewSubject(text), ID{text[len(prefix) : len(prefix)+len(id.Keyspace)], text[len(text)-len(id.ID):]}
}
