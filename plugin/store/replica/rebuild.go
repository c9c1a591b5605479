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

// rebuild makes a new copy while look-ups go to the primary. First it writes to the primary the revocations
// of the former copy that the primary lacks, then it copies everything.
func (r *Replica) rebuild(ctx context.Context) error {
	asked := time.Now()
	short, cancel := context.WithTimeout(ctx, pollTimeout)
	_, err := r.primary.LastSeq(short)
	cancel()
	if err != nil {
		r.markUnreachable(ctx, err)
		return err
	}
	r.markReachable()
	r.lastSync.Store(&asked)
	r.readyOnce.Do(func() { close(r.ready) })
	done := make(chan struct{})
	defer func() { <-done }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(done)
		r.keepPolling(watching)
	}()
	if err := r.writeLostRevocations(ctx); err != nil {
		if !errors.Is(err, errNoWriteBack) {
			r.log.Warn("revocations in the replica could not be written to the database yet; they hold here", "error", err)
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
			r.log.Error("the replica could not be made: look-ups go to the database until it is", "file", r.file, "error", err)
		}
		return err
	}
	return nil
}

// keepPolling checks, while look-ups go to the primary, that it answers, and signals its changes.
func (r *Replica) keepPolling(ctx context.Context) {
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, pollInterval)
		_ = r.primaryChanged.wait(wait)
		cancel()
		if ctx.Err() != nil {
			return
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, pollTimeout)
		_, err := r.primary.LastSeq(short)
		cancel()
		switch {
		case err == nil:
			r.markReachable()
			r.lastSync.Store(&asked)
			r.viewChanged.notify()
		case ctx.Err() == nil:
			r.markUnreachable(ctx, err)
		}
	}
}

// writeLostRevocations writes to the primary the revocations of the former copy that the primary lacks,
// so that nodes without a copy apply them too. They hold here meanwhile, and in the
// next copy, whether or not the primary goes back again.
func (r *Replica) writeLostRevocations(ctx context.Context) error {
	s := r.view.Load()
	if s.copy == nil || s.catchingUp {
		return nil
	}
	written := 0
	err := r.eachRevocation(ctx, s.copy, func(list []replication.StoredRevocation) error {
		of := make([]management.Revocation, len(list))
		for i := range list {
			of[i] = list[i].Revocation
		}
		is, err := r.primary.CompareRevocations(ctx, of)
		if err != nil {
			return err
		}
		for i, revocation := range of {
			if is[i] != replication.NotRevoked {
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
		r.log.Warn("the database had lost revocations, as after restoring a backup: they were written there again", "revocations", written)
	}
	return err
}

// eachRevocation calls yield with all revocations in a copy. Where the copy is damaged, it passes on the
// readable ones.
func (r *Replica) eachRevocation(ctx context.Context, of *Copy, yield func([]replication.StoredRevocation) error) error {
	var fault error
	err := of.RowRevocations(ctx, func(list []management.Revocation) error {
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
	kept, beside := of.StoredRevocations(ctx)
	if beside == nil && len(kept) > 0 {
		if err := yield(kept); err != nil {
			return err
		}
	}
	for _, err := range []error{err, beside} {
		switch {
		case err == nil:
		case sqlite.Damaged(err):
			r.log.Error("the former replica can't be read completely: revocations in it may be lost", "error", err)
		default:
			return err
		}
	}
	return nil
}

// carryRevocations adds to a new copy the revocations of the former one that its rows lack, unless
// they were reversed.
func (r *Replica) carryRevocations(ctx context.Context, b *CopyBuilder, list []replication.StoredRevocation) error {
	of := make([]management.Revocation, len(list))
	for i := range list {
		of[i] = list[i].Revocation
	}
	is, err := b.CompareRevocations(ctx, of)
	if err != nil {
		return err
	}
	var keep, reversible []replication.StoredRevocation
	var ask []management.Revocation
	now := time.Now()
	for i, kept := range list {
		if kept.Actor.Via == "" {
			kept.Actor = replicaActor
		}
		switch {
		case is[i] == replication.Revoked:
		case is[i] == replication.UnknownID:
			if kept.UnknownSince.IsZero() {
				kept.UnknownSince = now
			}
			keep = append(keep, kept)
		case kept.Reversible():
			kept.UnknownSince = time.Time{}
			reversible, ask = append(reversible, kept), append(ask, kept.Revocation)
		default:
			kept.UnknownSince = time.Time{}
			keep = append(keep, kept)
		}
	}
	if len(ask) > 0 {
		if is, err = r.primary.CompareRevocations(ctx, ask); err != nil {
			return err
		}
		for i, kept := range reversible {
			// It does not matter that the primary has it by now: it may go back before this copy has it.
			if is[i] != replication.Reversed {
				keep = append(keep, kept)
			}
		}
	}
	return b.AddRevocations(ctx, keep)
}

// errNoWriteBack is the error while revocations wait for SetReplay.
var errNoWriteBack = fmt.Errorf("%w: revocations wait to be written to the database", gateway.ErrStore)

// buildCopy copies the primary, applies the changes since, and activates the copy.
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
	heard, err := r.fillCopy(ctx, b)
	if err != nil {
		return err
	}

	if err = b.Index(ctx); err != nil {
		return err
	}
	// Most of them, while look-ups continue. Later ones are in the table of revocations.
	if former := r.view.Load(); former.copy != nil {
		if err = r.eachRevocation(ctx, former.copy, func(list []replication.StoredRevocation) error { return r.carryRevocations(ctx, b, list) }); err != nil {
			return err
		}
	}
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	if err = r.replaceCopy(ctx, b, heard); err != nil {
		return err
	}
	r.refreshClusterID(ctx, r.view.Load().copy)
	r.log.Info("the replica was made", "file", r.file, "rows", r.copiedRows.Swap(-1), "took", time.Since(began).Round(time.Millisecond))
	return r.activateCopy(ctx)
}

// replaceCopy puts a new copy in the place of the former one. Look-ups wait meanwhile, so that the former
// one's revocations hold at every moment. copyMu is held.
func (r *Replica) replaceCopy(ctx context.Context, b *CopyBuilder, heard time.Time) (err error) {
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
	if err = b.Finish(ctx, heard); err != nil {
		return err
	}
	next := &activeView{passThrough: true}
	if former.copy != nil {
		hold := make(chan struct{})
		r.view.Store(&activeView{passThrough: true, replaced: hold})
		defer close(hold)
		former.copy.Close()
	}
	defer func() { r.view.Store(next) }()
	err = b.Place()
	// Where that failed, this is the former one.
	local, at, opening := OpenCopy(ctx, r.file, r.log)
	if opening != nil {
		return errors.Join(err, opening)
	}
	next = &activeView{copy: local, passThrough: true, catchingUp: err == nil}
	if err != nil {
		return err
	}
	if n, err := local.CountPending(ctx); err == nil {
		r.pendingCount.Store(n)
	}
	r.position, r.savedSync, r.savedLease = at, heard, nil
	return nil
}

// activateCopy has look-ups use a new copy. They went to the primary until now, and
// must not go back behind its answers: the changes since are applied first.
// copyMu is held.
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

// closeDiscarded closes the discarded copies.
func (r *Replica) closeDiscarded() {
	r.discardedMu.Lock()
	list := r.discarded
	r.discarded = nil
	r.discardedMu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// fillCopy writes the whole primary into b. It reads and writes concurrently.
func (r *Replica) fillCopy(ctx context.Context, b *CopyBuilder) (heard time.Time, err error) {
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
		heard = time.Now()
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
	if writing := <-written; writing != nil && !errors.Is(writing, context.Canceled) {
		// The cause: reading ended because of it.
		return heard, fmt.Errorf("writing %s: %w", r.file, writing)
	}
	return heard, err
}
