package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// deliverTimeout bounds writing one refusal to the truth.
const deliverTimeout = 10 * time.Second

// Revoke implements management.Deputy. What is refused is also told to the other nodes,
// where there is a way.
func (r *Replica) Revoke(ctx context.Context, refusal management.Revocation) error {
	refusal.At = refusal.At.UTC().Truncate(time.Microsecond) // as it is kept
	if err := r.refuse(ctx, refusal); err != nil {
		return err
	}
	r.tell(ctx, refusal)
	r.wake.ring()
	return nil
}

// refuse refuses here, and keeps it to be written back.
func (r *Replica) refuse(ctx context.Context, refusal management.Revocation) error {
	r.pending.Lock()
	defer r.pending.Unlock()
	s := r.sight.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet that could hold it", gateway.ErrStore)
	}
	if err := s.copy.Refuse(ctx, refusal); err != nil {
		return err
	}
	r.count(ctx, s)
	return nil
}

// count counts what is pending. pending is held.
func (r *Replica) count(ctx context.Context, s *sight) {
	n, err := s.copy.CountPending(ctx)
	if err != nil {
		n = r.pendingN.Load() + 1 // it is counted again when it is delivered
	}
	r.pendingN.Store(n)
}

// keep holds what changes that are in the truth refuse, while look-ups go there and there is no
// copy which they could be taken over into. It is written back should the truth lose it.
func (r *Replica) keep(ctx context.Context, changes []gateway.Change) error {
	r.pending.Lock()
	defer r.pending.Unlock()
	s := r.sight.Load()
	if s.copy == nil {
		return nil
	}
	var list []management.Revocation
	if err := r.truth.View(ctx, func(tx management.Tx) error {
		list = nil
		for _, c := range changes {
			of, err := refusals(tx, c)
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
		reversible, err := s.copy.Reversible(ctx, c)
		if err == nil && len(reversible) > 0 {
			_, err = r.takeBack(ctx, s.copy, reversible)
		}
		if err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := s.copy.Keep(ctx, list); err != nil {
		return err
	}
	r.count(ctx, s)
	return nil
}

// refusals returns what the rows that a change is about refuse now.
func refusals(tx management.Tx, c gateway.Change) (out []management.Revocation, err error) {
	add := func(holds bool, refusal management.Revocation) {
		if holds {
			refusal.Keyspace, refusal.Actor = c.Keyspace, self
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

// self is who writes back what the truth has lost.
var self = management.Actor{Name: "replica", Via: "system"}

// SetReplay implements management.Deputy.
func (r *Replica) SetReplay(write func(ctx context.Context, r management.Revocation) error) {
	r.writeBack.Store(&write)
	r.wake.ring()
}

// delivering marks the context of what writes what is pending.
type delivering struct{}

// deliverFirst has what is pending written to the truth before what was decided later: enabling a
// key undoes that it was disabled while the truth was away. What can't be written for now holds
// nobody up for long.
func (r *Replica) deliverFirst(ctx context.Context) {
	if r.pendingN.Load() == 0 || ctx.Value(delivering{}) != nil || r.gone() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	_ = r.deliver(ctx) // it is logged, and tried again
}

// deliver writes what is pending to the truth, which answers.
func (r *Replica) deliver(ctx context.Context) (failed error) {
	select {
	case r.writer <- struct{}{}:
		defer func() { <-r.writer }()
	case <-ctx.Done():
		return ctx.Err()
	}
	write, s := r.writeBack.Load(), r.sight.Load()
	if s.copy == nil || r.recount(ctx) == 0 {
		return nil
	}
	if write == nil {
		return errNobodyWrites
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
	r.recount(ctx)
	return failed
}

// recount returns how many refusals are pending.
func (r *Replica) recount(ctx context.Context) int64 {
	r.pending.Lock()
	defer r.pending.Unlock()
	if s := r.sight.Load(); s.copy != nil {
		if n, err := s.copy.CountPending(ctx); err == nil {
			r.pendingN.Store(n)
		}
	}
	return r.pendingN.Load()
}

// deliverOne has the truth refuse what is refused here, unless it does already or somebody has
// decided otherwise meanwhile, where the truth was not away for them.
func (r *Replica) deliverOne(ctx context.Context, write func(context.Context, management.Revocation) error, s *sight, refusal management.Revocation) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, delivering{}, true), deliverTimeout)
	defer cancel()
	list, err := r.truth.Compare(ctx, []management.Revocation{refusal})
	if err != nil {
		return err
	}
	is := list[0]
	if is == sqlstore.Lacks {
		if err := write(ctx, refusal); err != nil {
			return err
		}
	}
	r.feeding.Lock()
	defer r.feeding.Unlock()
	r.pending.Lock()
	defer r.pending.Unlock()
	if now := r.sight.Load(); now.copy != s.copy {
		return errors.New("the replica was replaced meanwhile")
	}
	if s.through {
		// It is kept until there is a copy of the truth that holds it.
		return nil
	}
	if is == sqlstore.Absent {
		if err := s.copy.Missing(ctx, refusal); err != nil {
			return err
		}
		r.settle(refusal)
		return nil
	}
	// What the truth says, of this or of what was decided otherwise, holds here from now on. It is
	// forgotten only together with moving on to a position of the truth that has it: where the
	// truth goes back to before that, it is known.
	d, err := r.truth.Reread(ctx, r.at, refusal.Change())
	if err != nil {
		return err
	}
	held, err := s.copy.Settle(ctx, refusal, is == sqlstore.TakenBack, d, r.LastSync())
	if err != nil {
		return err
	}
	if !held {
		// As where it is of a keyspace that is not configured here. It stays pending.
		r.log.Debug("a refusal was not written to the database", "action", refusal.Action, "id", refusal.ID)
		return nil
	}
	r.at = d.To
	r.settle(refusal)
	r.stray(refusal.Change())
	return nil
}
