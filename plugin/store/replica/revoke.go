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

// deliverTimeout bounds writing one revocation to the primary.
const deliverTimeout = 10 * time.Second

// Revoke implements management.OfflineRevoker. It also publishes the revocation to the other nodes,
// where there is a broadcaster.
func (r *Replica) Revoke(ctx context.Context, revocation management.Revocation) error {
	revocation.At = revocation.At.UTC().Truncate(time.Microsecond) // as it is stored
	if err := r.revokeLocal(ctx, revocation); err != nil {
		return err
	}
	r.publish(ctx, revocation)
	r.primaryChanged.notify()
	return nil
}

// revokeLocal revokes here, and keeps the revocation for delivery.
func (r *Replica) revokeLocal(ctx context.Context, revocation management.Revocation) error {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	s := r.view.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet to store it in", gateway.ErrStore)
	}
	if err := s.copy.Revoke(ctx, revocation); err != nil {
		return err
	}
	r.countPending(ctx, s)
	return nil
}

// countPending counts the pending revocations. pendingMu is held.
func (r *Replica) countPending(ctx context.Context, s *activeView) {
	n, err := s.copy.CountPending(ctx)
	if err != nil {
		n = r.pendingCount.Load() + 1 // it is counted again at delivery
	}
	r.pendingCount.Store(n)
}

// storeRevocations stores the revocations in changes of the primary, while look-ups go there and no
// copy can apply the changes. They are written back should the primary lose them.
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
			of, err := revocationsOf(tx, c)
			if err != nil {
				return err
			}
			list = append(list, of...)
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

// revocationsOf returns the revocations in the present rows of a change.
func revocationsOf(tx management.Tx, c gateway.Change) (out []management.Revocation, err error) {
	add := func(holds bool, revocation management.Revocation) {
		if holds {
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

// replicaActor is the actor of revocations that the primary had lost.
var replicaActor = management.Actor{Name: "replica", Via: "system"}

// SetReplay implements management.OfflineRevoker.
func (r *Replica) SetReplay(write func(ctx context.Context, r management.Revocation) error) {
	r.writeBack.Store(&write)
	r.primaryChanged.notify()
}

// delivering marks the context of a delivery.
type delivering struct{}

// deliverFirst delivers pending revocations before a later decision is written: enabling a
// key reverses a disabling made while the primary was unreachable. A revocation that can't be written now
// does not block the caller for long.
func (r *Replica) deliverFirst(ctx context.Context) {
	if r.pendingCount.Load() == 0 || ctx.Value(delivering{}) != nil || r.primaryError() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	_ = r.deliver(ctx) // it is logged, and tried again
}

// deliver writes the pending revocations to the primary, which answers.
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
		r.log.Warn("revocations for the database could not be read from the replica", "error", err)
		return err
	}
	for _, kept := range list {
		if err := r.deliverOne(ctx, *write, s, kept.Revocation); err != nil {
			r.log.Warn("a revocation could not be written to the database yet", "action", kept.Action, "id", kept.ID, "error", err)
			failed = err
		}
	}
	r.recountPending(ctx)
	return failed
}

// recountPending returns the number of pending revocations.
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

// deliverOne writes a revocation to the primary, unless the primary has it, or it was reversed
// meanwhile by a node that reached the primary.
func (r *Replica) deliverOne(ctx context.Context, write func(context.Context, management.Revocation) error, s *activeView, revocation management.Revocation) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, delivering{}, true), deliverTimeout)
	defer cancel()
	list, err := r.primary.CompareRevocations(ctx, []management.Revocation{revocation})
	if err != nil {
		return err
	}
	is := list[0]
	if is == replication.NotRevoked {
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
		// It is kept until there is a copy of the primary with it.
		return nil
	}
	if is == replication.UnknownID {
		if err := s.copy.MarkUnknown(ctx, revocation); err != nil {
			return err
		}
		r.markResolved(revocation)
		return nil
	}
	// The primary's state holds here from now on, whether it has the revocation or its reversal. In the same
	// step the copy moves to a position of the primary that includes it: where the
	// primary goes back to before that, the next sync notices.
	d, err := r.primary.Reread(ctx, r.position, revocation.Change())
	if err != nil {
		return err
	}
	held, err := s.copy.Resolve(ctx, revocation, is == replication.Reversed, d, r.LastSync())
	if err != nil {
		return err
	}
	if !held {
		// For instance where its keyspace is not configured here. It stays pending.
		r.log.Debug("a revocation was not written to the database", "action", revocation.Action, "id", revocation.ID)
		return nil
	}
	r.position = d.To
	r.markResolved(revocation)
	r.addUnsequenced(revocation.Change())
	return nil
}
