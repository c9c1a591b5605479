package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
)

// deliverTimeout bounds the write of one revocation to the primary.
const deliverTimeout = 10 * time.Second

// Revoke implements management.OfflineRevoker. If the replica has a broadcaster, Revoke also
// publishes the revocation to the other nodes.
func (r *Replica) Revoke(ctx context.Context, revocation management.Revocation) error {
	revocation.At = revocation.At.UTC().Truncate(time.Microsecond) // A microsecond is the precision of the times that the database stores.
	if err := r.revokeLocal(ctx, revocation); err != nil {
		return err
	}
	r.publish(ctx, revocation)
	r.primaryChanged.notify()
	return nil
}

// revokeLocal applies a revocation to the copy, and stores it as pending.
func (r *Replica) revokeLocal(ctx context.Context, revocation management.Revocation) error {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	s := r.view.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet that could store the revocation", gateway.ErrStore)
	}
	if err := s.copy.Revoke(ctx, revocation); err != nil {
		return err
	}
	r.countPending(ctx, s)
	return nil
}

// countPending updates the number of pending revocations. The caller holds pendingMu.
func (r *Replica) countPending(ctx context.Context, s *activeView) {
	n, err := s.copy.CountPending(ctx)
	if err != nil {
		n = r.pendingCount.Load() + 1 // The number is an estimate, which the next delivery to the primary corrects.
	}
	r.pendingCount.Store(n)
}

// storeRevocations stores the revocations that changes of the primary show. The node uses
// storeRevocations while look-ups go to the primary and no copy can apply the changes. If the primary
// loses the revocations later, the node writes them to the primary again.
func (r *Replica) storeRevocations(ctx context.Context, changes []gateway.Change) error {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	s := r.view.Load()
	if s.copy == nil {
		return nil
	}
	var list []management.Revocation
	if err := r.primary.View(ctx, func(tx management.Tx) error {
		list = nil
		for _, c := range changes {
			revocations, err := revocationsOf(tx, c)
			if err != nil {
				return err
			}
			list = append(list, revocations...)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, c := range changes {
		reversible, err := s.copy.ReversibleRevocations(ctx, c)
		if err == nil && len(reversible) > 0 {
			_, err = r.reverse(ctx, s.copy, reversible)
		}
		if err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := s.copy.RevokeAll(ctx, list); err != nil {
		return err
	}
	r.countPending(ctx, s)
	return nil
}

// revocationsOf returns the revocations that the present rows of a changed key or tenant show.
func revocationsOf(tx management.Tx, c gateway.Change) (out []management.Revocation, err error) {
	add := func(revoked bool, revocation management.Revocation) {
		if revoked {
			revocation.Keyspace, revocation.Actor = c.Keyspace, replicaActor
			out = append(out, revocation)
		}
	}
	switch c.Kind {
	case gateway.ChangeKey:
		k, err := tx.Key(c.Keyspace, c.ID)
		if err != nil {
			return nil, ignoreNotFound(err)
		}
		add(!k.DeletedAt.IsZero(), management.Revocation{Action: management.KeyDeleted, ID: k.ID, At: k.DeletedAt})
		add(!k.RevokedAt.IsZero(), management.Revocation{Action: management.KeyRevoked, ID: k.ID, At: k.RevokedAt})
		add(k.Disabled, management.Revocation{Action: management.KeyDisabled, ID: k.ID, At: k.UpdatedAt})
		secrets, err := tx.Secrets(c.Keyspace, c.ID)
		if err != nil {
			return nil, err
		}
		for _, s := range secrets {
			add(!s.ExpiresAt.IsZero(), management.Revocation{Action: management.SecretEnded, ID: s.ID, Key: k.ID, At: s.ExpiresAt})
		}
	case gateway.ChangeTenant:
		t, err := tx.Tenant(c.Keyspace, c.ID)
		if err != nil {
			return nil, ignoreNotFound(err)
		}
		add(!t.DeletedAt.IsZero(), management.Revocation{Action: management.TenantDeleted, ID: t.Slug, Created: t.CreatedAt, At: t.DeletedAt})
		add(!t.Active && t.DeletedAt.IsZero(),
			management.Revocation{Action: management.TenantSuspended, ID: t.Slug, Created: t.CreatedAt, At: t.UpdatedAt})
	case gateway.ChangeToken:
		t, err := tx.Token(c.Keyspace, c.ID)
		if err != nil {
			return nil, ignoreNotFound(err)
		}
		add(!t.RevokedAt.IsZero(), management.Revocation{Action: management.TokenRevoked, ID: t.ID, At: t.RevokedAt})
	}
	return out, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, gateway.ErrNotFound) {
		return nil
	}
	return err
}

// replicaActor is the actor in the audit log for revocations that a replica writes to the primary
// again, because the primary had lost them.
var replicaActor = management.Actor{Name: "replica", Via: "system"}

// SetReplay implements management.OfflineRevoker.
func (r *Replica) SetReplay(write func(ctx context.Context, r management.Revocation) error) {
	r.writeBack.Store(&write)
	r.primaryChanged.notify()
}

// delivering is the type of a context key. Its value marks a call that delivers pending revocations
// to the primary.
type delivering struct{}

// deliverFirst writes pending revocations to the primary before a later decision is written.
// Otherwise a late delivery could undo the decision: a key that was disabled while the primary was
// unreachable, and is enabled now, would be disabled again. deliverFirst blocks the caller for at
// most applyTimeout if a revocation can't be written.
func (r *Replica) deliverFirst(ctx context.Context) {
	if r.pendingCount.Load() == 0 || ctx.Value(delivering{}) != nil || r.primaryError() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	_ = r.deliver(ctx) // The error is ignored because deliver has logged it, and the next sync tries again.
}

// deliver writes the pending revocations to the primary, which must be reachable. It returns the
// last error.
func (r *Replica) deliver(ctx context.Context) (failed error) {
	select {
	case r.deliverySlot <- struct{}{}:
		defer func() { <-r.deliverySlot }()
	case <-ctx.Done():
		return ctx.Err()
	}
	write, s := r.writeBack.Load(), r.view.Load()
	if s.copy == nil || r.recountPending(ctx) == 0 {
		return nil
	}
	if write == nil {
		return errNoWriteBack
	}
	list, err := s.copy.Pending(ctx)
	if err != nil {
		r.log.Warn("pending revocations could not be read from the replica, so they are not written to the database; retrying", "error", err)
		return err
	}
	for _, kept := range list {
		if err := r.deliverOne(ctx, *write, s, kept.Revocation); err != nil {
			r.log.Warn("a revocation made while the database was unreachable could not be written to it; retrying", "action", kept.Action, "id", kept.ID, "error", err)
			failed = err
		}
	}
	r.recountPending(ctx)
	return failed
}

// recountPending counts the pending revocations again and returns their number.
func (r *Replica) recountPending(ctx context.Context) int64 {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	if s := r.view.Load(); s.copy != nil {
		if n, err := s.copy.CountPending(ctx); err == nil {
			r.pendingCount.Store(n)
		}
	}
	return r.pendingCount.Load()
}

// deliverOne writes a revocation to the primary. It skips the write if the primary already holds the
// revocation, or if another node has reversed it in the primary.
func (r *Replica) deliverOne(ctx context.Context, write func(context.Context, management.Revocation) error, s *activeView, revocation management.Revocation) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, delivering{}, true), deliverTimeout)
	defer cancel()
	list, err := r.primary.CompareRevocations(ctx, []management.Revocation{revocation})
	if err != nil {
		return err
	}
	state := list[0]
	if state == replication.NotRevoked {
		if err := write(ctx, revocation); err != nil {
			return err
		}
	}
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	if now := r.view.Load(); now.copy != s.copy {
		return errors.New("the replica was replaced meanwhile")
	}
	if s.passThrough {
		// The revocation stays pending until a copy of the primary shows it.
		return nil
	}
	if state == replication.UnknownID {
		if err := s.copy.MarkUnknown(ctx, revocation); err != nil {
			return err
		}
		r.markResolved(revocation)
		return nil
	}
	// From now on this node applies the primary's state, which is either the revocation or its reversal.
	// In the same transaction the copy moves to a position of the primary that includes this state. If the
	// primary goes back to an earlier position, the next sync notices.
	d, err := r.primary.Reread(ctx, r.position, revocation.Change())
	if err != nil {
		return err
	}
	ok, err := s.copy.Resolve(ctx, revocation, state == replication.Reversed, d, r.LastSync())
	if err != nil {
		return err
	}
	if !ok {
		// The write had no effect, for instance because this node does not configure the keyspace. The
		// revocation stays pending.
		r.log.Debug("writing a revocation to the database had no effect; it stays pending", "action", revocation.Action, "id", revocation.ID)
		return nil
	}
	r.position = d.To
	r.markResolved(revocation)
	r.addUnsequenced(revocation.Change())
	return nil
}
