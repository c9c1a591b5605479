package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

const (
	// followTimeout bounds one reading of the changes: a store that accepted the query and does
	// not answer is asked again.
	followTimeout = 15 * time.Second
	// changesAtOnce bounds one read of the change sequence.
	changesAtOnce = 1000
)

// follow applies the changes that others write to the store: another process on the same file,
// another node.
func (m *Member) follow(ctx context.Context) {
	// behind reports that changes were noticed and could not be read: Wait does not return for
	// them again.
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

// catchUp applies every change after the newest one applied.
func (m *Member) catchUp(ctx context.Context) error {
	for {
		if err := m.followMirror(ctx); err != nil {
			return err
		}
		began := time.Now()
		applied := m.seq.Load()
		// From the last change that was read: a later one that this process wrote may have taken
		// its number while changes of others were not read.
		after := applied
		if k := m.lastRead.Load(); k != nil {
			after = min(after, k.Seq)
		}
		// That one is read again: if it is still the same, the others follow it.
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
		// The writer may have applied this process's own changes meanwhile.
		fresh := slices.DeleteFunc(changes, func(c gateway.Change) bool { return c.Seq <= m.seq.Load() })
		if err := m.Apply(ctx, fresh); err != nil {
			return err
		}
		// Over gaps too, but never back behind what was applied meanwhile.
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

// nextChanges returns those of changes that come after the change numbered after. They were read
// from that one on, when applied was the newest change applied. broken is why they do not follow
// it, "" where they do.
func (m *Member) nextChanges(ctx context.Context, after, applied int64, changes []gateway.Change) (_ []gateway.Change, broken string, err error) {
	switch {
	case len(changes) == 0:
		last, err := m.store.LastSeq(ctx)
		switch {
		case err != nil:
			return nil, "", err
		case last < after:
			return nil, "the store is older than what was read from it before, as after restoring a backup", nil
		case last == after:
			return nil, "", nil
		}
		// Written just now, or long ago and dropped.
		if changes, err = m.store.Changes(ctx, after, changesAtOnce); err != nil {
			return nil, "", err
		}
		if len(changes) > 0 && changes[0].Seq == after+1 || m.seq.Load() != applied {
			return changes, "", nil
		}
		return nil, "the changes since were dropped", nil
	case changes[0].Seq == after:
		first := changes[0]
		if k := m.lastRead.Load(); k != nil && k.Seq == after && k.Mark != first.Mark {
			return nil, "the store is another than the one that was read before, as after restoring a backup", nil
		}
		if newest := changes[len(changes)-1].Seq; newest < applied && len(changes) < changesAtOnce {
			return nil, "the store is older than what was written to it before, as after restoring a backup", nil
		}
		m.lastRead.Store(&first)
		return changes[1:], "", nil
	case changes[0].Seq > after+1:
		return nil, "the changes since were dropped", nil
	}
	return changes, "", nil
}

// resync is for when it is unknown what changed: all keys are read again, and all leased credits
// returned.
func (m *Member) resync(ctx context.Context, after int64, why string) error {
	began := time.Now()
	last, err := m.store.LastSeq(ctx)
	if err != nil {
		return err
	}
	m.Logger().Warn(why+": all keys are read again", "applied", after, "store", last)
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
