package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// primaryError returns the reason why the primary is unreachable, or nil while the primary answers.
func (r *Replica) primaryError() error {
	if a := r.unreachable.Load(); a != nil {
		return a.err
	}
	return nil
}

// onPrimary calls f, which uses the primary. While the primary is known to be unreachable, onPrimary
// returns the reason without a call of f, so that callers do not wait and block others.
func (r *Replica) onPrimary(f func() error) error {
	err := r.primaryError()
	if err == nil {
		if err = f(); unavailable(err) {
			r.primaryChanged.notify()
		}
	}
	return err
}

// onPrimaryWhileReachable calls f as onPrimary does, and passes a context that is cancelled when the
// primary becomes unreachable.
func (r *Replica) onPrimaryWhileReachable(ctx context.Context, f func(context.Context) error) error {
	return r.onPrimary(func() error {
		err := r.availability.while(ctx, f)
		if unreachable := r.primaryError(); unreachable != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil {
			return unreachable
		}
		return err
	})
}

// applyTimeout bounds how long a write to the primary waits until the copy has the change too.
const applyTimeout = 5 * time.Second

// Update implements management.Store. When it returns nil, look-ups on this node see the write.
func (r *Replica) Update(ctx context.Context, f func(management.Tx) error) error {
	r.deliverFirst(ctx)
	var changes []gateway.Change
	err := r.onPrimaryWhileReachable(ctx, func(ctx context.Context) error {
		return r.primary.Update(ctx, func(tx management.Tx) error {
			t := &recordingTx{Tx: tx.(store.Tx)}
			err := f(t)
			changes = t.changes
			return err
		})
	})
	if err != nil || len(changes) == 0 {
		return err
	}
	return r.awaitApplied(ctx, changes)
}

// recordingTx is a transaction that records the changes it makes.
type recordingTx struct {
	store.Tx
	changes []gateway.Change
}

func (t *recordingTx) Change(kind gateway.ChangeKind, keyspace, id string) (int64, error) {
	seq, err := t.Tx.Change(kind, keyspace, id)
	if err == nil {
		t.changes = append(t.changes, gateway.Change{Seq: seq, Kind: kind, Keyspace: keyspace, ID: id})
	}
	return seq, err
}

func (t *recordingTx) Changes(list []gateway.Change) error {
	err := t.Tx.Changes(list)
	if err == nil {
		t.changes = append(t.changes, list...)
	}
	return err
}

// awaitApplied waits until look-ups on this node see committed changes of the primary. It also waits
// until the copy holds the revocations in the changes, in case the primary goes back to an older
// state.
func (r *Replica) awaitApplied(ctx context.Context, changes []gateway.Change) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	// catchUp runs even if the copy's position already includes the change's number. If the primary went
	// back to an older state, its change of that number differs from the copy's.
	err := r.catchUp(ctx)
	switch {
	case r.view.Load().passThrough:
		err = r.storeRevocations(ctx, changes)
	case err == nil && r.position.Seq < changes[len(changes)-1].Seq:
		err = errors.New("the database does not return the change")
	}
	if err != nil {
		r.primaryChanged.notify()
		return fmt.Errorf("%w: the change is written, but this node's replica does not hold it yet: %w", gateway.ErrStore, err)
	}
	return nil
}

// RenamePlan implements gateway.Store.
func (r *Replica) RenamePlan(ctx context.Context, keyspace, from, to string) (n int64, err error) {
	err = r.onPrimary(func() (err error) {
		n, err = r.primary.RenamePlan(ctx, keyspace, from, to)
		return err
	})
	if err == nil && n > 0 {
		var seq int64
		if seq, err = r.primary.LastSeq(ctx); err == nil {
			err = r.awaitApplied(ctx, []gateway.Change{{Seq: seq}})
		}
	}
	return n, err
}

// Rehash implements gateway.Store.
func (r *Replica) Rehash(ctx context.Context, keyspace, secretID string, to apikey.Candidate) error {
	if err := r.onPrimary(func() error { return r.primary.Rehash(ctx, keyspace, secretID, to) }); err != nil {
		return err
	}
	if s := r.view.Load(); !s.passThrough {
		return s.copy.Rehashed(ctx, gateway.Secret{ID: secretID, Keyspace: keyspace, Digest: to.Digest[:], Algorithm: to.Algorithm})
	}
	return nil
}

// SetShown implements gateway.Store.
func (r *Replica) SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error {
	if err := r.onPrimary(func() error { return r.primary.SetShown(ctx, keyspace, secretID, prefix, lastFour) }); err != nil {
		return err
	}
	if s := r.view.Load(); !s.passThrough {
		return s.copy.SetShown(ctx, keyspace, secretID, prefix, lastFour)
	}
	return nil
}

// SavePeppers implements gateway.Store. If the copy already holds all check values, SavePeppers
// writes nothing.
func (r *Replica) SavePeppers(ctx context.Context, checks map[string]string) error {
	known, err := r.Peppers(ctx)
	missing := err != nil
	for id := range checks {
		_, ok := known[id]
		missing = missing || !ok
	}
	if !missing {
		return nil
	}
	if err := r.onPrimary(func() error { return r.primary.SavePeppers(ctx, checks) }); err != nil {
		return err
	}
	if s := r.view.Load(); !s.passThrough {
		return s.copy.SavePeppers(ctx, checks)
	}
	return nil
}

// WriteFlush implements gateway.Store. WriteFlush also stores the counts of quotas in the copy, for
// use while the primary is unreachable.
func (r *Replica) WriteFlush(ctx context.Context, node string, f *gateway.Flush) error {
	if s := r.view.Load(); s.copy != nil && len(f.Usage) > 0 {
		if err := s.copy.WriteFlush(ctx, node, &gateway.Flush{At: f.At, Usage: f.Usage}); err != nil && s == r.view.Load() {
			r.log.Warn("counts of quotas could not be written to the replica; they are missing on this node while the database is unreachable", "error", err)
		}
	}
	return r.onPrimary(func() error { return r.primary.WriteFlush(ctx, node, f) })
}

// LeaseCredits implements gateway.Store.
func (r *Replica) LeaseCredits(ctx context.Context, node, keyspace, tenant string, need int64) (granted, rest int64, err error) {
	if err := r.dropOldLeases(ctx); err != nil {
		return 0, 0, err
	}
	err = r.onPrimaryWhileReachable(ctx, func(ctx context.Context) (err error) {
		granted, rest, err = r.primary.LeaseCredits(ctx, node, keyspace, tenant, need)
		return err
	})
	return granted, rest, err
}

// ReturnCredits implements gateway.Store.
func (r *Replica) ReturnCredits(ctx context.Context, node, keyspace, tenant string) error {
	return r.onPrimaryWhileReachable(ctx, func(ctx context.Context) error { return r.primary.ReturnCredits(ctx, node, keyspace, tenant) })
}

// DropLeases implements gateway.Store. While the primary is unreachable, DropLeases postpones the
// drop until the node first leases credits, so that a gateway can start without the primary.
func (r *Replica) DropLeases(ctx context.Context, node string) error {
	r.leasesToDrop.Store(&node)
	if err := r.dropOldLeases(ctx); err != nil && !unavailable(err) {
		return err
	}
	return nil
}

func (r *Replica) dropOldLeases(ctx context.Context) error {
	node := r.leasesToDrop.Load()
	if node == nil {
		return nil
	}
	err := r.onPrimary(func() error { return r.primary.DropLeases(ctx, *node) })
	if err == nil {
		r.leasesToDrop.CompareAndSwap(node, nil)
	}
	return err
}

// WriteUsage implements usage.Store.
func (r *Replica) WriteUsage(ctx context.Context, b *usage.Batch) error {
	return r.onPrimary(func() error { return r.primary.WriteUsage(ctx, b) })
}

// ReadUsage implements usage.Store.
func (r *Replica) ReadUsage(ctx context.Context, q usage.Query, yield func(*usage.Row) error) error {
	return r.onPrimary(func() error { return r.primary.ReadUsage(ctx, q, yield) })
}

// UsageUntil implements usage.Store. While the primary is unreachable, UsageUntil returns the zero
// time, so that a gateway can start without the primary.
func (r *Replica) UsageUntil(ctx context.Context) (until time.Time, err error) {
	err = r.onPrimary(func() (err error) {
		until, err = r.primary.UsageUntil(ctx)
		return err
	})
	if errors.Is(err, gateway.ErrStore) && ctx.Err() == nil {
		return time.Time{}, nil
	}
	return until, err
}

// RecentRequests implements usage.Store.
func (r *Replica) RecentRequests(ctx context.Context, keyspace, key string) (out []usage.Chunk, err error) {
	err = r.onPrimary(func() (err error) {
		out, err = r.primary.RecentRequests(ctx, keyspace, key)
		return err
	})
	return out, err
}

// RollUsage implements usage.Store.
func (r *Replica) RollUsage(ctx context.Context, before func(keyspace string) time.Time) (more bool, err error) {
	err = r.onPrimary(func() (err error) {
		more, err = r.primary.RollUsage(ctx, before)
		return err
	})
	return more, err
}

// PruneUsage implements usage.Store.
func (r *Replica) PruneUsage(ctx context.Context, now, silent time.Time) error {
	return r.onPrimary(func() error { return r.primary.PruneUsage(ctx, now, silent) })
}
