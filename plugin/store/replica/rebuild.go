package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// rebuild makes a new copy while look-ups go to the primary. First it writes to the primary those
// revocations of the former copy that the primary lacks. Then it copies all rows.
func (r *Replica) rebuild(ctx context.Context) error {
	began := time.Now()
	short, cancel := context.WithTimeout(ctx, pollTimeout)
	_, err := r.primary.LastSeq(short)
	cancel()
	if err != nil {
		r.markUnreachable(ctx, err)
		return err
	}
	r.markReachable()
	r.lastSync.Store(&began)
	r.readyOnce.Do(func() { close(r.ready) })
	done := make(chan struct{})
	defer func() { <-done }()
	polling, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(done)
		r.keepPolling(polling)
	}()
	if err := r.writeLostRevocations(ctx); err != nil {
		if !errors.Is(err, errNoWriteBack) {
			r.log.Warn("revocations that the database lost could not be written to it again; this node applies them and retries", "error", err)
		}
		return err
	}
	r.closeDiscarded()
	if r.view.Load().catchingUp {
		r.copyMu.Lock()
		defer r.copyMu.Unlock()
		return r.activateCopy(ctx)
	}
	if err := r.buildCopy(ctx); err != nil {
		r.copiedRows.Store(-1)
		if ctx.Err() == nil {
			r.log.Error("the replica could not be made: keys are looked up in the database; retrying", "file", r.file, "error", err)
		}
		return err
	}
	return nil
}

// keepPolling polls the primary while look-ups go to the primary. It records whether the primary
// answers. It also signals that the primary may have changed.
func (r *Replica) keepPolling(ctx context.Context) {
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, pollInterval)
		_ = r.primaryChanged.wait(wait)
		cancel()
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		short, cancel := context.WithTimeout(ctx, pollTimeout)
		_, err := r.primary.LastSeq(short)
		cancel()
		switch {
		case err == nil:
			r.markReachable()
			r.lastSync.Store(&began)
			r.viewChanged.notify()
		case ctx.Err() == nil:
			r.markUnreachable(ctx, err)
		}
	}
}

// writeLostRevocations writes to the primary those revocations of the former copy that the primary
// lacks, so that nodes without a copy apply them too. Meanwhile this node applies them to look-ups. The
// next copy takes them over as well, in case the primary goes back to an older state again.
func (r *Replica) writeLostRevocations(ctx context.Context) error {
	s := r.view.Load()
	if s.copy == nil || s.catchingUp {
		return nil
	}
	written := 0
	err := r.eachRevocation(ctx, s.copy, func(list []replication.StoredRevocation) error {
		revocations := make([]management.Revocation, len(list))
		for i := range list {
			revocations[i] = list[i].Revocation
		}
		states, err := r.primary.CompareRevocations(ctx, revocations)
		if err != nil {
			return err
		}
		for i, revocation := range revocations {
			if states[i] != replication.NotRevoked {
				continue
			}
			write := r.writeBack.Load()
			if write == nil {
				return errNoWriteBack
			}
			if revocation.Actor.Via == "" {
				revocation.Actor = replicaActor
			}
			if err := (*write)(context.WithValue(ctx, delivering{}, true), revocation); err != nil {
				return err
			}
			written++
		}
		return nil
	})
	if written > 0 {
		r.log.Warn("the database had lost revocations, as after a restored backup: they were written to it again", "revocations", written)
	}
	return err
}

// eachRevocation calls yield with all revocations in a copy. If the copy is damaged, eachRevocation
// passes the revocations that can be read.
func (r *Replica) eachRevocation(ctx context.Context, c *Copy, yield func([]replication.StoredRevocation) error) error {
	var fault error
	err := c.RowRevocations(ctx, func(list []management.Revocation) error {
		kept := make([]replication.StoredRevocation, len(list))
		for i := range list {
			kept[i].Revocation = list[i]
		}
		fault = yield(kept)
		return fault
	})
	if fault != nil {
		return fault
	}
	kept, storedErr := c.StoredRevocations(ctx)
	if storedErr == nil && len(kept) > 0 {
		if err := yield(kept); err != nil {
			return err
		}
	}
	for _, err := range []error{err, storedErr} {
		switch {
		case err == nil:
		case sqlite.Damaged(err):
			r.log.Error("the old replica is damaged and can't be read completely: revocations made while the database was unreachable may be lost; check that each is in effect, and repeat those that are not", "error", err)
		default:
			return err
		}
	}
	return nil
}

// carryRevocations adds revocations of the former copy to a new copy. It skips a revocation that the
// new copy's rows show, or that the primary has reversed.
func (r *Replica) carryRevocations(ctx context.Context, b *CopyBuilder, list []replication.StoredRevocation) error {
	revocations := make([]management.Revocation, len(list))
	for i := range list {
		revocations[i] = list[i].Revocation
	}
	states, err := b.CompareRevocations(ctx, revocations)
	if err != nil {
		return err
	}
	var keep, reversible []replication.StoredRevocation
	var compare []management.Revocation
	now := time.Now()
	for i, kept := range list {
		if kept.Actor.Via == "" {
			kept.Actor = replicaActor
		}
		switch {
		case states[i] == replication.Revoked:
		case states[i] == replication.UnknownID:
			if kept.UnknownSince.IsZero() {
				kept.UnknownSince = now
			}
			keep = append(keep, kept)
		case kept.Reversible():
			kept.UnknownSince = time.Time{}
			reversible, compare = append(reversible, kept), append(compare, kept.Revocation)
		default:
			kept.UnknownSince = time.Time{}
			keep = append(keep, kept)
		}
	}
	if len(compare) > 0 {
		if states, err = r.primary.CompareRevocations(ctx, compare); err != nil {
			return err
		}
		for i, kept := range reversible {
			// The new copy also keeps a revocation that the primary has by now, because the primary may go back
			// to an older state before the copy has the row.
			if states[i] != replication.Reversed {
				keep = append(keep, kept)
			}
		}
	}
	return b.AddRevocations(ctx, keep)
}

// errNoWriteBack is returned while revocations must be written to the primary, and no caller has
// called SetReplay to set the function that writes them.
var errNoWriteBack = fmt.Errorf("%w: revocations are waiting to be written to the database", gateway.ErrStore)

// buildCopy copies the primary, applies the changes made while it copied, and activates the copy.
func (r *Replica) buildCopy(ctx context.Context) (err error) {
	began := time.Now()
	r.copiedRows.Store(0)
	b, err := NewCopy(ctx, r.file)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.Discard()
		}
	}()
	syncedAt, err := r.fillCopy(ctx, b)
	if err != nil {
		return err
	}

	if err = b.Index(ctx); err != nil {
		return err
	}
	// The builder takes over most revocations of the former copy now, while look-ups continue. replaceCopy
	// adds later revocations. The table of stored revocations holds all later ones.
	if former := r.view.Load(); former.copy != nil {
		if err = r.eachRevocation(ctx, former.copy, func(list []replication.StoredRevocation) error { return r.carryRevocations(ctx, b, list) }); err != nil {
			return err
		}
	}
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	if err = r.replaceCopy(ctx, b, syncedAt); err != nil {
		return err
	}
	r.refreshClusterID(ctx, r.view.Load().copy)
	r.log.Info("the replica was made; keys are looked up in it from now on", "file", r.file, "rows", r.copiedRows.Swap(-1), "took", time.Since(began).Round(time.Millisecond))
	return r.activateCopy(ctx)
}

// replaceCopy replaces the former copy by a new one. Look-ups wait until the new copy is in use, so
// that the former copy's revocations apply at every moment. The caller holds copyMu.
func (r *Replica) replaceCopy(ctx context.Context, b *CopyBuilder, syncedAt time.Time) (err error) {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	former := r.view.Load()
	if former.copy != nil {
		list, err := former.copy.StoredRevocations(ctx)
		if err == nil && len(list) > 0 {
			err = r.carryRevocations(ctx, b, list)
		}
		if err != nil && !sqlite.Damaged(err) {
			return err
		}
	}
	if err = b.Finish(ctx, syncedAt); err != nil {
		return err
	}
	next := &activeView{passThrough: true}
	if former.copy != nil {
		replaced := make(chan struct{})
		r.view.Store(&activeView{passThrough: true, replaced: replaced})
		defer close(replaced)
		former.copy.Close()
	}
	defer func() { r.view.Store(next) }()
	err = b.Place()
	// If Place failed, OpenCopy opens the former copy again.
	local, at, openErr := OpenCopy(ctx, r.file, r.log)
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	next = &activeView{copy: local, passThrough: true, catchingUp: err == nil}
	if err != nil {
		return err
	}
	if n, err := local.CountPending(ctx); err == nil {
		r.pendingCount.Store(n)
	}
	r.position, r.savedSync, r.savedLease = at, syncedAt, nil
	return nil
}

// activateCopy makes look-ups use a new copy. Look-ups went to the primary until now and must not
// return older data, so activateCopy first applies the changes since the copying. The caller holds
// copyMu.
func (r *Replica) activateCopy(ctx context.Context) error {
	s := r.view.Load()
	if err := r.catchUp(ctx); err != nil {
		return err
	}
	if r.view.CompareAndSwap(s, &activeView{copy: s.copy}) {
		r.generation.Add(1)
		r.viewChanged.notify()
		if r.pendingCount.Load() > 0 {
			r.primaryChanged.notify()
		}
	}
	return nil
}

// closeDiscarded closes all discarded copies.
func (r *Replica) closeDiscarded() {
	r.discardedMu.Lock()
	list := r.discarded
	r.discarded = nil
	r.discardedMu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// fillCopy copies all rows of the primary to b. One goroutine reads rows while another writes them.
// syncedAt is the time at which the primary was at the copied position.
func (r *Replica) fillCopy(ctx context.Context, b *CopyBuilder) (syncedAt time.Time, err error) {
	type portion struct {
		table string
		rows  []replication.Row
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	portions := make(chan portion, 8)
	written := make(chan error, 1)
	go func() {
		var err error
		for p := range portions {
			if err != nil {
				continue
			}
			if err = b.Write(ctx, p.table, p.rows); err != nil {
				cancel()
				continue
			}
			r.copiedRows.Add(int64(len(p.rows)))
		}
		written <- err
	}()
	err = r.primary.CopyOut(ctx, func(p replication.Position) error {
		syncedAt = time.Now()
		return b.Begin(p)
	}, func(table string, rows []replication.Row) error {
		select {
		case portions <- portion{table, rows}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(portions)
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, context.Canceled) {
		// The failed write is the cause of the error. The failure of the read only followed, because the
		// failed write cancelled the reading.
		return syncedAt, fmt.Errorf("writing %s: %w", r.file, writeErr)
	}
	return syncedAt, err
}
