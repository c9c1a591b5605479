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

// renew makes the copy anew while look-ups go to the truth: first what the former copy holds
// refused and the truth does not is written to the truth, then everything is copied.
func (r *Replica) renew(ctx context.Context) error {
	asked := time.Now()
	short, cancel := context.WithTimeout(ctx, askTimeout)
	_, err := r.truth.LastSeq(short)
	cancel()
	if err != nil {
		r.gotNoAnswer(ctx, err)
		return err
	}
	r.answered()
	r.heard.Store(&asked)
	r.once.Do(func() { close(r.first) })
	done := make(chan struct{})
	defer func() { <-done }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(done)
		r.keepHearing(watching)
	}()
	if err := r.keepRefusals(ctx); err != nil {
		if !errors.Is(err, errNobodyWrites) {
			r.log.Warn("what the replica holds refused could not be written to the database yet: it is refused here", "error", err)
		}
		return err
	}
	r.discardSpoilt()
	if r.sight.Load().behind {
		r.feeding.Lock()
		defer r.feeding.Unlock()
		return r.useCopy(ctx)
	}
	if err := r.copyAll(ctx); err != nil {
		r.copying.Store(-1)
		if ctx.Err() == nil {
			r.log.Error("the replica could not be made: the database is asked until it is", "file", r.file, "error", err)
		}
		return err
	}
	return nil
}

// keepHearing notes, while look-ups go to the truth, that it answers, and rings when it has changed.
func (r *Replica) keepHearing(ctx context.Context) {
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, askEvery)
		_ = r.wake.wait(wait)
		cancel()
		if ctx.Err() != nil {
			return
		}
		asked := time.Now()
		short, cancel := context.WithTimeout(ctx, askTimeout)
		_, err := r.truth.LastSeq(short)
		cancel()
		switch {
		case err == nil:
			r.answered()
			r.heard.Store(&asked)
			r.news.ring()
		case ctx.Err() == nil:
			r.gotNoAnswer(ctx, err)
		}
	}
}

// keepRefusals writes to the truth what the former copy holds refused and the truth does not.
func (r *Replica) keepRefusals(ctx context.Context) error {
	s := r.sight.Load()
	if !s.overlay {
		return nil
	}
	var fault error
	written := 0
	err := s.copy.Refusals(ctx, func(list []management.Refusal) error {
		var lacking []management.Refusal
		if lacking, fault = r.truth.Lacking(ctx, list); fault != nil {
			return fault
		}
		for _, refusal := range lacking {
			refusal.Actor = self
			write := r.writeBack.Load()
			if write == nil {
				fault = errNobodyWrites
				return fault
			}
			if fault = (*write)(context.WithValue(ctx, delivering{}, true), refusal); fault != nil {
				return fault
			}
			written++
		}
		return nil
	})
	if fault != nil {
		return fault
	}
	if err != nil {
		if sqlstore.Damaged(err) {
			r.log.Error("the former replica can't be read whole: what it held refused may be lost", "error", err)
			err = nil
		} else {
			return err
		}
	}
	if written > 0 {
		r.log.Warn("the database had lost what refuses keys, as after restoring a backup: it was written there again", "refusals", written)
	}
	if err := r.deliver(ctx); err != nil {
		return err
	}
	r.look(&sight{copy: s.copy, through: true})
	return nil
}

// errNobodyWrites says that refusals wait to be written back.
var errNobodyWrites = fmt.Errorf("%w: refusals wait to be written to the database", gateway.ErrStore)

// copyAll copies the truth, catches up with what changed meanwhile, and has look-ups answered
// by the copy.
func (r *Replica) copyAll(ctx context.Context) (err error) {
	began := time.Now()
	r.copying.Store(0)
	b, err := sqlstore.NewCopy(ctx, r.file)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.Discard()
		}
	}()
	heard, err := r.fill(ctx, b)
	if err != nil {
		return err
	}

	if err = b.Index(ctx); err != nil {
		return err
	}
	r.feeding.Lock()
	defer r.feeding.Unlock()
	r.pending.Lock()
	defer r.pending.Unlock()
	var pending []management.Refusal
	former := r.sight.Load()
	if former.copy != nil {
		if pending, err = former.copy.Pending(ctx); err != nil && !sqlstore.Damaged(err) {
			return err
		}
	}
	if err = b.Finish(ctx, heard, pending); err != nil {
		return err
	}
	if former.copy != nil {
		r.sight.Store(&sight{through: true})
		former.copy.Close()
	}
	if err = b.Place(); err != nil {
		return err
	}
	local, at, err := sqlstore.OpenCopy(ctx, r.file, r.log)
	if err != nil {
		return err
	}
	r.learnKin(ctx, local)
	r.pendingN.Store(int64(len(pending)))
	r.at = at
	r.noted = heard
	r.log.Info("the replica was made", "file", r.file, "rows", r.copying.Swap(-1), "took", time.Since(began).Round(time.Millisecond))
	r.sight.Store(&sight{copy: local, through: true, behind: true})
	return r.useCopy(ctx)
}

// useCopy has look-ups answered by a copy that was made. They went to the truth until now, and
// must not fall behind what they answered: what was written meanwhile is taken over first.
// feeding is held.
func (r *Replica) useCopy(ctx context.Context) error {
	s := r.sight.Load()
	if err := r.catchUp(ctx); err != nil {
		return err
	}
	if r.sight.CompareAndSwap(s, &sight{copy: s.copy}) {
		r.era.Add(1)
		r.news.ring()
	}
	return nil
}

// discardSpoilt closes the copies that were given up.
func (r *Replica) discardSpoilt() {
	r.spoiltMu.Lock()
	list := r.spoilt
	r.spoilt = nil
	r.spoiltMu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// fill writes everything of the truth into b. Reading and writing go on beside each other.
func (r *Replica) fill(ctx context.Context, b *sqlstore.CopyBuilder) (heard time.Time, err error) {
	type portion struct {
		table string
		rows  []sqlstore.Row
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
			r.copying.Add(int64(len(p.rows)))
		}
		written <- err
	}()
	err = r.truth.CopyOut(ctx, func(p sqlstore.Position) error {
		heard = time.Now()
		return b.Begin(p)
	}, func(table string, rows []sqlstore.Row) error {
		select {
		case portions <- portion{table, rows}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(portions)
	if writing := <-written; writing != nil && !errors.Is(writing, context.Canceled) {
		// The cause; that reading ended follows from it.
		return heard, fmt.Errorf("writing %s: %w", r.file, writing)
	}
	return heard, err
}
