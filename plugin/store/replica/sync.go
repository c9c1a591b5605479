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

// watchPrimary signals the primary's changes to the sync loop.
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

// syncLoop applies changes, and makes a copy where there is none, until ctx ends.
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
			// Calls that fail signal too.
			<-wait.Done()
		}
		cancel()
	}
}

// sync brings look-ups up to the primary's state.
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
	_ = r.deliver(ctx) // it is logged, and tried again
	return nil
}

// catchUp applies all changes. Where the primary is not a later state of the copy,
// look-ups go to the primary from then on, and that is no error. copyMu is held.
func (r *Replica) catchUp(ctx context.Context) error {
	for {
		s := r.view.Load()
		if s.passThrough && !s.catchingUp {
			return nil
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, pollTimeout)
		// Writers to a primary that does not respond must not wait for as long as this may take.
		slow := time.AfterFunc(unreachableAfter, func() { r.markUnreachable(short, errPrimarySlow) })
		d, err := r.primary.Delta(short, r.position, deltaChanges)
		slow.Stop()
		cancel()
		switch {
		case errors.Is(err, replication.ErrRewound), errors.Is(err, replication.ErrPruned):
			r.log.Warn("the replica does not fit the database any more: a new one is made", "file", r.file, "because", err)
			r.setView(&activeView{copy: s.copy, passThrough: true})
			return nil
		case err != nil:
			return err
		}
		if len(d.Changes) > 0 {
			// Rows whose revocation was kept may have come back, and then it is pending: a reader that
			// sees the rows must see that too.
			more := func(n int64) {
				if n > r.pendingCount.Load() {
					r.pendingCount.Store(n)
				}
			}
			if err := s.copy.Apply(ctx, d, asked, more); err != nil {
				r.recountPending(ctx)
				if sqlite.Damaged(err) {
					r.discardDamaged(s, err)
					return nil
				}
				r.log.Error("the replica can't be written: known keys are checked by its present state", "file", r.file, "error", err)
				return err
			}
			r.position = d.To
			r.savedSync = asked
			r.recountPending(ctx)
			r.viewChanged.notify()
		}
		r.lastAnswer.Store(time.Now().UnixNano())
		if !d.More {
			r.lastSync.Store(&asked)
			r.viewChanged.notify()
			return nil
		}
	}
}

// setView changes where look-ups go. The gateway checks all cached keys again.
func (r *Replica) setView(s *activeView) {
	r.view.Store(s)
	r.generation.Add(1)
	r.viewChanged.notify()
}

// discardDamaged gives up a copy that can't be read. Its revocations are lost here, but the primary has them.
func (r *Replica) discardDamaged(s *activeView, err error) {
	if r.view.CompareAndSwap(s, &activeView{passThrough: true}) {
		r.log.Error("the replica is damaged: look-ups go to the database until a new one is made", "file", r.file, "error", err)
		r.generation.Add(1)
		r.discardedMu.Lock()
		r.discarded = append(r.discarded, s.copy)
		r.discardedMu.Unlock()
		r.viewChanged.notify()
		r.primaryChanged.notify()
	}
}

var errPrimarySlow = fmt.Errorf("%w: no answer within %s", gateway.ErrStore, unreachableAfter)

// markUnreachable records why the primary does not answer. Calls that wait for it are cancelled.
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
		r.log.Info("the database answers again")
	}
}

// saveSync writes the time of the last sync to the file now and then, and the announced lease, at once
// where it changed.
func (r *Replica) saveSync(ctx context.Context) {
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	heard, promised := r.LastSync(), r.announced.Load()
	if s := r.view.Load(); !s.passThrough && (heard.Sub(r.savedSync) >= saveInterval || !promised.Equal(r.savedLease)) {
		if err := s.copy.SetLastSync(ctx, heard, promised); err == nil {
			r.savedSync, r.savedLease = heard, promised
		}
	}
}
