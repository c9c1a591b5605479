package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// watchPrimary waits for changes of the primary and signals them to the sync loop, until ctx ends.
func (r *Replica) watchPrimary(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.primary.Wait(ctx); err != nil {
			select {
			case <-time.After(retryInterval):
			case <-ctx.Done():
			}
			continue
		}
		r.primaryChanged.notify()
	}
}

// syncLoop applies the primary's changes to the copy, until ctx ends. It makes a copy if there is none.
func (r *Replica) syncLoop(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.sync(ctx)
		r.readyOnce.Do(func() { close(r.ready) })
		pause := pollInterval
		if err != nil {
			pause = retryInterval
		}
		wait, cancel := context.WithTimeout(ctx, pause)
		_ = r.primaryChanged.wait(wait)
		if err != nil {
			// After a failed sync the loop waits for the whole pause and ignores signals. Failing calls signal
			// too, and their signals would make the loop run without a pause.
			<-wait.Done()
		}
		cancel()
	}
}

// sync brings the copy up to the primary's state, or makes a new copy. Then sync delivers the pending
// revocations to the primary.
func (r *Replica) sync(ctx context.Context) error {
	if r.view.Load().passThrough {
		return r.rebuild(ctx)
	}
	r.copyMu.Lock()
	err := r.catchUp(ctx)
	r.copyMu.Unlock()
	if r.view.Load().passThrough {
		return r.rebuild(ctx)
	}
	if err != nil {
		r.markUnreachable(ctx, err)
		r.republish(ctx)
		return err
	}
	r.markReachable()
	r.saveSync(ctx)
	if s := r.view.Load(); !s.passThrough {
		r.refreshClusterID(ctx, s.copy)
	}
	_ = r.deliver(ctx) // The error is ignored because deliver has logged it, and the next sync tries again.
	return nil
}

// catchUp applies all changes of the primary to the copy. If the primary is not a later state of the
// copy, catchUp directs look-ups to the primary and returns nil. The caller holds copyMu.
func (r *Replica) catchUp(ctx context.Context) error {
	for {
		s := r.view.Load()
		if s.passThrough && !s.catchingUp {
			return nil
		}
		began := time.Now()
		short, cancel := context.WithTimeout(ctx, pollTimeout)
		// The primary counts as unreachable after a short time without an answer, so that writers need not
		// wait for the longer pollTimeout.
		slow := time.AfterFunc(unreachableAfter, func() { r.markUnreachable(short, errPrimarySlow) })
		d, err := r.primary.Delta(short, r.position, deltaChanges)
		slow.Stop()
		cancel()
		switch {
		case errors.Is(err, replication.ErrRewound), errors.Is(err, replication.ErrPruned):
			r.log.Warn("the replica cannot follow the database, for example after a restored backup or a long interruption: keys are looked up in the database until a new replica is made", "file", r.file, "reason", err)
			r.setView(&activeView{copy: s.copy, passThrough: true})
			return nil
		case err != nil:
			return err
		}
		if len(d.Changes) > 0 {
			// A key or tenant that appears in the primary again may make its stored revocation pending again. A
			// reader that sees the row must also see the new number of pending revocations.
			pending := func(n int64) {
				if n > r.pendingCount.Load() {
					r.pendingCount.Store(n)
				}
			}
			if err := s.copy.Apply(ctx, d, began, pending); err != nil {
				r.recountPending(ctx)
				if sqlite.Damaged(err) {
					r.discardDamaged(s, err)
					return nil
				}
				r.log.Error("the replica can't be written, so it does not follow the database: keys are checked by its last state; check the disk", "file", r.file, "error", err)
				return err
			}
			r.position = d.To
			r.savedSync = began
			r.recountPending(ctx)
			r.viewChanged.notify()
		}
		r.lastAnswer.Store(time.Now().UnixNano())
		if !d.More {
			r.lastSync.Store(&began)
			r.viewChanged.notify()
			return nil
		}
	}
}

// setView changes whether look-ups go to the copy or to the primary. It raises the generation, so the
// gateway checks all cached keys again.
func (r *Replica) setView(s *activeView) {
	r.view.Store(s)
	r.generation.Add(1)
	r.viewChanged.notify()
}

// discardDamaged stops the use of a copy that can't be read. This node loses the copy's revocations,
// but the primary holds all that were delivered to it.
func (r *Replica) discardDamaged(s *activeView, err error) {
	if r.view.CompareAndSwap(s, &activeView{passThrough: true}) {
		r.log.Error("the replica is damaged: keys are looked up in the database until a new one is made", "file", r.file, "error", err)
		r.generation.Add(1)
		r.discardedMu.Lock()
		r.discarded = append(r.discarded, s.copy)
		r.discardedMu.Unlock()
		r.viewChanged.notify()
		r.primaryChanged.notify()
	}
}

var errPrimarySlow = fmt.Errorf("%w: no answer within %s", gateway.ErrStore, unreachableAfter)

// markUnreachable records why the primary does not answer, and cancels calls that wait for the
// primary. If ctx has ended, markUnreachable does nothing.
func (r *Replica) markUnreachable(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if r.unreachable.Swap(&unreachableError{err}) == nil {
		r.availability.end()
		r.log.Warn("the database does not answer: keys are checked by the replica, and only revocations are accepted as changes", "error", err)
	}
}

// markReachable records that the primary answers.
func (r *Replica) markReachable() {
	r.availability.begin()
	if r.unreachable.Swap(nil) != nil {
		r.log.Info("the database answers again; all changes are accepted")
	}
}

// saveSync writes the time of the last sync to the file at every saveInterval. It writes the announced
// lease as soon as the lease has changed.
func (r *Replica) saveSync(ctx context.Context) {
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	lastSync, lease := r.LastSync(), r.announced.Load()
	if s := r.view.Load(); !s.passThrough && (lastSync.Sub(r.savedSync) >= saveInterval || !lease.Equal(r.savedLease)) {
		if err := s.copy.SetLastSync(ctx, lastSync, lease); err == nil {
			r.savedSync, r.savedLease = lastSync, lease
		}
	}
}
