package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// deliverTimeout bounds writing one refusal to the truth.
const deliverTimeout = 10 * time.Second

// Refuse implements management.Deputy. What is refused is also told to the other nodes,
// where there is a way.
func (r *Replica) Refuse(ctx context.Context, refusal management.Refusal) error {
	refusal.At = refusal.At.UTC().Truncate(time.Microsecond) // as it is kept
	if err := r.refuse(ctx, refusal); err != nil {
		return err
	}
	r.tell(ctx, refusal)
	r.wake.ring()
	return nil
}

// refuse refuses here, and keeps it to be written back.
func (r *Replica) refuse(ctx context.Context, refusal management.Refusal) error {
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
	return r.cover(s)
}

// cover has what s's copy holds refused while look-ups go to the truth, which does not know of it.
func (r *Replica) cover(s *sight) error {
	if !s.through || s.overlay {
		return nil
	}
	next := *s
	next.overlay = true
	if !r.sight.CompareAndSwap(s, &next) {
		return fmt.Errorf("%w: the replica is being replaced", gateway.ErrStore)
	}
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
	var refused, taken []management.Refusal
	if err := r.truth.View(ctx, func(tx management.Tx) error {
		refused, taken = nil, nil
		for _, c := range changes {
			yes, no, err := refusals(tx, c)
			if err != nil {
				return err
			}
			refused, taken = append(refused, yes...), append(taken, no...)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.copy.Keep(ctx, refused, taken); err != nil {
		return err
	}
	r.count(ctx, s)
	return nil
}

// refusals returns what the rows that a change is about refuse now, and what they might and do not.
func refusals(tx management.Tx, c gateway.Change) (yes, no []management.Refusal, err error) {
	add := func(action string, at time.Time, holds bool) {
		r := management.Refusal{Action: action, Keyspace: c.Keyspace, ID: c.ID, At: at, Actor: self}
		if holds {
			yes = append(yes, r)
		} else {
			no = append(no, r)
		}
	}
	switch c.Kind {
	case gateway.ChangeKey:
		k, err := tx.Key(c.Keyspace, c.ID)
		if err != nil {
			return nil, nil, ignoreNotFound(err)
		}
		add(management.KeyDeleted, k.UpdatedAt, !k.DeletedAt.IsZero())
		add(management.KeyRevoked, k.UpdatedAt, !k.RevokedAt.IsZero())
		add(management.KeyDisabled, k.UpdatedAt, k.Disabled)
	case gateway.ChangeTenant:
		t, err := tx.Tenant(c.Keyspace, c.ID)
		if err != nil {
			return nil, nil, ignoreNotFound(err)
		}
		add(management.TenantDeleted, t.UpdatedAt, !t.DeletedAt.IsZero())
		add(management.TenantSuspended, t.UpdatedAt, !t.Active && t.DeletedAt.IsZero())
	}
	return yes, no, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, gateway.ErrNotFound) {
		return nil
	}
	return err
}

// self is who writes back what the truth has lost.
var self = management.Actor{Name: "replica", Via: "system"}

// WriteBack implements management.Deputy.
func (r *Replica) WriteBack(write func(ctx context.Context, r management.Refusal) error) {
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
	if r.pendingN.Load() == 0 || s.copy == nil {
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
	for _, refusal := range list {
		if err := r.deliverOne(ctx, *write, s, refusal); err != nil {
			r.log.Warn("a refusal could not be written to the database yet", "action", refusal.Action, "id", refusal.ID, "error", err)
			failed = err
		}
	}
	r.pending.Lock()
	defer r.pending.Unlock()
	n, err := s.copy.CountPending(ctx)
	if err != nil {
		return err
	}
	r.pendingN.Store(n)
	return failed
}

func (r *Replica) deliverOne(ctx context.Context, write func(context.Context, management.Refusal) error, s *sight, refusal management.Refusal) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, delivering{}, true), deliverTimeout)
	defer cancel()
	// Somebody may have decided otherwise meanwhile, where the truth was not away for them.
	lacking, err := r.truth.Lacking(ctx, []management.Refusal{refusal})
	if err != nil {
		return err
	}
	for _, refusal := range lacking {
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
	if err := s.copy.Written(ctx, refusal); err != nil {
		return err
	}
	r.settle(refusal)
	if len(lacking) > 0 {
		return nil
	}
	// What was decided otherwise holds here too from now on.
	d, err := r.truth.Reread(ctx, r.at, refusal.Change())
	if err == nil {
		err = s.copy.Apply(ctx, d, r.Heard())
	}
	if err != nil {
		// It is pending again: the row is as it was.
		return errors.Join(err, s.copy.Refuse(ctx, refusal))
	}
	r.stray(refusal.Change())
	return nil
}
