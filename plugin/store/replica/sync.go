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

// watchPrimary rings when the primary tells of changes.
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

// syncLoop takes over what changes, and makes a copy where there is none, until ctx ends.
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
			// Who asks in vain rings too.
			<-wait.Done()
		}
		cancel()
	}
}

// sync brings look-ups up to what the primary holds, by whatever that takes.
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

// catchUp takes over all that changed. Where the primary is not a later state of what was
// copied, look-ups go through to it from then on, and that is no error. feeding is held.
func (r *Replica) catchUp(ctx context.Context) error {
	for {
		s := r.view.Load()
		if s.passThrough && !s.catchingUp {
			return nil
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, pollTimeout)
		// Who writes to a primary that stands still is not to wait for as long as this may take.
		slow := time.AfterFunc(unreachableAfter, func() { r.markUnreachable(short, errPrimarySlow) })
		d, err := r.primary.Delta(short, r.position, deltaChanges)
		slow.Stop()
		cancel()
		switch {
		case errors.Is(err, replication.ErrRewound), errors.Is(err, replication.ErrPruned):
			r.log.Warn("the replica is made anew", "file", r.file, "because", err)
			r.setView(&activeView{copy: s.copy, passThrough: true})
			return nil
		case err != nil:
			return err
		}
		if len(d.Changes) > 0 {
			// What was refused and not there may have come back, and is to be written then: whoever
			// sees that it is there must see that too.
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
				r.log.Error("the replica can't be written: known keys go on by what it holds", "file", r.file, "error", err)
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

// setView has look-ups answered from elsewhere. Everything is judged anew.
func (r *Replica) setView(s *activeView) {
	r.view.Store(s)
	r.generation.Add(1)
	r.viewChanged.notify()
}

// discardDamaged gives a copy up that can't be read. What it holds refused is lost, but the primary has it.
func (r *Replica) discardDamaged(s *activeView, err error) {
	if r.view.CompareAndSwap(s, &activeView{passThrough: true}) {
		r.log.Error("the replica is damaged: the database is asked until it is made anew", "file", r.file, "error", err)
		r.generation.Add(1)
		r.discardedMu.Lock()
		r.discarded = append(r.discarded, s.copy)
		r.discardedMu.Unlock()
		r.viewChanged.notify()
		r.primaryChanged.notify()
	}
}

var errPrimarySlow = fmt.Errorf("%w: no answer within %s", gateway.ErrStore, unreachableAfter)

// markUnreachable notes why the primary does not answer. What waits for it is given up.
func (r *Replica) markUnreachable(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if r.unreachable.Swap(&unreachableError{err}) == nil {
		r.availability.end()
		r.log.Warn("the database does not answer: keys are judged by the replica, changes are refused but for what refuses keys", "error", err)
	}
}

// markReachable notes that the primary answers.
func (r *Replica) markReachable() {
	r.availability.begin()
	if r.unreachable.Swap(nil) != nil {
		r.log.Info("the database answers again")
	}
}

// saveSync writes down when the primary was heard of, now and then, and what others were promised, at once
// where it is another trust.
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
