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

// deliverTimeout bounds writing one refusal to the primary.
const deliverTimeout = 10 * time.Second

// Revoke implements management.Deputy. What is refused is also told to the other nodes,
// where there is a way.
func (r *Replica) Revoke(ctx context.Context, refusal management.Revocation) error {
	refusal.At = refusal.At.UTC().Truncate(time.Microsecond) // as it is kept
	if err := r.revokeLocal(ctx, refusal); err != nil {
		return err
	}
	r.publish(ctx, refusal)
	r.primaryChanged.notify()
	return nil
}

// revokeLocal refuses here, and keeps it to be written back.
func (r *Replica) revokeLocal(ctx context.Context, refusal management.Revocation) error {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	s := r.view.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet that could hold it", gateway.ErrStore)
	}
	if err := s.copy.Revoke(ctx, refusal); err != nil {
		return err
	}
	r.countPending(ctx, s)
	return nil
}

// countPending counts what is pending. pending is held.
func (r *Replica) countPending(ctx context.Context, s *activeView) {
	n, err := s.copy.CountPending(ctx)
	if err != nil {
		n = r.pendingCount.Load() + 1 // it is counted again when it is delivered
	}
	r.pendingCount.Store(n)
}

// storeRevocations holds what changes that are in the primary refuse, while look-ups go there and there is no
// copy which they could be taken over into. It is written back should the primary lose it.
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

// revocationsOf returns what the rows that a change is about refuse now.
func revocationsOf(tx management.Tx, c gateway.Change) (out []management.Revocation, err error) {
	add := func(holds bool, refusal management.Revocation) {
		if holds {
			refusal.Keyspace, refusal.Actor = c.Keyspace, replicaActor
			out = append(out, refusal)
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

// replicaActor is who writes back what the primary has lost.
var replicaActor = management.Actor{Name: "replica", Via: "system"}

// SetReplay implements management.Deputy.
func (r *Replica) SetReplay(write func(ctx context.Context, r management.Revocation) error) {
	r.writeBack.Store(&write)
	r.primaryChanged.notify()
}

// delivering marks the context of what writes what is pending.
type delivering struct{}

// deliverFirst has what is pending written to the primary before what was decided later: enabling a
// key undoes that it was disabled while the primary was away. What can't be written for now holds
// nobody up for long.
func (r *Replica) deliverFirst(ctx context.Context) {
	if r.pendingCount.Load() == 0 || ctx.Value(delivering{}) != nil || r.primaryError() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	_ = r.deliver(ctx) // it is logged, and tried again
}

// deliver writes what is pending to the primary, which answers.
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
		r.log.Warn("what is to be written to the database could not be read", "error", err)
		return err
	}
	for _, kept := range list {
		if err := r.deliverOne(ctx, *write, s, kept.Revocation); err != nil {
			r.log.Warn("a refusal could not be written to the database yet", "action", kept.Action, "id", kept.ID, "error", err)
			failed = err
		}
	}
	r.recountPending(ctx)
	return failed
}

// recountPending returns how many refusals are pending.
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

// deliverOne has the primary refuse what is refused here, unless it does already or somebody has
// decided otherwise meanwhile, where the primary was not away for them.
func (r *Replica) deliverOne(ctx context.Context, write func(context.Context, management.Revocation) error, s *activeView, refusal management.Revocation) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, delivering{}, true), deliverTimeout)
	defer cancel()
	list, err := r.primary.CompareRevocations(ctx, []management.Revocation{refusal})
	if err != nil {
		return err
	}
	is := list[0]
	if is == replication.NotRevoked {
		if err := write(ctx, refusal); err != nil {
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
		// It is kept until there is a copy of the primary that holds it.
		return nil
	}
	if is == replication.UnknownID {
		if err := s.copy.MarkUnknown(ctx, refusal); err != nil {
			return err
		}
		r.markResolved(refusal)
		return nil
	}
	// What the primary says, of this or of what was decided otherwise, holds here from now on. It is
	// forgotten only together with moving on to a position of the primary that has it: where the
	// primary goes back to before that, it is known.
	d, err := r.primary.Reread(ctx, r.position, refusal.Change())
	if err != nil {
		return err
	}
	held, err := s.copy.Resolve(ctx, refusal, is == replication.Reversed, d, r.LastSync())
	if err != nil {
		return err
	}
	if !held {
		// As where it is of a keyspace that is not configured here. It stays pending.
		r.log.Debug("a refusal was not written to the database", "action", refusal.Action, "id", refusal.ID)
		return nil
	}
	r.position = d.To
	r.markResolved(refusal)
	r.addUnsequenced(refusal.Change())
	return nil
}
