package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Mirror is implemented by stores that answer look-ups from a local copy of a primary. Its methods
// do not block.
type Mirror interface {
	// LastSync returns when the copy last held everything written to the primary; the zero time
	// for never. Store.Wait returns when it has advanced, soon after ReportNode accepted the first
	// report.
	LastSync() time.Time
	// AnnouncedLease returns when this process or its former process last reported to the primary,
	// and the announced staleness; false if unknown.
	AnnouncedLease() (at time.Time, staleness Staleness, known bool)
	// Generation changes when the copy is rebuilt: earlier reads may differ from the new copy.
	Generation() uint64
	// Unsequenced returns, each once, the changes without a number in the sequence: revocations
	// made while the primary was unreachable. Store.Wait returns when there are any.
	Unsequenced() []gateway.Change
}

// ability returns the store as a T, an interface that only some stores implement, and reports
// whether it is one. A store that wraps another has a method Unwrap.
func ability[T any](s gateway.Store) (t T, ok bool) {
	for s != nil {
		if t, ok = s.(T); ok {
			return t, true
		}
		u, wraps := s.(interface{ Unwrap() gateway.Store })
		if !wraps {
			return t, false
		}
		s = u.Unwrap()
	}
	return t, false
}

// followMirror applies those changes in the node's local copy of the store that have no change
// number.
func (m *Member) followMirror(ctx context.Context) error {
	if m.mirror == nil {
		return nil
	}
	if generation := m.mirror.Generation(); generation != m.mirrorGeneration {
		if err := m.resync(ctx, m.seq.Load(), "the local copy of the store was rebuilt"); err != nil {
			return err
		}
		m.mirrorGeneration = generation
	}
	if changes := m.mirror.Unsequenced(); len(changes) > 0 {
		return m.Apply(ctx, changes)
	}
	return nil
}

// appliedAsOf returns the time up to which all commits are applied, if everything that the store
// returned at began is applied.
func (m *Member) appliedAsOf(began time.Time) time.Time {
	if m.mirror != nil {
		if h := m.mirror.LastSync(); h.Before(began) {
			return h
		}
	}
	return began
}

// mirrorWait bounds how long a node that has joined waits for its copy to be up to date.
const mirrorWait = 3 * time.Second

// awaitMirror waits until the copy, if there is one, holds everything written before since: the
// writers did not wait for this node. If the primary becomes unreachable, the node goes on with
// the copy as it is.
func (m *Member) awaitMirror(ctx context.Context, since time.Time) {
	if m.mirror == nil || m.membership == nil || m.mirror.LastSync().IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	for m.mirror.LastSync().Before(since) && sleep(ctx, time.Millisecond) == nil {
	}
}

// joinFromReplica reports whether a node that could not report may accept keys from its copy: if
// the copy is not stale. Writers wait for all listed nodes, so for this one too, until the lease
// ends that its former process announced.
func (m *Member) joinFromReplica(err error) bool {
	if m.mirror == nil || !errors.Is(err, gateway.ErrStore) {
		return false
	}
	synced := m.mirror.LastSync()
	if synced.IsZero() {
		return false
	}
	s := m.membership
	at, staleness, known := m.mirror.AnnouncedLease()
	if !known {
		at, staleness = synced, s.staleness
	}
	s.reportAccepted(monotonic(at), staleness)
	s.synced(monotonic(synced))
	return !s.allStale(time.Now())
}

// monotonic returns t with a monotonic clock reading, which a time read from a file lacks.
func monotonic(t time.Time) time.Time {
	now := time.Now()
	return now.Add(t.Sub(now))
}
