package management

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Refusal is a decision that a key, or all of a tenant's keys, be refused. It holds until a
// later, explicit decision.
type Refusal struct {
	// Action is what was done: KeyRevoked and the others.
	Action string
	// Keyspace and ID name the key, or the tenant by its slug.
	Keyspace, ID string
	At           time.Time
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
)

// Change returns what is to be judged anew because of the refusal, without a number.
func (r Refusal) Change() gateway.Change {
	kind := gateway.ChangeKey
	if r.Action == TenantSuspended || r.Action == TenantDeleted {
		kind = gateway.ChangeTenant
	}
	return gateway.Change{Kind: kind, Keyspace: r.Keyspace, ID: r.ID}
}

// Deputy is implemented by stores that can hold what is refused while the database they
// stand in front of is away.
type Deputy interface {
	Store
	// Refuse holds r, durably, until it is written to the database: look-ups here answer by it
	// when it returns. ErrNotFound where no such key or tenant is known here. It is for when
	// Update failed with gateway.ErrStore, and says by that error that nothing is held.
	Refuse(ctx context.Context, r Refusal) error
	// WriteBack names what writes held refusals, once the database is there: write is called
	// with one after the other, and again with those for which it returned an error. It
	// returns at once.
	WriteBack(write func(ctx context.Context, r Refusal) error)
}

// Held is the error of a change that refuses a key or a tenant, where the database is away: it is
// refused here, by the receipt's Status, and written when the database is back.
type Held struct{ Receipt Receipt }

func (*Held) Error() string {
	return "The database does not answer: it is refused by this gateway at once, and written when the database is back."
}

// enforcing marks the context of what was held before: it is not held again.
type enforcing struct{}

// refuseAway holds a refusal where the store could not write it because of cause, and returns a
// *Held; cause where it can't be held. find checks what is to be refused.
func (m *Manager) refuseAway(ctx context.Context, a Actor, keyspace, action string, cause error, find func(*call) (id string, err error)) error {
	d, ok := m.store.(Deputy)
	if ctx.Value(enforcing{}) != nil || !ok || !errors.Is(cause, gateway.ErrStore) || ctx.Err() != nil {
		return cause
	}
	r := Refusal{Action: action, Actor: a}
	err := m.read(ctx, a, keyspace, func(c *call) (err error) {
		r.Keyspace, r.At = c.ks.Name, c.now
		r.ID, err = find(c)
		return err
	})
	if err == nil {
		err = d.Refuse(ctx, r)
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
	h := &Held{receipt(KeyRecord{ID: r.ID, Status: heldStatus[r.Action]}, m.engine.Confirm(ctx, math.MaxInt64, 0))}
	h.Receipt.Durable = false
	return h
}

// heldStatus is what a receipt says of what was refused.
var heldStatus = map[string]gateway.Status{
	KeyRevoked: gateway.StatusRevoked, KeyDisabled: gateway.StatusDisabled, KeyDeleted: "deleted",
	TenantSuspended: "suspended", TenantDeleted: "deleted",
}

// refuseKeyAway is refuseAway for a key.
func (m *Manager) refuseKeyAway(ctx context.Context, a Actor, keyspace, id, action string, cause error) error {
	return m.refuseAway(ctx, a, keyspace, action, cause, func(c *call) (string, error) {
		k, _, err := c.key(id, false)
		if err == nil && action == KeyDisabled && !k.RevokedAt.IsZero() {
			err = errRevoked
		}
		return id, err
	})
}

// refuseTenantAway is refuseAway for a tenant.
func (m *Manager) refuseTenantAway(ctx context.Context, a Actor, keyspace, slug, action string, cause error) error {
	return m.refuseAway(ctx, a, keyspace, action, cause, func(c *call) (string, error) {
		t, err := c.tenant(slug, false)
		if err != nil {
			return "", err
		}
		return t.Slug, c.actor.Operator("suspend or delete tenants")
	})
}

// Enforce writes a refusal that was decided before, with its event, as it would have been
// written then. What holds already, or is about what is not there any more, is no error.
func (m *Manager) Enforce(ctx context.Context, r Refusal) (err error) {
	ctx = context.WithValue(WithWait(ctx, 0), enforcing{}, true)
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
	}
	var refused *Error
	if errors.As(err, &refused) {
		// Not found, or revoked already: there is nothing left to refuse.
		return nil
	}
	return err
}
