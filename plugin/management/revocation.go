package management

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// Revocation is a decision to reject a key, a secret, a token, or all keys of a tenant. It holds
// until a later, explicit decision.
type Revocation struct {
	// Action is the kind of decision: KeyRevoked or another of the constants below.
	Action string
	// ID is the id of the key, the secret or the token, or the slug of the tenant, in the keyspace
	// Keyspace.
	Keyspace, ID string
	// Key is the id of the secret's key; "" if the revocation is not of a secret.
	Key string
	// Created is when the tenant was created. It distinguishes the tenant from another one that
	// has the same slug in a restored older database. The zero time matches any tenant of the slug.
	// Revocations of keys, secrets and tokens have the zero time.
	Created time.Time
	// At is the time of the decision. For SecretEnded, it is the time at which the secret ends.
	At time.Time
	// Actor made the decision.
	Actor Actor
}

// These are the actions of a Revocation. The audit event of the decision has the same action.
const (
	KeyRevoked      = "key.revoked"
	KeyDisabled     = "key.disabled"
	KeyDeleted      = "key.deleted"
	TenantSuspended = "tenant.suspended"
	TenantDeleted   = "tenant.deleted"
	TokenRevoked    = "token.revoked"
)

// SecretEnded is the action for a secret that a rotation gave an end. No audit event has this
// action: the decision is in the event of the rotation, or in an update of the key if the decision
// is replayed.
const SecretEnded = "secret.ended"

// Reversible reports whether a later decision may undo r. All others are final.
func (r Revocation) Reversible() bool { return r.Action == KeyDisabled || r.Action == TenantSuspended }

// Change returns the change that makes a node apply r. It has no number yet.
func (r Revocation) Change() gateway.Change {
	c := gateway.Change{Kind: gateway.ChangeKey, Keyspace: r.Keyspace, ID: r.ID}
	switch r.Action {
	case TenantSuspended, TenantDeleted:
		c.Kind = gateway.ChangeTenant
	case TokenRevoked:
		c.Kind = gateway.ChangeToken
	case SecretEnded:
		c.ID = r.Key
	}
	return c
}

// OfflineRevoker is a Store that can hold revocations while its database is unreachable.
type OfflineRevoker interface {
	Store
	// Revoke stores r on this node until it is written to the database. When Revoke returns nil,
	// look-ups on this node respect r. Revoke returns gateway.ErrNotFound if this node knows no
	// such key or tenant, and gateway.ErrStore if it holds nothing. Callers use it after Update
	// failed with gateway.ErrStore.
	Revoke(ctx context.Context, r Revocation) error
	// SetReplay sets the function that writes held revocations to the database once it answers.
	// The store calls write for one revocation at a time, and again if write returned an error.
	// SetReplay does not block.
	SetReplay(write func(ctx context.Context, r Revocation) error)
}

// Accepted is the error of a revocation while the database is unreachable. This node already
// rejects the key or the tenant's keys, as the receipt's Status says. It writes the revocation
// once the database answers.
type Accepted struct{ Receipt Receipt }

func (*Accepted) Error() string {
	return "The database does not answer. This gateway already rejects the key or tenant, and writes the revocation when the database answers again."
}

// replaying marks the context of a held revocation that is being written, so that the node does
// not hold it again.
type replaying struct{}

// revokeOffline makes this node hold a revocation that the store could not write because of cause.
// It returns an *Accepted, or cause if the revocation can't be held. find returns the id, or an
// error if the revocation is not allowed.
func (m *Manager) revokeOffline(ctx context.Context, a Actor, keyspace, action string, cause error, find func(*Call) (id string, err error)) error {
	d, ok := m.store.(OfflineRevoker)
	if ctx.Value(replaying{}) != nil || !ok || !errors.Is(cause, gateway.ErrStore) || ctx.Err() != nil {
		return cause
	}
	r := Revocation{Action: action, Actor: a}
	err := m.Read(ctx, a, keyspace, func(c *Call) (err error) {
		r.Keyspace, r.At = c.Keyspace.Name, c.Now
		r.ID, err = find(c)
		return err
	})
	if err == nil {
		err = d.Revoke(ctx, r)
	}
	var rejected *Error
	switch {
	case errors.As(err, &rejected):
		return err
	case err != nil:
		return cause
	}
	if err := m.engine.Apply(context.WithoutCancel(ctx), []gateway.Change{r.Change()}); err != nil {
		return errors.Join(cause, err)
	}
	m.log.WarnContext(ctx, "the database does not answer: this node holds a revocation, applies it, and writes it when the database answers", "action", r.Action, "keyspace", r.Keyspace, "id", r.ID)
	// No node can have confirmed a change that has no number. The largest number makes Confirm
	// list all nodes as pending.
	accepted := &Accepted{receipt(KeyRecord{ID: r.ID, Status: acceptedStatus[r.Action]}, m.engine.Confirm(ctx, r.Keyspace, math.MaxInt64, 0))}
	accepted.Receipt.Durable = false
	if a.Via == "cli" || a.Via == "admin" {
		accepted.Receipt.Cause = Cause(cause)
	}
	return accepted
}

// Cause returns why the store failed with err, and what to do; "" if that is not known. The text names the database.
func Cause(err error) string {
	var explained interface{ Remedy() string }
	if errors.As(err, &explained) {
		return explained.Remedy()
	}
	return ""
}

// acceptedStatus is the Status in the receipt of a held revocation, by action.
var acceptedStatus = map[string]gateway.Status{
	KeyRevoked: gateway.StatusRevoked, KeyDisabled: gateway.StatusDisabled, KeyDeleted: "deleted",
	TenantSuspended: "suspended", TenantDeleted: "deleted",
}

// revokeKeyOffline is revokeOffline for a key.
func (m *Manager) revokeKeyOffline(ctx context.Context, a Actor, keyspace, id, action string, cause error) error {
	return m.revokeOffline(ctx, a, keyspace, action, cause, func(c *Call) (string, error) {
		k, _, err := c.FindKey(id, false)
		if err == nil && action == KeyDisabled && !k.RevokedAt.IsZero() {
			err = errRevoked
		}
		return id, err
	})
}

// revokeTenantOffline is revokeOffline for a tenant.
func (m *Manager) revokeTenantOffline(ctx context.Context, a Actor, keyspace, slug, action string, cause error) error {
	return m.revokeOffline(ctx, a, keyspace, action, cause, func(c *Call) (string, error) {
		t, err := c.FindTenant(slug, false)
		if err != nil {
			return "", err
		}
		return t.Slug, c.Actor.RequireOperator("suspend or delete tenants")
	})
}

// Replay writes a revocation that was decided before, with the audit event that it would have had
// then. A revocation that is already in effect, or whose key or tenant no longer exists, is no
// error.
func (m *Manager) Replay(ctx context.Context, r Revocation) (err error) {
	ctx = context.WithValue(WithWait(ctx, 0), replaying{}, true)
	switch r.Action {
	case KeyRevoked:
		_, err = m.RevokeKey(ctx, r.Actor, r.Keyspace, r.ID)
	case KeyDisabled:
		_, err = m.DisableKey(ctx, r.Actor, r.Keyspace, r.ID)
	case KeyDeleted:
		err = m.DeleteKey(ctx, r.Actor, r.Keyspace, r.ID, nil)
	case TenantSuspended:
		_, err = m.SuspendTenant(ctx, r.Actor, r.Keyspace, r.ID)
	case TenantDeleted:
		err = m.DeleteTenant(ctx, r.Actor, r.Keyspace, r.ID, true, nil)
	case TokenRevoked:
		err = m.RevokeToken(ctx, r.Actor, r.Keyspace, r.ID)
	case SecretEnded:
		err = m.endSecret(ctx, r)
	}
	var rejected *Error
	if errors.As(err, &rejected) {
		// The key or tenant does not exist any more, or is already revoked, so nothing is left to
		// do.
		return nil
	}
	return err
}

// endSecret gives a secret the end that a rotation decided and that the database has lost.
func (m *Manager) endSecret(ctx context.Context, r Revocation) error {
	return m.Write(ctx, r.Actor, r.Keyspace, func(c *Call) error {
		k, t, err := c.FindKey(r.Key, true)
		if err != nil {
			return err
		}
		list, err := c.Secrets(c.Keyspace.Name, k.ID)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.ID != r.ID || !s.ExpiresAt.IsZero() && !s.ExpiresAt.After(r.At) {
				continue
			}
			ends := func(s gateway.Secret) audit.Fields {
				return audit.Fields{"secret": s.ID, "secret_prefix": s.Prefix, "secret_expires_at": TimeOrNull(s.ExpiresAt)}
			}
			before := ends(s)
			s.ExpiresAt = r.At
			if err := c.UpdateSecret(s); err != nil {
				return err
			}
			_, err = c.saveKey(k, t, "key.updated", before, ends(s))
			return err
		}
		return nil
	})
}
