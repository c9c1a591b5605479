package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// gone returns why the truth is not worth asking now; nil where it is.
func (r *Replica) gone() error {
	if a := r.away.Load(); a != nil {
		return a.err
	}
	return nil
}

// there asks the truth, and not at all while it is known to be away: whoever waits for it in
// vain holds others up.
func (r *Replica) there(f func() error) error {
	err := r.gone()
	if err == nil {
		if err = f(); unavailable(err) {
			r.wake.ring()
		}
	}
	return err
}

// thereWhile is there, for what is given up when the truth turns out to be away.
func (r *Replica) thereWhile(ctx context.Context, f func(context.Context) error) error {
	return r.there(func() error {
		err := r.presence.while(ctx, f)
		if gone := r.gone(); gone != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil {
			return gone
		}
		return err
	})
}

// ownTimeout bounds how long a write of this node's waits for the copy to hold it.
const ownTimeout = 5 * time.Second

// Update implements management.Store. When it returns nil, look-ups here answer by what was
// written.
func (r *Replica) Update(ctx context.Context, f func(management.Tx) error) error {
	r.deliverFirst(ctx)
	var changes []gateway.Change
	err := r.thereWhile(ctx, func(ctx context.Context) error {
		return r.truth.Update(ctx, func(tx management.Tx) error {
			t := &numberedTx{Tx: tx}
			err := f(t)
			changes = t.changes
			return err
		})
	})
	if err != nil || len(changes) == 0 {
		return err
	}
	return r.hold(ctx, changes)
}

// numberedTx notes the changes made.
type numberedTx struct {
	management.Tx
	changes []gateway.Change
}

func (t *numberedTx) Change(kind gateway.ChangeKind, keyspace, id string) (int64, error) {
	seq, err := t.Tx.Change(kind, keyspace, id)
	if err == nil {
		t.changes = append(t.changes, gateway.Change{Seq: seq, Kind: kind, Keyspace: keyspace, ID: id})
	}
	return seq, err
}

func (t *numberedTx) Changes(list []gateway.Change) error {
	err := t.Tx.Changes(list)
	if err == nil {
		t.changes = append(t.changes, list...)
	}
	return err
}

// hold returns when look-ups here answer by the truth's changes, which are committed, and
// what they refuse would outlive them there.
func (r *Replica) hold(ctx context.Context, changes []gateway.Change) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownTimeout)
	defer cancel()
	r.feeding.Lock()
	defer r.feeding.Unlock()
	// Also where the copy is further already: the truth may have gone back, and this change be
	// another one than the copy's of that number.
	err := r.catchUp(ctx)
	switch {
	case r.sight.Load().through:
		err = r.keep(ctx, changes)
	case err == nil && r.at.Seq < changes[len(changes)-1].Seq:
		err = errors.New("the change is not there to be read")
	}
	if err != nil {
		r.wake.ring()
		return fmt.Errorf("%w: it is written, but this node's copy does not hold it yet: %w", gateway.ErrStore, err)
	}
	return nil
}

// RenamePlan implements gateway.Store.
func (r *Replica) RenamePlan(ctx context.Context, keyspace, from, to string) (n int64, err error) {
	err = r.there(func() (err error) {
		n, err = r.truth.RenamePlan(ctx, keyspace, from, to)
		return err
	})
	if err == nil && n > 0 {
		var seq int64
		if seq, err = r.truth.LastSeq(ctx); err == nil {
			err = r.hold(ctx, []gateway.Change{{Seq: seq}})
		}
	}
	return n, err
}

// Rehash implements gateway.Store.
func (r *Replica) Rehash(ctx context.Context, keyspace, secretID string, to apikey.Candidate) error {
	if err := r.there(func() error { return r.truth.Rehash(ctx, keyspace, secretID, to) }); err != nil {
		return err
	}
	if s := r.sight.Load(); !s.through {
		return s.copy.Rehashed(ctx, gateway.Secret{ID: secretID, Keyspace: keyspace, Digest: to.Digest[:], Algorithm: to.Algorithm})
	}
	return nil
}

// SetShown implements gateway.Store.
func (r *Replica) SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error {
	if err := r.there(func() error { return r.truth.SetShown(ctx, keyspace, secretID, prefix, lastFour) }); err != nil {
		return err
	}
	if s := r.sight.Load(); !s.through {
		return s.copy.SetShown(ctx, keyspace, secretID, prefix, lastFour)
	}
	return nil
}

// SavePeppers implements gateway.Store. What the copy holds already is not written.
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
	if err := r.there(func() error { return r.truth.SavePeppers(ctx, checks) }); err != nil {
		return err
	}
	if s := r.sight.Load(); !s.through {
		return s.copy.SavePeppers(ctx, checks)
	}
	return nil
}

// WriteFlush implements gateway.Store. The copy keeps the counts of quotas too, for while
// the truth is away.
func (r *Replica) WriteFlush(ctx context.Context, node string, f *gateway.Flush) error {
	if s := r.sight.Load(); s.copy != nil && len(f.Usage) > 0 {
		if err := s.copy.WriteFlush(ctx, node, &gateway.Flush{At: f.At, Usage: f.Usage}); err != nil && s == r.sight.Load() {
			r.log.Warn("counts could not be written to the replica", "error", err)
		}
	}
	return r.there(func() error { return r.truth.WriteFlush(ctx, node, f) })
}

// LeaseCredits implements gateway.Store.
func (r *Replica) LeaseCredits(ctx context.Context, node, keyspace, tenant string, need int64) (granted, rest int64, err error) {
	if err := r.dropUnleased(ctx); err != nil {
		return 0, 0, err
	}
	err = r.thereWhile(ctx, func(ctx context.Context) (err error) {
		granted, rest, err = r.truth.LeaseCredits(ctx, node, keyspace, tenant, need)
		return err
	})
	return granted, rest, err
}

// ReturnCredits implements gateway.Store.
func (r *Replica) ReturnCredits(ctx context.Context, node, keyspace, tenant string) error {
	return r.thereWhile(ctx, func(ctx context.Context) error { return r.truth.ReturnCredits(ctx, node, keyspace, tenant) })
}

// DropLeases implements gateway.Store. While the truth is away it is put off until the node
// leases anything: a gateway starts without the truth.
func (r *Replica) DropLeases(ctx context.Context, node string) error {
	r.unleased.Store(&node)
	if err := r.dropUnleased(ctx); err != nil && !unavailable(err) {
		return err
	}
	return nil
}

func (r *Replica) dropUnleased(ctx context.Context) error {
	node := r.unleased.Load()
	if node == nil {
		return nil
	}
	err := r.there(func() error { return r.truth.DropLeases(ctx, *node) })
	if err == nil {
		r.unleased.CompareAndSwap(node, nil)
	}
	return err
}

// WriteUsage implements usage.Store.
func (r *Replica) WriteUsage(ctx context.Context, b *usage.Batch) error {
	return r.there(func() error { return r.truth.WriteUsage(ctx, b) })
}

// ReadUsage implements usage.Store.
func (r *Replica) ReadUsage(ctx context.Context, q usage.Query, yield func(*usage.Row) error) error {
	return r.there(func() error { return r.truth.ReadUsage(ctx, q, yield) })
}

// UsageUntil implements usage.Store. While the truth is away it is not known, and the zero
// time: a gateway starts without the truth.
func (r *Replica) UsageUntil(ctx context.Context) (until time.Time, err error) {
	err = r.there(func() (err error) {
		until, err = r.truth.UsageUntil(ctx)
		return err
	})
	if errors.Is(err, gateway.ErrStore) && ctx.Err() == nil {
		return time.Time{}, nil
	}
	return until, err
}

// RecentRequests implements usage.Store.
func (r *Replica) RecentRequests(ctx context.Context, keyspace, key string) (out []usage.Chunk, err error) {
	err = r.there(func() (err error) {
		out, err = r.truth.RecentRequests(ctx, keyspace, key)
		return err
	})
	return out, err
}

// RollUsage implements usage.Store.
func (r *Replica) RollUsage(ctx context.Context, before func(keyspace string) time.Time) (more bool, err error) {
	err = r.there(func() (err error) {
		more, err = r.truth.RollUsage(ctx, before)
		return err
	})
	return more, err
}

// PruneUsage implements usage.Store.
func (r *Replica) PruneUsage(ctx context.Context, now, silent time.Time) error {
	return r.there(func() error { return r.truth.PruneUsage(ctx, now, silent) })
}
