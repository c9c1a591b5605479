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

// HeldKey is a key as requests are judged by it. It never changes.
type HeldKey struct {
	ID          string
	Name        string
	Environment string
	// Scopes as chosen at creation.
	Scopes     []string
	AllowedIPs []netip.Prefix
	Revoked    bool
	Disabled   bool
	// Version is the record's.
	Version int64

	// expires is in Unix microseconds, 0 for never.
	expires int64
	// limits are the key's own, nil where it states none.
	limits *heldLimits
}

// heldLimits are limits of a key's own.
type heldLimits struct {
	Overrides
	credits *int64
}

// HeldTenant is a tenant as requests are judged by it. It never changes, and its keys
// in use share it.
type HeldTenant struct {
	Slug   string
	Plan   string
	Active bool
	// Version is the record's.
	Version int64

	// overrides is nil where the record states none.
	overrides *Overrides
}

// holdTenant returns what is kept of a tenant's record.
func (t *table) holdTenant(r *Tenant) *HeldTenant {
	h := &HeldTenant{Slug: r.Slug, Plan: t.intern(r.Plan), Active: r.Active, Version: r.Version}
	if r.Overrides != (Overrides{}) {
		o := r.Overrides
		h.overrides = &o
	}
	return h
}

// hold puts into e what is kept of a record's key and secret.
func (t *table) hold(e *entry, digest apikey.Digest, r *Record) {
	k := r.Key
	e.digest = digest
	e.rec = HeldKey{
		ID: k.ID, Name: k.Name, Environment: t.intern(k.Environment),
		Revoked: !k.RevokedAt.IsZero(), Disabled: k.Disabled, Version: k.Version, expires: unixMicro(k.ExpiresAt),
	}
	if len(k.Scopes) > 0 {
		e.rec.Scopes = t.internAll(k.Scopes)
	}
	if len(k.AllowedIPs) > 0 {
		e.rec.AllowedIPs = k.AllowedIPs
	}
	if k.Overrides != (Overrides{}) || k.CreditsLimit != nil {
		e.rec.limits = &heldLimits{k.Overrides, k.CreditsLimit}
	}
	e.secretID, e.secretExpires = r.Secret.ID, unixMicro(r.Secret.ExpiresAt)
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

func (t *table) internAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = t.intern(s)
	}
	return out
}
