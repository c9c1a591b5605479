package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// listen rings when the truth tells of changes.
func (r *Replica) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.truth.Wait(ctx); err != nil {
			select {
			case <-time.After(retryEvery):
			case <-ctx.Done():
			}
			continue
		}
		r.wake.ring()
	}
}

// feed takes over what changes, and makes a copy where there is none, until ctx ends.
func (r *Replica) feed(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.follow(ctx)
		r.once.Do(func() { close(r.first) })
		pause := askEvery
		if err != nil {
			pause = retryEvery
		}
		wait, cancel := context.WithTimeout(ctx, pause)
		_ = r.wake.wait(wait)
		if err != nil {
			// Who asks in vain rings too.
			<-wait.Done()
		}
		cancel()
	}
}

// follow brings look-ups up to what the truth holds, by whatever that takes.
func (r *Replica) follow(ctx context.Context) error {
	if r.sight.Load().through {
		return r.renew(ctx)
	}
	r.feeding.Lock()
	err := r.catchUp(ctx)
	r.feeding.Unlock()
	if r.sight.Load().through {
		return r.renew(ctx)
	}
	if err != nil {
		r.gotNoAnswer(ctx, err)
		r.retell(ctx)
		return err
	}
	r.answered()
	r.note(ctx)
	if s := r.sight.Load(); !s.through {
		r.learnKin(ctx, s.copy)
	}
	_ = r.deliver(ctx) // it is logged, and tried again
	return nil
}

// catchUp takes over all that changed. Where the truth is not a later state of what was
// copied, look-ups go through to it from then on, and that is no error. feeding is held.
func (r *Replica) catchUp(ctx context.Context) error {
	for {
		s := r.sight.Load()
		if s.through && !s.behind {
			return nil
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, askTimeout)
		// Who writes to a truth that stands still is not to wait for as long as this may take.
		slow := time.AfterFunc(slowAfter, func() { r.gotNoAnswer(short, errSlow) })
		d, err := r.truth.Delta(short, r.at, deltaChanges)
		slow.Stop()
		cancel()
		switch {
		case errors.Is(err, sqlstore.ErrRewound), errors.Is(err, sqlstore.ErrPruned):
			r.log.Warn("the replica is made anew", "file", r.file, "because", err)
			r.look(&sight{copy: s.copy, through: true})
			return nil
		case err != nil:
			return err
		}
		if len(d.Changes) > 0 {
			// What was refused and not there may have come back, and is to be written then: whoever
			// sees that it is there must see that too.
			more := func(n int64) {
				if n > r.pendingN.Load() {
					r.pendingN.Store(n)
				}
			}
			if err := s.copy.Apply(ctx, d, asked, more); err != nil {
				r.recount(ctx)
				if sqlstore.Damaged(err) {
					r.damaged(s, err)
					return nil
				}
				r.log.Error("the replica can't be written: known keys go on by what it holds", "file", r.file, "error", err)
				return err
			}
			r.at = d.To
			r.noted = asked
			r.recount(ctx)
			r.news.ring()
		}
		r.progress.Store(time.Now().UnixNano())
		if !d.More {
			r.heard.Store(&asked)
			r.news.ring()
			return nil
		}
	}
}

// look has look-ups answered from elsewhere. Everything is judged anew.
func (r *Replica) look(s *sight) {
	r.sight.Store(s)
	r.era.Add(1)
	r.news.ring()
}

// damaged gives a copy up that can't be read. What it holds refused is lost, but the truth has it.
func (r *Replica) damaged(s *sight, err error) {
	if r.sight.CompareAndSwap(s, &sight{through: true}) {
		r.log.Error("the replica is damaged: the database is asked until it is made anew", "file", r.file, "error", err)
		r.era.Add(1)
		r.spoiltMu.Lock()
		r.spoilt = append(r.spoilt, s.copy)
		r.spoiltMu.Unlock()
		r.news.ring()
		r.wake.ring()
	}
}

var errSlow = fmt.Errorf("%w: no answer within %s", gateway.ErrStore, slowAfter)

// gotNoAnswer notes why the truth does not answer. What waits for it is given up.
func (r *Replica) gotNoAnswer(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if r.away.Swap(&awayError{err}) == nil {
		r.presence.end()
		r.log.Warn("the database does not answer: keys are judged by the replica, changes are refused but for what refuses keys", "error", err)
	}
}

// answered notes that the truth answers.
func (r *Replica) answered() {
	r.presence.begin()
	if r.away.Swap(nil) != nil {
		r.log.Info("the database answers again")
	}
}

// note writes down when the truth was heard of, now and then, and what others were promised, at once
// where it is another trust.
func (r *Replica) note(ctx context.Context) {
	r.feeding.Lock()
	defer r.feeding.Unlock()
	heard, promised := r.LastSync(), r.promised.Load()
	if s := r.sight.Load(); !s.through && (heard.Sub(r.noted) >= noteEvery || !promised.Same(r.notedPromise)) {
		if err := s.copy.SetHeard(ctx, heard, promised); err == nil {
			r.noted, r.notedPromise = heard, promised
		}
	}
}
