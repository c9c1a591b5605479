package gateway

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// What is kept in memory of the keys in use. There may be a hundred thousand of them,
// so it is what judging needs, and not the records: those take three times as much.

// CachedKey is a key as requests are judged by it. It never changes.
type CachedKey struct {
	ID          string
	Name        string
	Environment string
	Revoked     bool
	Disabled    bool
	// Version is the record's.
	Version int64

	// scopes as chosen at creation, separated by spaces.
	scopes string
	// expires is in Unix microseconds, 0 for never.
	expires int64
	// cold is what most keys have nothing of: nil then.
	cold *coldFields
}

// coldFields is what is kept of the few keys that have it.
type coldFields struct {
	allowedIPs []netip.Prefix
	// limits are the key's own, nil where it states none.
	limits *ownLimits
	// secretExpires is the end of a rotation's grace for the secret that the key was found by, in
	// Unix microseconds, 0 for none.
	secretExpires int64
}

// allowedIPs returns where the key may be used from; none for anywhere.
func (k *CachedKey) allowedIPs() []netip.Prefix {
	if k.cold == nil {
		return nil
	}
	return k.cold.allowedIPs
}

// limits returns the key's own, nil where it states none.
func (k *CachedKey) limits() *ownLimits {
	if k.cold == nil {
		return nil
	}
	return k.cold.limits
}

// secretExpires returns the end of the secret's grace in Unix microseconds, 0 for none.
func (e *entry) secretExpires() int64 {
	if e.Key.cold == nil {
		return 0
	}
	return e.Key.cold.secretExpires
}

// ownLimits are limits of a key's own.
type ownLimits struct {
	Overrides
	credits *int64
}

// CachedTenant is a tenant as requests are judged by it. It never changes, and its keys
// in use share it.
type CachedTenant struct {
	Slug   string
	Plan   string
	Active bool
	// Version is the record's.
	Version int64

	// overrides is nil where the record states none.
	overrides *Overrides
}

// cacheTenant returns what is kept of a tenant's record. slug is the same text as the record's.
func (t *table) cacheTenant(r *Tenant, slug string) *CachedTenant {
	h := &CachedTenant{Slug: slug, Plan: t.intern(r.Plan), Active: r.Active, Version: r.Version}
	if r.Overrides != (Overrides{}) {
		o := r.Overrides
		h.overrides = &o
	}
	return h
}

// fillEntry puts into e what is kept of a record's key and secret, but for the key's id.
func (t *table) fillEntry(e *entry, digest apikey.Digest, r *Record) {
	k := r.Key
	e.digest = digest
	e.secretID = r.Secret.ID
	e.Key = CachedKey{
		Name: k.Name, Environment: t.intern(k.Environment), scopes: t.intern(strings.Join(k.Scopes, " ")),
		Revoked: !k.RevokedAt.IsZero(), Disabled: k.Disabled, Version: k.Version, expires: unixMicro(k.ExpiresAt),
	}
	rare := coldFields{secretExpires: unixMicro(r.Secret.ExpiresAt)}
	if len(k.AllowedIPs) > 0 {
		rare.allowedIPs = k.AllowedIPs
	}
	if k.Overrides != (Overrides{}) || k.CreditsLimit != nil {
		rare.limits = &ownLimits{k.Overrides, k.CreditsLimit}
	}
	if rare.secretExpires != 0 || rare.allowedIPs != nil || rare.limits != nil {
		e.Key.cold = &rare
	}
}

// unixMicro returns t in Unix microseconds, to which stores keep times; 0 for the zero time.
func unixMicro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicro undoes unixMicro.
func fromMicro(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// maxInterned bounds the words that are kept once for all.
const maxInterned = 1024

// interned keeps one copy of texts that many records have in common: environments, plans,
// scopes, algorithms.
type interned struct {
	mu sync.RWMutex
	m  map[string]string
}

func (w *interned) get(s string) string {
	w.mu.RLock()
	one, ok := w.m[s]
	w.mu.RUnlock()
	if ok {
		return one
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.m) >= maxInterned {
		return s
	}
	if w.m == nil {
		w.m = map[string]string{}
	}
	s = strings.Clone(s)
	w.m[s] = s
	return s
}

func (t *table) intern(s string) string { return t.interned.get(s) }
