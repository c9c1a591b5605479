package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Mirror is implemented by stores that answer look-ups from a local copy of a primary database. The
// methods of Mirror do not block.
type Mirror interface {
	// LastSync returns when the copy last held everything written to the primary. The zero time means
	// never. Store.Wait returns when LastSync has advanced. After ReportNode accepted the first report,
	// LastSync advances soon.
	LastSync() time.Time
	// AnnouncedLease returns when this process or its former process last reported to the primary, and the
	// announced staleness. known is false if no report is known.
	AnnouncedLease() (at time.Time, staleness Staleness, known bool)
	// Generation returns a number that changes when the copy is rebuilt. Earlier reads may differ from the
	// new copy.
	Generation() uint64
	// Unsequenced returns the changes that have no number in the change sequence: revocations that were
	// made while the primary was unreachable. It returns each change once. Store.Wait returns when
	// Unsequenced has changes to return.
	Unsequenced() []gateway.Change
}

// ability returns the store as a T, an interface that only some stores implement. ok reports whether
// the store implements T. If a store wraps another store, ability finds the inner store with Unwrap.
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
// number: revocations made while the primary was unreachable. If the copy was rebuilt, followMirror
// first reads all keys again.
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

// appliedAsOf returns the time up to which this node has applied all commits. The caller has applied
// everything that the store returned at the time began.
func (m *Member) appliedAsOf(began time.Time) time.Time {
	if m.mirror != nil {
		if h := m.mirror.LastSync(); h.Before(began) {
			return h
		}
	}
	return began
}

// mirrorWait bounds how long a node that has just joined waits until its copy is up to date.
const mirrorWait = 3 * time.Second

// awaitMirror waits until the node's copy, if the node has one, holds everything that was written before
// the time since. The writers of those changes did not wait for this node. If the primary becomes
// unreachable, the node uses the copy as it is.
func (m *Member) awaitMirror(ctx context.Context, since time.Time) {
	if m.mirror == nil || m.membership == nil || m.mirror.LastSync().IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	for m.mirror.LastSync().Before(since) && sleep(ctx, time.Millisecond) == nil {
	}
}

// joinFromReplica reports whether a node that could not report may accept keys from its copy. It may if
// the copy is not stale. Writers wait for this node too, because its name is listed, until the lease
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
