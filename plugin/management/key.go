package management

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// maxPrefixFilter bounds the length of KeyFilter.Prefix, in bytes.
const maxPrefixFilter = 64

// FindKey returns a key that exists for the actor, and its tenant. With lock it locks the tenant,
// so that writes to the keys of one tenant follow one another.
func (c *Call) FindKey(id string, lock bool) (*gateway.Key, *gateway.Tenant, error) {
	const what = "key"
	if !HasIDForm(id, KeyIDPrefix) {
		return nil, nil, NotFound(what)
	}
	k, err := c.Tx.Key(c.Keyspace.Name, id)
	if err != nil {
		return nil, nil, OrNotFound(err, what)
	}
	if !k.DeletedAt.IsZero() || !c.Actor.Sees(k.Tenant) {
		return nil, nil, NotFound(what)
	}
	t, err := c.FindTenant(k.Tenant, lock)
	if IsNotFound(err) {
		return nil, nil, NotFound(what)
	}
	if err != nil {
		return nil, nil, err
	}
	if lock {
		// Another transaction may have changed the key before the tenant was locked.
		if k, err = c.Tx.Key(c.Keyspace.Name, id); err != nil {
			return nil, nil, OrNotFound(err, what)
		}
		if !k.DeletedAt.IsZero() {
			return nil, nil, NotFound(what)
		}
	}
	copied := *k
	return &copied, t, nil
}

// KeyFieldsOf returns the fields of a key that audit events show.
func KeyFieldsOf(k *gateway.Key) audit.Fields {
	ips := make([]string, len(k.AllowedIPs))
	for i, p := range k.AllowedIPs {
		ips[i] = blockString(p)
	}
	concurrency := concurrencyRecord(k.Concurrency)
	return audit.Fields{
		"name": k.Name, "description": k.Description, "environment": k.Environment, "scopes": OrEmpty(k.Scopes),
		"disabled": k.Disabled, "revoked_at": TimeOrNull(k.RevokedAt), "expires_at": TimeOrNull(k.ExpiresAt),
		"allowed_ips": ips, "rate": OrNull(k.Rate), "quota": OrNull(k.Quota), "concurrency": concurrency.Concurrency, "concurrency_per": concurrency.ConcurrencyPer,
		"credits_limit": k.CreditsLimit, "metadata": objectOf(k.Metadata),
		"key_prefix": k.Prefix, "last_four": k.LastFour,
	}
}

// FindPlan returns a tenant's plan. It returns 422 plan_unknown if the configuration has no such
// plan.
func (c *Call) FindPlan(t *gateway.Tenant) (*gateway.Plan, error) {
	if p := c.Keyspace.Plans[t.Plan]; p != nil {
		return p, nil
	}
	if t.Plan == "" && len(c.Keyspace.Plans) == 0 {
		// A keyspace without plans has no limits.
		return &gateway.Plan{Cap: c.Keyspace.Scopes.All()}, nil
	}
	return nil, Reject(http.StatusUnprocessableEntity, CodePlanUnknown,
		"The tenant %q holds the plan %q, which is not configured here. Give it one of %s.", t.Slug, t.Plan, OrNone(c.Keyspace.PlanOrder))
}

// CheckKeyLimit returns 409 key_limit_reached if the tenant has as many active keys as its plan
// allows. The tenant must be locked. Otherwise two callers could both take the last place.
func (c *Call) CheckKeyLimit(t *gateway.Tenant, plan *gateway.Plan) error {
	if plan.MaxKeys <= 0 {
		return nil
	}
	n, err := c.ActiveKeys(c.Keyspace.Name, t.Slug, c.Now)
	if err != nil {
		return err
	}
	if n >= plan.MaxKeys {
		return Reject(http.StatusConflict, CodeKeyLimitReached,
			"The plan %q allows %d active keys, and the tenant has %d. Revoke or disable one first, or change the plan.", plan.Name, plan.MaxKeys, n)
	}
	return nil
}

// takeAllowance gives k, which becomes active, an allowance that no active key has. An operator's new key has an allowance of
// its own. A key of a confined actor takes over a free allowance of the tenant, if there is one. Otherwise the actor could
// spend the plan's limits per key again with each new key. So a tenant that makes its own keys never has more allowances than
// it had active keys at once. fresh is true for a new key. The tenant must be locked.
func (c *Call) takeAllowance(k *gateway.Key, fresh bool) error {
	taken := false
	if !fresh {
		var err error
		if taken, err = c.AllowanceTaken(k, c.Now); err != nil || !taken {
			return err
		}
	}
	if c.Actor.Tenant != "" {
		free, err := c.FreeAllowance(c.Keyspace.Name, k.Tenant, c.Now)
		if err != nil {
			return err
		}
		if free != "" {
			k.Allowance = free
			return nil
		}
	}
	if taken {
		k.Allowance = c.Manager.ids.next(KeyIDPrefix, c.Now)
	}
	return nil
}

// ApplyKey writes the present fields of in to k, and records their faults. fresh is true for a new
// key.
func (c *Call) ApplyKey(f *Faults, k *gateway.Key, plan *gateway.Plan, in KeyFields, fresh bool) {
	if in.Name.Set || fresh {
		k.Name = in.Name.Value
		CheckName(f, "name", k.Name, MaxKeyName)
	}
	if in.Description.Set {
		k.Description = in.Description.Value
		checkDescription(f, "description", k.Description)
	}
	switch {
	case in.Scopes.Set && !in.Scopes.Null:
		k.Scopes = checkScopes(f, "scopes", c.Keyspace, plan, in.Scopes.Value)
	case in.Scopes.Set, fresh:
		k.Scopes = defaultScopes(c.Keyspace, plan)
	}
	switch envs := c.Keyspace.Grammar.Environments(); {
	case fresh && (!in.Environment.Set || in.Environment.Null):
		k.Environment = envs[0]
	case fresh:
		k.Environment = in.Environment.Value
		if !slices.Contains(envs, k.Environment) {
			f.Invalid("environment", "is not an environment; the environments are %s", strings.Join(envs, ", "))
		}
	case in.Environment.Set && in.Environment.Value != k.Environment:
		f.Invalid("environment", "can't be changed, since the key's prefix says it; create another key")
	}
	// A request may repeat the expiry that it read, even one in the past.
	if same := !fresh && !in.ExpiresAt.Null && in.ExpiresAt.Value.Equal(k.ExpiresAt); in.ExpiresAt.Set && !same {
		k.ExpiresAt = CheckExpiry(f, "expires_at", in.ExpiresAt, c.Now)
	}
	if in.AllowedIPs.Set {
		k.AllowedIPs = checkAllowedIPs(f, "allowed_ips", in.AllowedIPs.Value)
	}
	if in.CreditsLimit.Set {
		k.CreditsLimit = nil
		if !in.CreditsLimit.Null {
			limit := in.CreditsLimit.Value
			checkCredits(f, "credits_limit", limit)
			k.CreditsLimit = &limit
		}
	}
	if in.Metadata.Set {
		k.Metadata = checkMetadata(f, "metadata", in.Metadata)
	}
	applyOverrides(f, &k.Overrides, in.Rate, in.Quota, in.Concurrency, true)
}

// CreateKey creates a key for a tenant and returns its record with the full key, which is never
// shown again.
func (m *Manager) CreateKey(ctx context.Context, a Actor, keyspace, slug string, in KeyFields) (r IssuedKey, err error) {
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		t, err := c.FindTenant(slug, true)
		if err != nil {
			return err
		}
		plan, err := c.FindPlan(t)
		if err != nil {
			return err
		}
		k := &gateway.Key{
			ID: m.ids.next(KeyIDPrefix, c.Now), Keyspace: c.Keyspace.Name, Tenant: t.Slug,
			CreatedAt: c.Now, CreatedBy: c.Actor.Name, UpdatedAt: c.Now, Version: 1,
		}
		var f Faults
		c.ApplyKey(&f, k, plan, in, true)
		if err := f.Err(); err != nil {
			return err
		}
		if err := c.CheckKeyLimit(t, plan); err != nil {
			return err
		}
		if err := c.takeAllowance(k, true); err != nil {
			return err
		}
		full, secret, err := c.newSecret(k)
		if err != nil {
			return err
		}
		k.Prefix, k.LastFour = secret.Prefix, secret.LastFour
		if err := c.InsertKey(k); err != nil {
			return err
		}
		if err := c.InsertSecret(secret); err != nil {
			return err
		}
		c.AddChange(gateway.ChangeKey, k.ID)
		c.Event = &audit.Event{Action: "key.created", Target: k.ID, Tenant: t.Slug, Key: k.ID, After: KeyFieldsOf(k)}
		r.Key = full
		r.KeyRecord, err = c.keyRecord(k, t)
		return err
	})
	if err != nil {
		return IssuedKey{}, err
	}
	return r, nil
}

// newSecret generates a full key for k's environment, and the secret to be stored for it.
func (c *Call) newSecret(k *gateway.Key) (full string, s gateway.Secret, err error) {
	full, err = c.Keyspace.Grammar.Generate(k.Environment)
	if err != nil {
		return "", s, err
	}
	digest := c.View.Hasher.Primary(full)
	s = gateway.Secret{
		ID: c.Manager.ids.next(SecretIDPrefix, c.Now), KeyID: k.ID, Keyspace: c.Keyspace.Name,
		Digest: digest[:], Algorithm: c.View.Hasher.PrimaryAlgorithm(), CreatedAt: c.Now,
	}
	s.Prefix, s.LastFour = c.Keyspace.Grammar.Shown(full)
	return full, s, nil
}

// Key returns one key.
func (m *Manager) Key(ctx context.Context, a Actor, keyspace, id string) (r KeyRecord, err error) {
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		k, t, err := c.FindKey(id, false)
		if err != nil {
			return err
		}
		r, err = c.keyRecord(k, t)
		return err
	})
	return r, err
}

// FormerKey returns a key even if it was deleted, because the usage of a deleted key is still stored.
func (m *Manager) FormerKey(ctx context.Context, a Actor, keyspace, id string) (k *gateway.Key, err error) {
	const what = "key"
	if !HasIDForm(id, KeyIDPrefix) {
		return nil, NotFound(what)
	}
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		if k, err = c.Tx.Key(c.Keyspace.Name, id); err != nil {
			return OrNotFound(err, what)
		}
		if !a.Sees(k.Tenant) {
			return NotFound(what)
		}
		return nil
	})
	return k, err
}

// KeyFilter selects keys, newest first.
type KeyFilter struct {
	// Tenant is a slug; "" selects the keys of all tenants.
	Tenant string
	// Status selects keys by their status; "" selects all.
	Status gateway.Status
	// Prefix selects keys whose key_prefix begins with this text; "" selects all keys.
	Prefix string
	// Search selects keys whose name contains this text, whose key_prefix begins with it, or whose id or last_four equals it. The
	// case of ASCII letters does not matter. "" selects all keys.
	Search string
	PageQuery
}

// TenantKeys returns a page of one tenant's keys, or 404 if there is no such tenant.
func (m *Manager) TenantKeys(ctx context.Context, a Actor, keyspace, slug string, q KeyFilter) (Page[KeyRecord], error) {
	t, err := m.Tenant(ctx, a, keyspace, slug)
	if err != nil {
		return Page[KeyRecord]{}, err
	}
	q.Tenant = t.Slug
	return m.Keys(ctx, a, keyspace, q)
}

// Keys returns a page of keys. It is empty for a tenant that does not exist.
func (m *Manager) Keys(ctx context.Context, a Actor, keyspace string, q KeyFilter) (Page[KeyRecord], error) {
	limit, last, err := q.After("k")
	if err != nil {
		return Page[KeyRecord]{}, err
	}
	switch q.Status {
	case "", gateway.StatusActive, gateway.StatusDisabled, gateway.StatusRevoked, gateway.StatusExpired:
	default:
		return Page[KeyRecord]{}, BadParameter("status", "must be active, disabled, revoked or expired")
	}
	if len(q.Prefix) > maxPrefixFilter || !Printable(q.Prefix) {
		return Page[KeyRecord]{}, BadParameter("prefix", "must be the beginning of a key_prefix")
	}
	if utf8.RuneCountInString(q.Search) > MaxKeyName || !Printable(q.Search) {
		return Page[KeyRecord]{}, BadParameter("search", "must be at most 100 characters, none of them control characters")
	}
	if q.Tenant == "" {
		q.Tenant = a.Tenant
	}
	var out []KeyRecord
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		out = nil
		query := KeyQuery{Keyspace: c.Keyspace.Name, Status: q.Status, Prefix: q.Prefix, Search: q.Search, Before: last, Now: c.Now, Limit: limit + 1}
		tenants := map[string]*gateway.Tenant{}
		if q.Tenant != "" {
			t, err := c.FindTenant(q.Tenant, false)
			if IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			tenants[t.Slug], query.Tenant = t, t.Slug
		}
		if last != "" && a.Tenant != "" {
			// A cursor with the id of another tenant's key must not reveal whether that key
			// exists.
			if k, err := c.Tx.Key(c.Keyspace.Name, last); errors.Is(err, gateway.ErrNotFound) || err == nil && k.Tenant != a.Tenant {
				return ErrCursor
			} else if err != nil {
				return err
			}
		}
		keys, err := c.Tx.Keys(query)
		if err != nil {
			return err
		}
		for _, k := range keys {
			t := tenants[k.Tenant]
			if t == nil {
				if t, err = c.Tx.Tenant(c.Keyspace.Name, k.Tenant); err != nil {
					return err
				}
				tenants[k.Tenant] = t
			}
			r, err := c.keyRecord(k, t)
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return CutPage(out, limit, func(r KeyRecord) string { return CursorOf("k", r.ID) }), err
}

var errRevoked = Reject(http.StatusConflict, CodeKeyRevoked,
	"The key is revoked, which can't be undone. Create another one.")

// UpdateKey changes the fields that are present. It returns 409 key_revoked for a revoked key.
func (m *Manager) UpdateKey(ctx context.Context, a Actor, keyspace, id string, in KeyFields, match Match) (r KeyRecord, err error) {
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		k, t, err := c.FindKey(id, true)
		if err != nil {
			return err
		}
		if !match.Matches(k.Version) {
			return ErrPrecondition
		}
		if !k.RevokedAt.IsZero() {
			return errRevoked
		}
		// A key can be renamed even if its tenant's plan is not configured.
		plan, unknown := c.FindPlan(t)
		if unknown != nil && in.Scopes.Set {
			return unknown
		}
		before, was, old := KeyFieldsOf(k), k.StatusAt(c.Now), *k
		var f Faults
		c.ApplyKey(&f, k, plan, in, false)
		if err := f.Err(); err != nil {
			return err
		}
		if err := c.confineKey(&old, k); err != nil {
			return err
		}
		after := KeyFieldsOf(k)
		if !audit.Diff(before, after) {
			r, err = c.keyRecord(k, t)
			return err
		}
		if was != gateway.StatusActive && k.StatusAt(c.Now) == gateway.StatusActive {
			// A later expiry makes an expired key active again.
			if unknown != nil {
				return unknown
			}
			if err := c.CheckKeyLimit(t, plan); err != nil {
				return err
			}
			if err := c.takeAllowance(k, false); err != nil {
				return err
			}
		}
		r, err = c.saveKey(k, t, "key.updated", before, after)
		return err
	})
	return r, err
}

// saveKey stores a changed key, with its change and its audit event.
func (c *Call) saveKey(k *gateway.Key, t *gateway.Tenant, action string, before, after audit.Fields) (KeyRecord, error) {
	version := k.Version + 1
	k.UpdatedAt = c.Now
	if err := c.Tx.UpdateKey(k); err != nil {
		return KeyRecord{}, err
	}
	k.Version = version
	c.AddChange(gateway.ChangeKey, k.ID)
	c.Event = &audit.Event{Action: action, Target: k.ID, Tenant: t.Slug, Key: k.ID, Before: before, After: after}
	return c.keyRecord(k, t)
}

// removeKey deletes a key. Its secrets are removed. Its row stays, because usage is stored under
// its id.
func (c *Call) removeKey(k *gateway.Key) error {
	gone := *k
	gone.DeletedAt, gone.UpdatedAt = c.Now, c.Now
	if err := c.Tx.UpdateKey(&gone); err != nil {
		return err
	}
	if err := c.DeleteSecrets(c.Keyspace.Name, k.ID); err != nil {
		return err
	}
	c.AddChange(gateway.ChangeKey, k.ID)
	return nil
}

// DeleteKey deletes a key in any state. Requests with it are then rejected as with an unknown key.
// DeleteKey returns an *Accepted if the database is unreachable and this node holds the deletion.
func (m *Manager) DeleteKey(ctx context.Context, a Actor, keyspace, id string, match Match) error {
	err := m.Write(ctx, a, keyspace, func(c *Call) error {
		k, t, err := c.FindKey(id, true)
		if err != nil {
			return err
		}
		if !match.Matches(k.Version) {
			return ErrPrecondition
		}
		if err := c.removeKey(k); err != nil {
			return err
		}
		c.Event = &audit.Event{Action: "key.deleted", Target: k.ID, Tenant: t.Slug, Key: k.ID, Before: KeyFieldsOf(k)}
		return nil
	})
	if err != nil && match == nil {
		return m.revokeKeyOffline(ctx, a, keyspace, id, KeyDeleted, err)
	}
	return err
}
