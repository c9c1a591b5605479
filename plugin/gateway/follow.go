package gateway

import (
	"context"
	"slices"
	"time"
)

// followTimeout bounds one reading of what changed: a store that took the question and stands
// still is asked again.
const followTimeout = 15 * time.Second

// changesAtOnce bounds one read of the change sequence.
const changesAtOnce = 1000

// follow applies what others write to the store: another process on the same file,
// another node.
func (g *Gateway) follow(ctx context.Context) {
	// behind says that something was noticed and could not be read: it is not noticed again.
	behind := false
	for ctx.Err() == nil {
		var err error
		if !behind {
			err = g.store.Wait(ctx)
		}
		if err == nil {
			short, cancel := context.WithTimeout(ctx, followTimeout)
			err = g.catchUp(short)
			cancel()
			behind = err != nil
		}
		if err != nil && ctx.Err() == nil {
			g.health.ReadFailed("following changes", err)
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// catchUp applies every change after the newest one applied.
func (g *Gateway) catchUp(ctx context.Context) error {
	for {
		if err := g.followMirror(ctx); err != nil {
			return err
		}
		began := time.Now()
		applied := g.seq.Load()
		// From the last one that was read, since what this process wrote after it may have got its number
		// where others wrote what was not read.
		after := applied
		if k := g.lastRead.Load(); k != nil {
			after = min(after, k.Seq)
		}
		// That one again: that it is still the same says that these follow it.
		changes, err := g.store.Changes(ctx, max(after-1, 0), changesAtOnce)
		if err != nil {
			return err
		}
		read := len(changes)
		changes, broken, err := g.nextChanges(ctx, after, applied, changes)
		if err != nil {
			return err
		}
		if broken != "" {
			return g.resync(ctx, applied, broken)
		}
		if len(changes) == 0 {
			g.caughtUp(began)
			return nil
		}
		last := changes[len(changes)-1]
		// What this process wrote may have been applied by the writer meanwhile.
		fresh := slices.DeleteFunc(changes, func(c Change) bool { return c.Seq <= g.seq.Load() })
		if err := g.Apply(ctx, fresh); err != nil {
			return err
		}
		// Over gaps too, but not back behind what was applied meanwhile.
		for now := g.seq.Load(); last.Seq > now && !g.seq.CompareAndSwap(now, last.Seq); now = g.seq.Load() {
		}
		g.lastRead.Store(&last)
		if read < changesAtOnce {
			g.caughtUp(began)
			return nil
		}
		g.signalProgress()
	}
}

// nextChanges returns those of changes, which were read from after on, that come after it,
// and why they do not follow it, "" where they do. Before that applied was the newest applied.
func (g *Gateway) nextChanges(ctx context.Context, after, applied int64, changes []Change) (_ []Change, broken string, err error) {
	switch {
	case len(changes) == 0:
		last, err := g.store.LastSeq(ctx)
		switch {
		case err != nil:
			return nil, "", err
		case last < after:
			return nil, "the store is older than what was read from it before, as after restoring a backup", nil
		case last == after:
			return nil, "", nil
		}
		// Written just now, or long ago and dropped.
		if changes, err = g.store.Changes(ctx, after, changesAtOnce); err != nil {
			return nil, "", err
		}
		if len(changes) > 0 && changes[0].Seq == after+1 || g.seq.Load() != applied {
			return changes, "", nil
		}
		return nil, "the changes since were dropped", nil
	case changes[0].Seq == after:
		first := changes[0]
		if k := g.lastRead.Load(); k != nil && k.Seq == after && k.Mark != first.Mark {
			return nil, "the store is another than the one that was read before, as after restoring a backup", nil
		}
		if newest := changes[len(changes)-1].Seq; newest < applied && len(changes) < changesAtOnce {
			return nil, "the store is older than what was written to it before, as after restoring a backup", nil
		}
		g.lastRead.Store(&first)
		return changes[1:], "", nil
	case changes[0].Seq > after+1:
		return nil, "the changes since were dropped", nil
	}
	return changes, "", nil
}

// resync is for when it is not known what changed: everything is judged anew.
func (g *Gateway) resync(ctx context.Context, after int64, why string) error {
	began := time.Now()
	last, err := g.store.LastSeq(ctx)
	if err != nil {
		return err
	}
	g.log.Warn(why+": all keys are read again", "applied", after, "store", last)
	g.tokenChanges.Add(1)
	g.keys.Invalidate()
	if err := g.returnAllLeases(ctx); err != nil {
		return err
	}
	g.lastRead.Store(nil)
	g.seq.Store(last)
	g.caughtUp(began)
	return nil
}

// Apply makes changes that are in the store count here: when it returns, no request is
// judged by what was before, and live requests whose key is no longer good have been
// ended. Called after each commit of this process's own, and for those of others; a
// change may be applied more than once. An error means that new keys may not be known yet; it is never the
// case for keys that lost something.
func (g *Gateway) Apply(ctx context.Context, changes []Change) error {
	for _, c := range changes {
		if c.Kind == ChangeToken {
			g.tokenChanges.Add(1)
		}
	}
	err := g.keys.Apply(ctx, changes)
	if err == nil {
		// This process's own changes, in order, need not be read and applied a second time.
		for _, c := range changes {
			g.seq.CompareAndSwap(c.Seq-1, c.Seq)
		}
		g.signalProgress()
	}
	return err
}

// TokenChanges counts the changes to management tokens that were heard of. It does not block.
func (g *Gateway) TokenChanges() uint64 { return g.tokenChanges.Load() }
