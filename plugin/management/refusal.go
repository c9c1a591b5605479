package management

import (
	"context"
	"errors"
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

// Enforce writes a refusal that was decided before, with its event, as it would have been
// written then. What holds already, or is about what is not there any more, is no error.
func (m *Manager) Enforce(ctx context.Context, r Refusal) (err error) {
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
