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
	if err := r.writeRefusals(ctx); err != nil {
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

// writeRefusals writes to the truth what the former copy holds refused and the truth does not,
// so that others refuse it too, who may have no copy. It is refused here meanwhile, and by the
// next copy, whether or not the truth goes back again.
func (r *Replica) writeRefusals(ctx context.Context) error {
	s := r.sight.Load()
	if s.copy == nil || s.behind {
		return nil
	}
	written := 0
	err := r.held(ctx, s.copy, func(list []sqlstore.Kept) error {
		of := make([]management.Revocation, len(list))
		for i := range list {
			of[i] = list[i].Revocation
		}
		is, err := r.truth.Compare(ctx, of)
		if err != nil {
			return err
		}
		for i, refusal := range of {
			if is[i] != sqlstore.Lacks {
				continue
			}
			write := r.writeBack.Load()
			if write == nil {
				return errNobodyWrites
			}
			if refusal.Actor.Via == "" {
				refusal.Actor = self
			}
			if err := (*write)(context.WithValue(ctx, delivering{}, true), refusal); err != nil {
				return err
			}
			written++
		}
		return nil
	})
	if written > 0 {
		r.log.Warn("the database had lost what refuses keys, as after restoring a backup: it was written there again", "refusals", written)
	}
	return err
}

// held calls yield with all that a copy holds refused. Where it can't be read whole because it
// is damaged, with what can be.
func (r *Replica) held(ctx context.Context, of *sqlstore.Copy, yield func([]sqlstore.Kept) error) error {
	var fault error
	err := of.Refusals(ctx, func(list []management.Revocation) error {
		kept := make([]sqlstore.Kept, len(list))
		for i := range list {
			kept[i].Revocation = list[i]
		}
		fault = yield(kept)
		return fault
	})
	if fault != nil {
		return fault
	}
	kept, beside := of.Kept(ctx)
	if beside == nil && len(kept) > 0 {
		if err := yield(kept); err != nil {
			return err
		}
	}
	for _, err := range []error{err, beside} {
		switch {
		case err == nil:
		case sqlstore.Damaged(err):
			r.log.Error("the former replica can't be read whole: what it held refused may be lost", "error", err)
		default:
			return err
		}
	}
	return nil
}

// carry takes over into a copy that is being made what the former one holds refused, and what
// was copied does not, unless that was taken back.
func (r *Replica) carry(ctx context.Context, b *sqlstore.CopyBuilder, list []sqlstore.Kept) error {
	of := make([]management.Revocation, len(list))
	for i := range list {
		of[i] = list[i].Revocation
	}
	is, err := b.Compare(ctx, of)
	if err != nil {
		return err
	}
	var keep, reversible []sqlstore.Kept
	var ask []management.Revocation
	now := time.Now()
	for i, kept := range list {
		if kept.Actor.Via == "" {
			kept.Actor = self
		}
		switch {
		case is[i] == sqlstore.Holds:
		case is[i] == sqlstore.Absent:
			if kept.Absent.IsZero() {
				kept.Absent = now
			}
			keep = append(keep, kept)
		case kept.Reversible():
			kept.Absent = time.Time{}
			reversible, ask = append(reversible, kept), append(ask, kept.Revocation)
		default:
			kept.Absent = time.Time{}
			keep = append(keep, kept)
		}
	}
	if len(ask) > 0 {
		if is, err = r.truth.Compare(ctx, ask); err != nil {
			return err
		}
		for i, kept := range reversible {
			// That the truth holds it by now says nothing: it may go back before this copy has it.
			if is[i] != sqlstore.TakenBack {
				keep = append(keep, kept)
			}
		}
	}
	return b.Keep(ctx, keep)
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
	// Most of it, while nobody waits; what is decided meanwhile stands beside the rows.
	if former := r.sight.Load(); former.copy != nil {
		if err = r.held(ctx, former.copy, func(list []sqlstore.Kept) error { return r.carry(ctx, b, list) }); err != nil {
			return err
		}
	}
	r.feeding.Lock()
	defer r.feeding.Unlock()
	if err = r.replace(ctx, b, heard); err != nil {
		return err
	}
	r.learnKin(ctx, r.sight.Load().copy)
	r.log.Info("the replica was made", "file", r.file, "rows", r.copying.Swap(-1), "took", time.Since(began).Round(time.Millisecond))
	return r.useCopy(ctx)
}

// replace puts a copy in the place of the former one. Look-ups wait meanwhile: there is no
// moment in which what the former held refused is not. feeding is held.
func (r *Replica) replace(ctx context.Context, b *sqlstore.CopyBuilder, heard time.Time) (err error) {
	r.pending.Lock()
	defer r.pending.Unlock()
	former := r.sight.Load()
	if former.copy != nil {
		list, err := former.copy.Kept(ctx)
		if err == nil && len(list) > 0 {
			err = r.carry(ctx, b, list)
		}
		if err != nil && !sqlstore.Damaged(err) {
			return err
		}
	}
	if err = b.Finish(ctx, heard); err != nil {
		return err
	}
	next := &sight{through: true}
	if former.copy != nil {
		hold := make(chan struct{})
		r.sight.Store(&sight{through: true, hold: hold})
		defer close(hold)
		former.copy.Close()
	}
	defer func() { r.sight.Store(next) }()
	err = b.Place()
	// Where it could not be put in place, this is the former one.
	local, at, opening := sqlstore.OpenCopy(ctx, r.file, r.log)
	if opening != nil {
		return errors.Join(err, opening)
	}
	next = &sight{copy: local, through: true, behind: err == nil}
	if err != nil {
		return err
	}
	if n, err := local.CountPending(ctx); err == nil {
		r.pendingN.Store(n)
	}
	r.at, r.noted, r.notedPromise = at, heard, nil
	return nil
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
		if r.pendingN.Load() > 0 {
			r.wake.ring()
		}
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
