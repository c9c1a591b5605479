package management

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// Revocation is a decision that a key, or all of a tenant's keys, be refused. It holds until a
// later, explicit decision.
type Revocation struct {
	// Action is what was done: KeyRevoked and the others.
	Action string
	// Keyspace and ID name the key, or the tenant by its slug.
	// A token and a secret are named by their ids.
	Keyspace, ID string
	// Key is the id of the key whose secret it is about; "" for others.
	Key string
	// Created is when the tenant was made that it is about: in an older state of the database
	// another may be given its slug. Zero for others, and where any tenant of that slug is meant.
	Created time.Time
	// At is when it was decided; of SecretEnded, when the secret ends.
	At time.Time
	// Actor is who decided.
	Actor Actor
}

// What is decided by a Refusal: the actions of the events that tell of it.
const (
	KeyRevoked      = "key.revoked"
	KeyDisabled     = "key.disabled"
	KeyDeleted      = "key.deleted"
	TenantSuspended = "tenant.suspended"
	TenantDeleted   = "tenant.deleted"
	TokenRevoked    = "token.revoked"
)

// SecretEnded is the Action of the end that a rotation gave a secret. It is no event's: the
// rotation's, or where it is written again an update of the key, tells of it.
const SecretEnded = "secret.ended"

// Reversible says whether a later decision may take it back. All others are for good.
func (r Revocation) Reversible() bool { return r.Action == KeyDisabled || r.Action == TenantSuspended }

// Change returns what is to be judged anew because of the refusal, without a number.
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

// OfflineRevoker is implemented by stores that can hold revocations while the database they
// stand in front of is away.
type OfflineRevoker interface {
	Store
	// Revoke holds r, durably, until it is written to the database: look-ups here answer by it
	// when it returns. ErrNotFound where no such key or tenant is known here. It is for when
	// Update failed with gateway.ErrStore, and says by that error that nothing is held.
	Revoke(ctx context.Context, r Revocation) error
	// SetReplay sets the function that writes held revocations to the database, once it answers. write is called
	// with one after the other, and again with those for which it returned an error. SetReplay does not block.
	SetReplay(write func(ctx context.Context, r Revocation) error)
}

// Accepted is the error of a revocation while the database is unreachable. This gateway rejects the key or the
// tenant's keys already, as the receipt's Status says, and writes the revocation once the database answers.
type Accepted struct{ Receipt Receipt }

func (*Accepted) Error() string {
	return "The database does not answer: it is refused by this gateway at once, and written when the database is back."
}

// replaying marks the context of a held revocation that is written now: it is not held again.
type replaying struct{}

// revokeOffline holds a revocation that the store could not write because of cause, and returns an
// *Accepted, or cause where it can't be held. find checks what is to be refused.
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
	var refused *Error
	switch {
	case errors.As(err, &refused):
		return err
	case err != nil:
		return cause
	}
	if err := m.engine.Apply(context.WithoutCancel(ctx), []gateway.Change{r.Change()}); err != nil {
		return errors.Join(cause, err)
	}
	m.log.WarnContext(ctx, "refused here while the database does not answer, to be written when it does", "action", r.Action, "keyspace", r.Keyspace, "id", r.ID)
	// Nobody can have confirmed what is in no sequence yet.
	h := &Accepted{receipt(KeyRecord{ID: r.ID, Status: acceptedStatus[r.Action]}, m.engine.Confirm(ctx, r.Keyspace, math.MaxInt64, 0))}
	h.Receipt.Durable = false
	return h
}

// acceptedStatus is what a receipt says of what was refused.
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

// Replay writes a refusal that was decided before, with its event, as it would have been
// written then. What holds already, or is about what is not there any more, is no error.
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
	var refused *Error
	if errors.As(err, &refused) {
		// Not found, or revoked already: there is nothing left to refuse.
		return nil
	}
	return err
}

// endSecret has a secret end when a rotation said, which the database has lost.
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
