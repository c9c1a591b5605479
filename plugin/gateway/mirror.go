package gateway

import (
	"context"
	"errors"
	"time"
)

// Mirror is implemented by stores that answer look-ups by a copy of what is written
// elsewhere. Its methods do not block.
type Mirror interface {
	// LastSync returns when the copy last held everything that was written; the zero time for
	// never. Store.Wait returns when it has moved. It moves soon after ReportNode took the first report.
	LastSync() time.Time
	// AnnouncedLease returns what ReportNode told the original last, by this process or one before it, and
	// when; false where that is not known.
	AnnouncedLease() (at time.Time, trust Staleness, known bool)
	// Generation is another one when the copy was made anew: nothing that was read before says
	// anything then.
	Generation() uint64
	// Unsequenced returns the changes, each once, that have no number in the sequence: what
	// was refused while the original was away. Store.Wait returns when there are any.
	Unsequenced() []Change
}

// ability returns the store as a T, what only some stores are, and whether it is one. A store that
// wraps another says so by its method Unwrap.
func ability[T any](s Store) (t T, ok bool) {
	for s != nil {
		if t, ok = s.(T); ok {
			return t, true
		}
		u, wraps := s.(interface{ Unwrap() Store })
		if !wraps {
			return t, false
		}
		s = u.Unwrap()
	}
	return t, false
}

// followMirror applies what happened to the copy other than by changes with numbers.
func (g *Gateway) followMirror(ctx context.Context) error {
	if g.mirror == nil {
		return nil
	}
	if era := g.mirror.Generation(); era != g.mirrorGeneration {
		if err := g.resync(ctx, g.seq.Load(), "the copy of the store is another"); err != nil {
			return err
		}
		g.mirrorGeneration = era
	}
	if strays := g.mirror.Unsequenced(); len(strays) > 0 {
		return g.Apply(ctx, strays)
	}
	return nil
}

// appliedAsOf returns up to when what was committed is applied, where everything is that the store
// answered by at began.
func (g *Gateway) appliedAsOf(began time.Time) time.Time {
	if g.mirror != nil {
		if h := g.mirror.LastSync(); h.Before(began) {
			return h
		}
	}
	return began
}

// mirrorWait is how long a gateway that joined waits for a copy that is not up to date.
const mirrorWait = 3 * time.Second

// awaitMirror waits until the copy, if there is one, holds all that was written before since: who changed
// something before this gateway was known did not wait for it. Where the store went away meanwhile it goes
// on with what there is.
func (g *Gateway) awaitMirror(ctx context.Context, since time.Time) {
	if g.mirror == nil || g.member == nil || g.mirror.LastSync().IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	for g.mirror.LastSync().Before(since) && sleep(ctx, time.Millisecond) == nil {
	}
}

// joinFromReplica says whether a gateway that could not make itself known may judge keys all the
// same: by a copy that is still to be trusted. Whoever waits for the nodes that were there
// waits for this one, under the promise of the process before it.
func (g *Gateway) joinFromReplica(err error) bool {
	if g.mirror == nil || !errors.Is(err, ErrStore) {
		return false
	}
	heard := g.mirror.LastSync()
	if heard.IsZero() {
		return false
	}
	m := g.member
	at, trust, known := g.mirror.AnnouncedLease()
	if !known {
		at, trust = heard, m.staleness
	}
	m.reportAccepted(monotonic(at), trust)
	m.synced(monotonic(heard))
	return !m.allStale(time.Now())
}

// monotonic returns t with a reading of the clock that nobody sets: what was written to a file has none.
func monotonic(t time.Time) time.Time {
	now := time.Now()
	return now.Add(t.Sub(now))
}
