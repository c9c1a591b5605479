package keytable

import (
	"net/netip"
	"strings"
	"time"
	"unique"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// A hundred thousand keys may be in use. To save memory, the cache holds only the third of each record that a check needs,
// and keeps a text that many keys share once.

// CachedKey is the part of a key's record that a check of a request needs. Immutable.
type CachedKey struct {
	ID       string
	Name     string
	Revoked  bool
	Disabled bool
	// Version is the version of the key's record.
	Version int64

	environment unique.Handle[string]
	// scopes are the scopes chosen at the key's creation, separated by spaces.
	scopes unique.Handle[string]
	// expires is in Unix microseconds, 0 for never.
	expires int64
	// cold is nil for most keys.
	cold *coldFields
}

// coldFields are the fields that few keys have.
type coldFields struct {
	allowedIPs []netip.Prefix
	// limits are the limits in the key's own record; nil if the record states none.
	limits *ownLimits
	// secretExpires is when the grace period of a rotation ends for the entry's secret, in Unix
	// microseconds, 0 for never.
	secretExpires int64
}

// Environment returns the key's environment, such as "live".
func (k *CachedKey) Environment() string { return k.environment.Value() }

// Scopes returns the scopes chosen at the key's creation, separated by spaces.
func (k *CachedKey) Scopes() string { return k.scopes.Value() }

// Limits parses and returns the key's own limits, which apply in addition to its plan's.
func (k *CachedKey) Limits() ([]*ratelimit.Policy, error) {
	if k.cold == nil {
		return nil, nil
	}
	return k.cold.limits.policies()
}

// allowedIPs returns the address ranges from which the key may be used; none means every address.
func (k *CachedKey) allowedIPs() []netip.Prefix {
	if k.cold == nil {
		return nil
	}
	return k.cold.allowedIPs
}

// secretExpires returns when the secret's grace period ends, in Unix microseconds, 0 for never.
func (e *Entry) secretExpires() int64 {
	if e.Key.cold == nil {
		return 0
	}
	return e.Key.cold.secretExpires
}

// CachedTenant is the part of a tenant's record that a check of a request needs. Immutable; all
// keys of the tenant that are in use share it.
type CachedTenant struct {
	Slug   string
	Active bool
	// Version is the version of the tenant's record.
	Version int64
	// Overrides is nil where the record states no limits.
	Overrides *Overrides

	plan unique.Handle[string]
}

// Plan returns the name of the tenant's plan.
func (t *CachedTenant) Plan() string { return t.plan.Value() }

// cacheTenant returns the part of a tenant's record that the cache keeps. slug equals the record's
// slug, and is kept instead of it so that the text is in memory once.
func cacheTenant(r *Tenant, slug string) *CachedTenant {
	c := &CachedTenant{Slug: slug, plan: unique.Make(r.Plan), Active: r.Active, Version: r.Version}
	if r.Overrides != (Overrides{}) {
		o := r.Overrides
		c.Overrides = &o
	}
	return c
}

// fillEntry stores in e the part of a record's key and secret that the cache keeps, except the
// key's id.
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

// fromMicro is the inverse of unixMicro.
func fromMicro(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
