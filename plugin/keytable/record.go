package keytable

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Overrides are the limits that a tenant's or a key's record states, as written
// ("500/m burst 60"; several are joined with ", "). Empty means none. A tenant's
// replace all of its plan's limits of the same kind; a key's are checked in addition.
type Overrides struct {
	Rate        string
	Quota       string
	Concurrency string
}

// Tenant is a customer of the operator's API, as the store holds it. A loaded Tenant
// is shared and never changed.
type Tenant struct {
	Keyspace string
	// Slug names the tenant. It is unique regardless of case, never changes, and is never reused.
	Slug   string
	Name   string
	Plan   string
	Active bool
	Overrides
	Metadata  json.RawMessage
	CreatedAt time.Time
	UpdatedAt time.Time
	// DeletedAt is zero unless the tenant was deleted; only its slug then remains.
	DeletedAt time.Time
	// Version rises by one with each change of the row; it is the row's ETag.
	Version int64
	// Credits is the balance in the store. Credits that gateways spent from leases since their
	// last flush are still part of it.
	Credits int64
}

// Key is one API key's record, as the store holds it, without any secret. A loaded
// Key is shared and never changed.
type Key struct {
	ID          string
	Keyspace    string
	Tenant      string
	Name        string
	Description string
	Environment string
	// Scopes are the scopes chosen at creation. Which of them the plan allows is computed when a
	// request is checked.
	Scopes     []string
	Disabled   bool
	RevokedAt  time.Time
	DeletedAt  time.Time
	ExpiresAt  time.Time
	AllowedIPs []netip.Prefix
	Overrides
	// CreditsLimit bounds what this key may spend of its tenant's balance, ever. nil: no bound.
	CreditsLimit *int64
	Metadata     json.RawMessage
	CreatedAt    time.Time
	CreatedBy    string
	UpdatedAt    time.Time
	LastUsedAt   time.Time
	LastUsedIP   string
	// Prefix and LastFour are parts of the newest secret, by which people recognize the key.
	Prefix   string
	LastFour string
	Version  int64
	// Allowance is the id of the key whose allowance this key has taken over: what was spent of the plan's limits per key
	// stays spent. "" means that the key has its own allowance. At most one active key has an allowance.
	Allowance string
}

// AllowanceID returns the id of the key's allowance.
func (k *Key) AllowanceID() string {
	if k.Allowance == "" {
		return k.ID
	}
	return k.Allowance
}

// Status states whether a key can be used according to its own record, and otherwise why not. The
// tenant's state is no part of it.
type Status string

const (
	StatusActive   Status = "active"
	StatusDisabled Status = "disabled"
	StatusRevoked  Status = "revoked"
	StatusExpired  Status = "expired"
)

// StatusAt returns the key's status at now. Of several, revoked comes before disabled, and
// disabled before expired.
func (k *Key) StatusAt(now time.Time) Status {
	switch {
	case !k.RevokedAt.IsZero():
		return StatusRevoked
	case k.Disabled:
		return StatusDisabled
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return StatusExpired
	}
	return StatusActive
}

// Secret is the stored form of one full key that authenticates as a Key: its digest. A Key has one
// secret, or two during the grace period of a rotation. Expired secrets stay, so that their use is
// distinguished from an unknown key.
type Secret struct {
	ID       string
	KeyID    string
	Keyspace string
	// Digest is made from the full key by Algorithm.
	Digest    []byte
	Algorithm apikey.Algorithm
	Prefix    string
	LastFour  string
	CreatedAt time.Time
	// ExpiresAt is the end of a rotation's grace; zero for the current secret.
	ExpiresAt  time.Time
	LastUsedAt time.Time
	LastUsedIP string
}

// Record is the result of one look-up of a digest: the secret that matched, its key, and its
// tenant.
type Record struct {
	Secret Secret
	Key    *Key
	Tenant *Tenant
}
