package replica

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Primary is the store that a replica stands in front of.
type Primary interface {
	gateway.Store
	management.Store
	usage.Store
	// Position returns where it stands.
	Position(ctx context.Context) (replication.Position, error)
	// Delta returns up to limit changes after a position and what they are about, and says by
	// replication.ErrRewound and replication.ErrPruned that only a new copy helps.
	Delta(ctx context.Context, from replication.Position, limit int) (*replication.Delta, error)
	// Reread returns what a key or tenant is now. Errors as Delta's.
	Reread(ctx context.Context, from replication.Position, c gateway.Change) (*replication.Delta, error)
	// CopyOut gives everything that a copy holds.
	CopyOut(ctx context.Context, begin func(replication.Position) error, write func(table string, rows []replication.Row) error) error
	// CompareRevocations returns how it stands to each of the refusals.
	CompareRevocations(ctx context.Context, refusals []management.Revocation) ([]replication.RevocationState, error)
}

// Options say what a replica is made of. All but File, Truth are optional.
type Options struct {
	// File is the path of the copy. Its directory must exist; only one process may use it.
	File string
	// Primary is closed with the replica. It need not answer when the replica is opened.
	Primary Primary
	// Broadcaster may be nil.
	Broadcaster Broadcaster
	// Logger hears what operators should know. Default: slog.Default.
	Logger *slog.Logger
	// StartTimeout is how long Open waits for the primary before it begins with what the file holds.
	// Default: 5 s.
	StartTimeout time.Duration
}

const (
	defaultStartTimeout = 5 * time.Second
	// pollInterval is how often the primary is asked for changes where it tells of none. Each
	// answer says that the copy holds everything.
	pollInterval = time.Second
	// pollTimeout bounds one question about changes; after unreachableAfter the primary counts as away until
	// it is answered.
	pollTimeout      = 5 * time.Second
	unreachableAfter = 2 * time.Second
	// retryInterval is how often a primary that is away is tried.
	retryInterval = 500 * time.Millisecond
	// saveInterval is how often it is written to the file when the primary was last heard of.
	saveInterval = 5 * time.Second
	// deltaChanges is how many changes are taken over at once.
	deltaChanges = 500
)

// ErrLocked says that another Replica, of this process or another, uses the file.
var ErrLocked = errors.New("another gateway uses the replica")

// Replica is a store that answers by a copy. Safe for concurrent use.
type Replica struct {
	primary     Primary
	file        string
	broadcaster Broadcaster
	log         *slog.Logger
	unlock      func()

	// view is where look-ups look.
	view       atomic.Pointer[activeView]
	generation atomic.Uint64
	lastSync   atomic.Pointer[time.Time]
	// announced is what the other nodes were told last of how long this one trusts the copy; nil
	// where that is not known.
	announced atomic.Pointer[AnnouncedLease]
	// lastAnswer is when the primary last answered the feed, in Unix nanoseconds.
	lastAnswer atomic.Int64
	// unreachable is why the primary does not answer; nil while it does.
	unreachable  atomic.Pointer[unreachableError]
	availability availability

	// copyMu is held by who takes changes over, or puts another copy in place.
	copyMu sync.Mutex
	// position is where the copy stands. Under feeding.
	position replication.Position
	// savedSync is when heard was last written to the file, savedLease what of promised was. Under feeding.
	savedSync  time.Time
	savedLease *AnnouncedLease
	// republished is when the broadcaster was last told of all that is pending; the feed's.
	republished time.Time
	broadcastState
	resolved resolved

	discardedMu sync.Mutex
	// discarded are copies that were given up and are still to be closed: before another is
	// opened, since closing the last connection removes the log that stands beside the file.
	discarded []*Copy

	// pendingMu is held by who adds to or takes from what is to be written back; of those who
	// hold both, after feeding.
	pendingMu    sync.Mutex
	pendingCount atomic.Int64
	writeBack    atomic.Pointer[func(context.Context, management.Revocation) error]
	deliverySlot chan struct{} // has an entry while what is pending is being written
	// leasesToDrop is a node whose leases are still to be dropped; nil for none.
	leasesToDrop atomic.Pointer[string]

	unsequencedMu sync.Mutex
	unsequenced   []gateway.Change

	// firstReport has the primary asked when this node is first known.
	firstReport sync.Once
	// removed says that nobody waits for this node any more: see RemoveNode.
	removed atomic.Bool

	copiedRows     atomic.Int64 // rows copied so far; -1 while no copy is being made
	viewChanged    *notifier    // rings when look-ups may answer otherwise
	primaryChanged *notifier    // rings when the primary may have changed
	ready          chan struct{}
	readyOnce      sync.Once

	closing sync.Once
	stop    context.CancelFunc
	running sync.WaitGroup
}

// view is where look-ups look. Immutable.
type activeView struct {
	// copy is what was copied; nil where there is nothing.
	copy *Copy
	// passThrough says that look-ups go to the primary; what copy holds refused is refused too.
	passThrough bool
	// catchingUp says that copy is of this primary, and only lacks what changed last.
	catchingUp bool
	// awaitApplied is closed when there is another sight, where look-ups have to wait for it.
	replaced chan struct{}
}

// unreachableError is why the primary does not answer.
type unreachableError struct{ err error }

var (
	_ cluster.Registry          = (*Replica)(nil)
	_ gateway.Store             = (*Replica)(nil)
	_ cluster.Mirror            = (*Replica)(nil)
	_ management.Store          = (*Replica)(nil)
	_ management.OfflineRevoker = (*Replica)(nil)
	_ usage.Store               = (*Replica)(nil)
)

// Open returns the replica. Where the file holds a copy it waits, within Patience, for what
// changed since; without one the primary is asked directly until a copy was made. A file that is
// no copy is an error, and stays as it is. Where Open fails the primary is left open.
func Open(ctx context.Context, o Options) (_ *Replica, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = defaultStartTimeout
	}
	r := &Replica{primary: o.Primary, file: o.File, broadcaster: o.Broadcaster, log: o.Logger,
		viewChanged: newNotifier(), primaryChanged: newNotifier(), ready: make(chan struct{}), deliverySlot: make(chan struct{}, 1)}
	r.copiedRows.Store(-1)
	r.lastSync.Store(new(time.Time))
	if r.unlock, err = lockFile(o.File + ".lock"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.unlock()
		}
	}()
	r.generation.Store(1)
	local, at, err := OpenCopy(ctx, o.File, o.Logger)
	switch {
	case err == nil:
		err = r.loadCopy(ctx, local, at)
		if err != nil {
			local.Close()
			return nil, err
		}
	case errors.Is(err, ErrNoCopy):
		r.log.Info("there is no replica that could be used: the database is asked until one was made", "file", o.File, "because", err)
		r.view.Store(&activeView{passThrough: true})
	default:
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.running.Go(func() { r.watchPrimary(run) })
	r.running.Go(func() { r.syncLoop(run) })
	if r.broadcaster != nil {
		r.running.Go(func() { r.subscribe(run) })
	}
	r.awaitFirstSync(ctx, o.StartTimeout)
	return r, nil
}

// awaitFirstSync waits until the copy was caught up for the first time, or that was tried in
// vain; for a primary that answers as long as it takes, for one that does not for patience.
func (r *Replica) awaitFirstSync(ctx context.Context, patience time.Duration) {
	r.lastAnswer.Store(time.Now().UnixNano())
	for {
		left := patience - time.Since(time.Unix(0, r.lastAnswer.Load()))
		if left <= 0 {
			return
		}
		t := time.NewTimer(left)
		select {
		case <-r.ready:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// loadCopy begins with a copy that is there.
func (r *Replica) loadCopy(ctx context.Context, local *Copy, at replication.Position) error {
	heard, err := local.LastSync(ctx)
	if err != nil {
		return err
	}
	if time.Until(heard) > time.Minute {
		// The clock was set back: how old the copy is can't be told.
		r.log.Warn("the replica was written in the future: it is not trusted before the database was heard of", "file", r.file, "written", heard)
		heard = time.Time{}
	}
	promised, err := local.AnnouncedLease(ctx)
	if err != nil {
		return err
	}
	list, err := local.Pending(ctx)
	if err != nil {
		return err
	}
	r.announced.Store(promised)
	r.savedLease = promised
	r.pendingCount.Store(int64(len(list)))
	r.loadClusterID(ctx, local)
	r.lastSync.Store(&heard)
	r.position = at
	r.view.Store(&activeView{copy: local})
	return nil
}

// LastSync implements cluster.Mirror.
func (r *Replica) LastSync() time.Time { return *r.lastSync.Load() }

// Generation implements cluster.Mirror.
func (r *Replica) Generation() uint64 { return r.generation.Load() }

// Unsequenced implements cluster.Mirror.
func (r *Replica) Unsequenced() []gateway.Change {
	r.unsequencedMu.Lock()
	defer r.unsequencedMu.Unlock()
	out := r.unsequenced
	r.unsequenced = nil
	return out
}

func (r *Replica) addUnsequenced(c gateway.Change) {
	r.unsequencedMu.Lock()
	r.unsequenced = append(r.unsequenced, c)
	r.unsequencedMu.Unlock()
	r.viewChanged.notify()
}

// Wait implements gateway.Store.
func (r *Replica) Wait(ctx context.Context) error { return r.viewChanged.wait(ctx) }

// Status is what a replica says of itself.
type Status struct {
	// PassThrough says that look-ups go to the database, because there is no copy to answer by yet.
	PassThrough bool
	// Copied is how many rows the copy that is being made has; -1 where none is being made.
	Copied int64
	// LastSync is when the copy last held everything.
	LastSync time.Time
	// Unreachable is why the database does not answer; nil while it does.
	Unreachable error
	// Pending is how many refusals are to be written to the database yet.
	Pending int64
}

// Status does not block.
func (r *Replica) Status() Status {
	s := Status{PassThrough: r.view.Load().passThrough, Copied: r.copiedRows.Load(), LastSync: r.LastSync(), Pending: r.pendingCount.Load()}
	if a := r.unreachable.Load(); a != nil {
		s.Unreachable = a.err
	}
	return s
}

// Primary returns the store that the replica stands in front of.
func (r *Replica) Primary() Primary { return r.primary }

// Close ends the feed and closes the copy and the primary.
func (r *Replica) Close() error {
	r.closing.Do(r.shutDown)
	return nil
}

func (r *Replica) shutDown() {
	r.stop()
	r.viewChanged.close()
	r.primaryChanged.close()
	// What runs in the primary is waited for there.
	r.primary.Close()
	r.running.Wait()
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	r.closeDiscarded()
	if s := r.view.Load(); s.copy != nil {
		if h, promised := r.LastSync(), r.announced.Load(); !s.passThrough && (h.After(r.savedSync) || promised != r.savedLease || r.removed.Load()) {
			if r.removed.Load() {
				h = time.Time{}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = s.copy.SetLastSync(ctx, h, promised)
			cancel()
		}
		s.copy.Close()
	}
	r.unlock()
}
