package management

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// RevokeKey revokes a key for good. When it returns, this node rejects every request with one of
// the key's secrets. Revoking a revoked key changes nothing and is no error.
func (m *Manager) RevokeKey(ctx context.Context, a Actor, keyspace, id string) (Receipt, error) {
	return m.setState(ctx, a, keyspace, id, "key.revoked", func(c *Call, k *gateway.Key, _ *gateway.Tenant) error {
		if k.RevokedAt.IsZero() {
			k.RevokedAt = c.Now
		}
		return nil
	})
}

// DisableKey makes a key inactive until EnableKey.
func (m *Manager) DisableKey(ctx context.Context, a Actor, keyspace, id string) (Receipt, error) {
	return m.setState(ctx, a, keyspace, id, "key.disabled", func(_ *Call, k *gateway.Key, _ *gateway.Tenant) error {
		if !k.RevokedAt.IsZero() {
			return errRevoked
		}
		k.Disabled = true
		return nil
	})
}

// EnableKey makes a disabled key active. It returns 409 key_limit_reached if the tenant has as
// many active keys as its plan allows, and 409 key_revoked for a revoked key.
func (m *Manager) EnableKey(ctx context.Context, a Actor, keyspace, id string) (Receipt, error) {
	return m.setState(ctx, a, keyspace, id, "key.enabled", func(c *Call, k *gateway.Key, t *gateway.Tenant) error {
		if !k.RevokedAt.IsZero() {
			return errRevoked
		}
		was := k.StatusAt(c.Now)
		k.Disabled = false
		if was == gateway.StatusActive || k.StatusAt(c.Now) != gateway.StatusActive {
			return nil
		}
		plan, err := c.FindPlan(t)
		if err != nil {
			return err
		}
		if err := c.CheckKeyLimit(t, plan); err != nil {
			return err
		}
		return c.takeAllowance(k, false)
	})
}

// setState calls set to change a key, while the key's tenant is locked. The receipt names the nodes that confirmed the
// change.
func (m *Manager) setState(ctx context.Context, a Actor, keyspace, id, action string, set func(*Call, *gateway.Key, *gateway.Tenant) error) (Receipt, error) {
	var r KeyRecord
	same := false
	where, err := m.commit(ctx, a, keyspace, func(c *Call) error {
		k, t, err := c.FindKey(id, true)
		if err != nil {
			return err
		}
		before := KeyFieldsOf(k)
		if err := set(c, k, t); err != nil {
			return err
		}
		after := KeyFieldsOf(k)
		if same = !audit.Diff(before, after); same {
			r, err = c.keyRecord(k, t)
			return err
		}
		r, err = c.saveKey(k, t, action, before, after)
		return err
	})
	if err != nil && (action == KeyRevoked || action == KeyDisabled) {
		err = m.revokeKeyOffline(ctx, a, keyspace, id, action, err)
	}
	if accepted := (*Accepted)(nil); errors.As(err, &accepted) {
		return accepted.Receipt, nil
	}
	if err != nil {
		return Receipt{}, err
	}
	if same && where.Confirmed == nil {
		// Another call has made this change, and some nodes may not have confirmed it yet.
		where = m.confirmAll(ctx, keyspace)
	}
	return receipt(r, where), nil
}

// MaxGrace is the longest time for which a rotated secret may stay valid.
const MaxGrace = 366 * 24 * time.Hour

// RotateKey gives a key a new secret and returns the new full key, which is never shown again. The
// key's id, usage and limits stay. The former secret stays valid for grace, from 0 to MaxGrace. At
// most two secrets are valid at a time, so that the grace of an earlier rotation ends now.
func (m *Manager) RotateKey(ctx context.Context, a Actor, keyspace, id string, grace time.Duration) (r IssuedKey, err error) {
	if grace < 0 || grace > MaxGrace {
		var f Faults
		f.Invalid("grace", "must be between 0 and %d days", MaxGrace/(24*time.Hour))
		return r, f.Err()
	}
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		k, t, err := c.FindKey(id, true)
		if err != nil {
			return err
		}
		if !k.RevokedAt.IsZero() {
			return errRevoked
		}
		old, err := c.Secrets(c.Keyspace.Name, k.ID)
		if err != nil {
			return err
		}
		for _, s := range old {
			end := c.Now
			if s.ExpiresAt.IsZero() {
				end = c.Now.Add(grace)
			} else if !s.ExpiresAt.After(c.Now) {
				continue // outlived already
			}
			s.ExpiresAt = end
			if err := c.UpdateSecret(s); err != nil {
				return err
			}
		}
		full, secret, err := c.newSecret(k)
		if err != nil {
			return err
		}
		if err := c.InsertSecret(secret); err != nil {
			return err
		}
		before := KeyFieldsOf(k)
		k.Prefix, k.LastFour = secret.Prefix, secret.LastFour
		after := KeyFieldsOf(k)
		audit.Diff(before, after)
		after["grace"] = grace.String()
		r.Key = full
		r.KeyRecord, err = c.saveKey(k, t, "key.rotated", before, after)
		return err
	})
	if err != nil {
		return IssuedKey{}, err
	}
	return r, nil
}
