package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

const (
	// followTimeout bounds one read of the changes. If a store accepts a query and does not answer in
	// time, follow retries.
	followTimeout = 15 * time.Second
	// changesAtOnce bounds the number of changes in one read.
	changesAtOnce = 1000
)

// follow applies the changes that other processes and nodes write to the store, until ctx ends.
func (m *Member) follow(ctx context.Context) {
	// behind reports whether catchUp failed after a change signal. While behind is true, follow retries
	// without a call of Wait, because Wait returns only once for each signal.
	behind := false
	for ctx.Err() == nil {
		var err error
		if !behind {
			err = m.store.Wait(ctx)
		}
		if err == nil {
			short, cancel := context.WithTimeout(ctx, followTimeout)
			err = m.catchUp(short)
			cancel()
			behind = err != nil
		}
		if err != nil && ctx.Err() == nil {
			m.Health().ReadFailed("following changes", err)
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// catchUp reads and applies every change after the newest change that this node has applied.
func (m *Member) catchUp(ctx context.Context) error {
	for {
		if err := m.followMirror(ctx); err != nil {
			return err
		}
		began := time.Now()
		applied := m.seq.Load()
		// Reading starts at the change that was read last, not at the newest applied change. This process may
		// have written and applied a change while other processes' earlier changes are still unread.
		after := applied
		if k := m.lastRead.Load(); k != nil {
			after = min(after, k.Seq)
		}
		// The change that was read last is read again. If the store now has another change of that number,
		// the store was replaced.
		changes, err := m.store.Changes(ctx, max(after-1, 0), changesAtOnce)
		if err != nil {
			return err
		}
		read := len(changes)
		changes, broken, err := m.nextChanges(ctx, after, applied, changes)
		if err != nil {
			return err
		}
		if broken != "" {
			return m.resync(ctx, applied, broken)
		}
		if len(changes) == 0 {
			m.caughtUp(began)
			return nil
		}
		last := changes[len(changes)-1]
		// While the changes were read, Apply calls of this process may have applied some of them.
		fresh := slices.DeleteFunc(changes, func(c gateway.Change) bool { return c.Seq <= m.seq.Load() })
		if err := m.Apply(ctx, fresh); err != nil {
			return err
		}
		// seq rises even if numbers are missing between changes. It never falls behind a change that was
		// applied in the meantime.
		for now := m.seq.Load(); last.Seq > now && !m.seq.CompareAndSwap(now, last.Seq); now = m.seq.Load() {
		}
		m.lastRead.Store(&last)
		if read < changesAtOnce {
			m.caughtUp(began)
			return nil
		}
		m.signalProgress()
	}
}

// nextChanges returns the part of changes that follows the change numbered after. The caller read
// changes from the number after on, when applied was the newest applied change. If the change
// sequence is interrupted, broken states the reason.
func (m *Member) nextChanges(ctx context.Context, after, applied int64, changes []gateway.Change) (_ []gateway.Change, broken string, err error) {
	switch {
	case len(changes) == 0:
		last, err := m.store.LastSeq(ctx)
		switch {
		case err != nil:
			return nil, "", err
		case last < after:
			return nil, "the store is older than at this gateway's last read, as after restoring a backup", nil
		case last == after:
			return nil, "", nil
		}
		// The missing changes were either written just now, or written long ago and removed since. A second
		// read decides between the two cases.
		if changes, err = m.store.Changes(ctx, after, changesAtOnce); err != nil {
			return nil, "", err
		}
		if len(changes) > 0 && changes[0].Seq == after+1 || m.seq.Load() != applied {
			return changes, "", nil
		}
		return nil, "changes were removed from the store before this gateway had read them", nil
	case changes[0].Seq == after:
		first := changes[0]
		if k := m.lastRead.Load(); k != nil && k.Seq == after && k.Mark != first.Mark {
			return nil, "the store is not the one that this gateway read before, as after restoring a backup", nil
		}
		if newest := changes[len(changes)-1].Seq; newest < applied && len(changes) < changesAtOnce {
			return nil, "the store is older than this gateway's last write, as after restoring a backup", nil
		}
		m.lastRead.Store(&first)
		return changes[1:], "", nil
	case changes[0].Seq > after+1:
		return nil, "changes were removed from the store before this gateway had read them", nil
	}
	return changes, "", nil
}

// resync handles an interrupted change sequence. It reads all keys again, and returns all leased
// credits.
func (m *Member) resync(ctx context.Context, after int64, why string) error {
	began := time.Now()
	last, err := m.store.LastSeq(ctx)
	if err != nil {
		return err
	}
	m.Logger().Warn(why+": all keys are read again", "applied_change", after, "newest_change", last)
	m.tokenChanges.Add(1)
	m.Keys().Invalidate()
	if err := m.ReturnAllLeases(ctx); err != nil {
		return err
	}
	m.lastRead.Store(nil)
	m.seq.Store(last)
	m.caughtUp(began)
	return nil
}
