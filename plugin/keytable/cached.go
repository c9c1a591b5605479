package keytable

import (
	"net/netip"
	"strings"
	"time"
	"unique"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// There may be a hundred thousand keys in use, so memory holds only what a check needs of
// their records, which is a third of them. Texts that many keys share are in memory once.

// CachedKey is the part of a key's record that requests are checked by. Immutable.
type CachedKey struct {
	ID       string
	Name     string
	Revoked  bool
	Disabled bool
	// Version is the record's.
	Version int64

	environment unique.Handle[string]
	// scopes as chosen at creation, separated by spaces.
	scopes unique.Handle[string]
	// expires is in Unix microseconds, 0 for never.
	expires int64
	// cold is nil for most keys.
	cold *coldFields
}

// coldFields are the fields that few keys have.
type coldFields struct {
	allowedIPs []netip.Prefix
	// limits are the key's own, nil where its record states none.
	limits *ownLimits
	// secretExpires is the end of a rotation's grace for the secret that the key was found by,
	// in Unix microseconds, 0 for none.
	secretExpires int64
}

// Environment returns the key's environment, such as "live".
func (k *CachedKey) Environment() string { return k.environment.Value() }

// Scopes returns the scopes chosen at the key's creation, separated by spaces.
func (k *CachedKey) Scopes() string { return k.scopes.Value() }

// Limits returns the limits that the key adds to its plan's. It parses them.
func (k *CachedKey) Limits() ([]*ratelimit.Policy, error) {
	if k.cold == nil {
		return nil, nil
	}
	return k.cold.limits.policies()
}

// allowedIPs returns where the key may be used from; none for anywhere.
func (k *CachedKey) allowedIPs() []netip.Prefix {
	if k.cold == nil {
		return nil
	}
	return k.cold.allowedIPs
}

// secretExpires returns the end of the secret's grace in Unix microseconds, 0 for none.
func (e *Entry) secretExpires() int64 {
	if e.Key.cold == nil {
		return 0
	}
	return e.Key.cold.secretExpires
}

// CachedTenant is the part of a tenant's record that requests are checked by. Immutable; the
// tenant's keys in use share it.
type CachedTenant struct {
	Slug   string
	Active bool
	// Version is the record's.
	Version int64
	// Overrides is nil where the record states no limits.
	Overrides *Overrides

	plan unique.Handle[string]
}

// Plan returns the name of the tenant's plan.
func (t *CachedTenant) Plan() string { return t.plan.Value() }

// cacheTenant returns the part of a tenant's record to keep. slug is the same text as the
// record's.
func cacheTenant(r *Tenant, slug string) *CachedTenant {
	c := &CachedTenant{Slug: slug, plan: unique.Make(r.Plan), Active: r.Active, Version: r.Version}
	if r.Overrides != (Overrides{}) {
		o := r.Overrides
		c.Overrides = &o
	}
	return c
}

// fillEntry stores in e the part of a record's key and secret to keep, except the key's id.
func fillEntry(e *Entry, digest apikey.Digest, r *Record) {
	k := r.Key
	e.digest = digest
	e.SecretID = r.Secret.ID
	e.Key = CachedKey{
		Name: k.Name, environment: unique.Make(k.Environment), scopes: unique.Make(strings.Join(k.Scopes, " ")),
		Revoked: !k.RevokedAt.IsZero(), Disabled: k.Disabled, Version: k.Version, expires: unixMicro(k.ExpiresAt),
	}
	cold := coldFields{secretExpires: unixMicro(r.Secret.ExpiresAt)}
	if len(k.AllowedIPs) > 0 {
		cold.allowedIPs = k.AllowedIPs
	}
	if k.Overrides != (Overrides{}) || k.CreditsLimit != nil {
		cold.limits = &ownLimits{k.Overrides, k.CreditsLimit}
	}
	if cold.secretExpires != 0 || cold.allowedIPs != nil || cold.limits != nil {
		e.Key.cold = &cold
	}
}

// unixMicro returns t in Unix microseconds, the precision of stores; 0 for the zero time.
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
