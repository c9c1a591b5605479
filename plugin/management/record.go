package management

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

func itoa[N int | int64](n N) string { return strconv.FormatInt(int64(n), 10) }

// TenantRecord is a tenant as the API shows it.
type TenantRecord struct {
	Slug   string `json:"slug"`
	Name   string `json:"name"`
	Plan   string `json:"plan"`
	Active bool   `json:"active"`
	// Credits is the balance. Requests of the last second may not be subtracted yet.
	Credits int64   `json:"credits"`
	Rate    *string `json:"rate"`
	Quota   *string `json:"quota"`
	ConcurrencyRecord
	Metadata   json.RawMessage `json:"metadata"`
	KeysActive int             `json:"keys_active"`
	// MaxKeys is the largest number of active keys that the plan allows; nil for no bound.
	MaxKeys *int `json:"max_keys"`
	// AllowedScopes are the scopes that the plan allows, with those that they include.
	AllowedScopes []string  `json:"allowed_scopes"`
	CreatedAt     time.Time `json:"created_at"`
	UpdatedAt     time.Time `json:"updated_at"`
	// Version is the version for the ETag header.
	Version int64 `json:"-"`
}

// ConcurrencyRecord is the concurrency limit that a key's or tenant's own record states. Its fields
// are nil where the record states none.
type ConcurrencyRecord struct {
	Concurrency *int64 `json:"concurrency"`
	// ConcurrencyPer is "key", "tenant" or "address"; nil for the default, "key".
	ConcurrencyPer *string `json:"concurrency_per"`
}

// concurrencyRecord parses a stored limit, such as "5 per tenant". A record of an earlier version
// may hold several limits, of which concurrencyRecord returns the first.
func concurrencyRecord(text string) (r ConcurrencyRecord) {
	first, _, _ := strings.Cut(text, ",")
	size, per, _ := strings.Cut(first, " per ")
	if n, err := strconv.ParseInt(size, 10, 64); err == nil {
		r.Concurrency, r.ConcurrencyPer = &n, OrNull(per)
	}
	return r
}

// ConcurrencyText returns the limit as text, such as "5 per tenant"; "" where there is none.
func (r ConcurrencyRecord) ConcurrencyText() string {
	if r.Concurrency == nil {
		return ""
	}
	text := strconv.FormatInt(*r.Concurrency, 10)
	if r.ConcurrencyPer != nil {
		text += " per " + *r.ConcurrencyPer
	}
	return text
}

// KeyRecord is a key as the API shows it.
type KeyRecord struct {
	ID          string `json:"id"`
	Tenant      string `json:"tenant"`
	Name        string `json:"name"`
	Description string `json:"description"`
	KeyPrefix   string `json:"key_prefix"`
	LastFour    string `json:"last_four"`
	Environment string `json:"environment"`
	// Scopes are the scopes as stated. EffectiveScopes are those that the tenant's plan allows
	// now, with the scopes that they include.
	Scopes          []string       `json:"scopes"`
	EffectiveScopes []string       `json:"effective_scopes"`
	Status          gateway.Status `json:"status"`
	IsActive        bool           `json:"is_active"`
	CreatedAt       time.Time      `json:"created_at"`
	CreatedBy       string         `json:"created_by"`
	UpdatedAt       time.Time      `json:"updated_at"`
	ExpiresAt       *time.Time     `json:"expires_at"`
	RevokedAt       *time.Time     `json:"revoked_at"`
	LastUsedAt      *time.Time     `json:"last_used_at"`
	LastUsedIP      *string        `json:"last_used_ip"`
	AllowedIPs      []string       `json:"allowed_ips"`
	Rate            *string        `json:"rate"`
	Quota           *string        `json:"quota"`
	ConcurrencyRecord
	CreditsLimit *int64          `json:"credits_limit"`
	Secrets      []SecretRecord  `json:"secrets"`
	Metadata     json.RawMessage `json:"metadata"`
	// Version is the version for the ETag header.
	Version int64 `json:"-"`
}

// SecretRecord is the visible part of one of a key's secrets. A key has several after a rotation.
type SecretRecord struct {
	ID        string    `json:"id"`
	LastFour  string    `json:"last_four"`
	CreatedAt time.Time `json:"created_at"`
	// ExpiresAt is when the grace of a rotation ends or ended; nil for the current secret.
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	LastUsedIP *string    `json:"last_used_ip"`
}

// IssuedKey is a key's record with the full key, which is never stored.
type IssuedKey struct {
	KeyRecord
	Key string `json:"key"`
}

// Receipt names the nodes that have applied a change to a key.
type Receipt struct {
	// ID is the key's id, and Status its status after the change.
	ID     string         `json:"id"`
	Status gateway.Status `json:"status"`
	// Confirmed are the nodes that have applied the change.
	Confirmed []string `json:"confirmed"`
	// Pending are the nodes that have not confirmed the change.
	Pending []PendingNode `json:"pending"`
	// Durable reports whether the change is stored in the database.
	Durable bool `json:"durable"`
	// Cause is why the change is not stored, and what to do. Only callers on the gateway's machine get it.
	Cause string `json:"cause,omitempty"`
}

// PendingNode is a node that has not confirmed a change.
type PendingNode struct {
	Node string `json:"node"`
	// StopsBy is when the node stops answering from its own data; nil if that is not known.
	StopsBy *time.Time `json:"stops_by"`
}

// LedgerRecord is one movement of a balance as the API shows it.
type LedgerRecord struct {
	At        time.Time `json:"at"`
	Kind      string    `json:"kind"`
	Amount    int64     `json:"amount"`
	Balance   int64     `json:"balance"`
	Key       *string   `json:"key_id"`
	Reference *string   `json:"reference"`
	Actor     *string   `json:"actor"`
}

// CreditsRecord is a tenant's balance with a page of its ledger, newest first.
type CreditsRecord struct {
	Balance    int64          `json:"balance"`
	Data       []LedgerRecord `json:"data"`
	NextCursor *string        `json:"next_cursor"`
}

// Page is one page of a list.
type Page[T any] struct {
	Data []T `json:"data"`
	// NextCursor is the cursor of the next page; nil on the last page.
	NextCursor *string `json:"next_cursor"`
}

// CutPage returns a page of at most limit rows. rows must have one row more if there is another
// page.
func CutPage[T any](rows []T, limit int, cursor func(T) string) Page[T] {
	p := Page[T]{Data: rows}
	if len(rows) > limit {
		p.Data = rows[:limit]
		c := cursor(rows[limit-1])
		p.NextCursor = &c
	}
	if p.Data == nil {
		p.Data = []T{}
	}
	return p
}

func OrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func TimeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func OrEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func objectOf(m json.RawMessage) json.RawMessage {
	if len(m) == 0 {
		return json.RawMessage("{}")
	}
	return m
}

// tenantRecord returns a tenant's record. It reads the number of active keys from the store.
func (c *Call) tenantRecord(t *gateway.Tenant) (TenantRecord, error) {
	n, err := c.ActiveKeys(c.Keyspace.Name, t.Slug, c.Now)
	if err != nil {
		return TenantRecord{}, err
	}
	r := TenantRecord{
		Slug: t.Slug, Name: t.Name, Plan: t.Plan, Active: t.Active, Credits: t.Credits,
		Rate: OrNull(t.Rate), Quota: OrNull(t.Quota), ConcurrencyRecord: concurrencyRecord(t.Concurrency),
		Metadata: objectOf(t.Metadata), KeysActive: n, AllowedScopes: []string{},
		CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC(), Version: t.Version,
	}
	if plan := c.Keyspace.Plans[t.Plan]; plan != nil {
		r.AllowedScopes = OrEmpty(c.Keyspace.Scopes.List(plan.Cap))
		if plan.MaxKeys > 0 {
			r.MaxKeys = &plan.MaxKeys
		}
	}
	return r, nil
}

// keyRecord returns a key's record. It reads the key's secrets from the store. t is the key's
// tenant.
func (c *Call) keyRecord(k *gateway.Key, t *gateway.Tenant) (KeyRecord, error) {
	secrets, err := c.Secrets(c.Keyspace.Name, k.ID)
	if err != nil {
		return KeyRecord{}, err
	}
	status := k.StatusAt(c.Now)
	r := KeyRecord{
		ID: k.ID, Tenant: k.Tenant, Name: k.Name, Description: k.Description,
		KeyPrefix: k.Prefix, LastFour: k.LastFour, Environment: k.Environment,
		Scopes: OrEmpty(k.Scopes), EffectiveScopes: []string{},
		Status: status, IsActive: status == gateway.StatusActive,
		CreatedAt: k.CreatedAt.UTC(), CreatedBy: k.CreatedBy, UpdatedAt: k.UpdatedAt.UTC(),
		ExpiresAt: TimeOrNull(k.ExpiresAt), RevokedAt: TimeOrNull(k.RevokedAt),
		LastUsedAt: TimeOrNull(k.LastUsedAt), LastUsedIP: OrNull(k.LastUsedIP),
		AllowedIPs: make([]string, 0, len(k.AllowedIPs)),
		Rate:       OrNull(k.Rate), Quota: OrNull(k.Quota), ConcurrencyRecord: concurrencyRecord(k.Concurrency),
		CreditsLimit: k.CreditsLimit, Secrets: make([]SecretRecord, 0, len(secrets)),
		Metadata: objectOf(k.Metadata), Version: k.Version,
	}
	if plan := c.Keyspace.Plans[t.Plan]; plan != nil {
		r.EffectiveScopes = OrEmpty(c.Keyspace.Scopes.List(c.Keyspace.Scopes.Closure(k.Scopes) & plan.Cap))
	}
	for _, p := range k.AllowedIPs {
		r.AllowedIPs = append(r.AllowedIPs, blockString(p))
	}
	for _, s := range secrets {
		r.Secrets = append(r.Secrets, SecretRecord{
			ID: s.ID, LastFour: s.LastFour, CreatedAt: s.CreatedAt.UTC(), ExpiresAt: TimeOrNull(s.ExpiresAt),
			LastUsedAt: TimeOrNull(s.LastUsedAt), LastUsedIP: OrNull(s.LastUsedIP),
		})
	}
	return r, nil
}
