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

// Primary is the store that a replica copies.
type Primary interface {
	gateway.Store
	management.Store
	usage.Store
	// Position returns the present position, with marks by which the store is recognized later.
	Position(ctx context.Context) (replication.Position, error)
	// Delta returns up to limit changes after a position, with the rows they concern. It returns
	// replication.ErrRewound or replication.ErrPruned if a new copy is needed.
	Delta(ctx context.Context, from replication.Position, limit int) (*replication.Delta, error)
	// Reread returns the present rows of a key or tenant. Its errors are those of Delta.
	Reread(ctx context.Context, from replication.Position, c gateway.Change) (*replication.Delta, error)
	// CopyOut passes all rows that a copy holds to its functions.
	CopyOut(ctx context.Context, begin func(replication.Position) error, write func(table string, rows []replication.Row) error) error
	// CompareRevocations returns the state of each revocation in the primary.
	CompareRevocations(ctx context.Context, list []management.Revocation) ([]replication.RevocationState, error)
}

// Options configure a replica. All but File and Primary are optional.
type Options struct {
	// File is the path of the copy. Its directory must exist; only one process may use it.
	File string
	// Primary is closed when the replica is closed. It may be unreachable when the replica is
	// opened.
	Primary Primary
	// Broadcaster carries revocations to other nodes while the primary is unreachable. It may be
	// nil.
	Broadcaster Broadcaster
	// Logger receives messages for operators. Default: slog.Default.
	Logger *slog.Logger
	// StartTimeout bounds how long Open waits for the primary before it starts with the file's copy.
	// Default: 5 s.
	StartTimeout time.Duration
}

const (
	defaultStartTimeout = 5 * time.Second
	// pollInterval is how often changes are read if the primary notifies about none. Each answer
	// confirms that the copy is up to date.
	pollInterval = time.Second
	// pollTimeout bounds one read of changes. If it has no answer after unreachableAfter, the
	// primary counts as unreachable until it answers.
	pollTimeout      = 5 * time.Second
	unreachableAfter = 2 * time.Second
	// retryInterval is the pause after a failed sync or subscription.
	retryInterval = 500 * time.Millisecond
	// saveInterval is how often the time of the last sync is written to the file.
	saveInterval = 5 * time.Second
	// deltaChanges limits the changes that are applied in one transaction.
	deltaChanges = 500
)

// ErrLocked is returned if another Replica, in this process or another one, uses the file.
var ErrLocked = errors.New("another gateway uses the replica")

// Replica is a store that answers look-ups from a copy. Safe for concurrent use.
type Replica struct {
	primary     Primary
	file        string
	broadcaster atomic.Pointer[Broadcaster]
	log         *slog.Logger
	unlock      func()

	// view decides where look-ups go.
	view       atomic.Pointer[activeView]
	generation atomic.Uint64
	lastSync   atomic.Pointer[time.Time]
	// announced is the lease that this node announced to the other nodes last: how long it accepts
	// keys by the copy. nil if it is unknown.
	announced atomic.Pointer[AnnouncedLease]
	// lastAnswer is when the primary last answered a read of changes, in Unix nanoseconds.
	lastAnswer atomic.Int64
	// unreachable is the reason why the primary does not answer; nil while it does.
	unreachable  atomic.Pointer[unreachableError]
	availability availability

	// copyMu is held while changes are applied to the copy, or the copy is replaced.
	copyMu sync.Mutex
	// position is the copy's position. Guarded by copyMu.
	position replication.Position
	// savedSync and savedLease are the last sync and the announced lease that were written to the
	// file. Guarded by copyMu.
	savedSync  time.Time
	savedLease *AnnouncedLease
	// republished is when all pending revocations were published last. Only the sync loop uses it.
	republished time.Time
	broadcastState
	resolved resolved

	discardedMu sync.Mutex
	// discarded are damaged copies that must be closed before another copy is opened: closing the
	// last connection removes the write-ahead log at the file's path.
	discarded []*Copy

	// pendingMu is held while pending revocations are added or removed. Lock copyMu first if both
	// are needed.
	pendingMu    sync.Mutex
	pendingCount atomic.Int64
	writeBack    atomic.Pointer[func(context.Context, management.Revocation) error]
	deliverySlot chan struct{} // holds an entry while pending revocations are being written
	// leasesToDrop is the name of a node whose leases of credits must still be dropped; nil for
	// none.
	leasesToDrop atomic.Pointer[string]

	unsequencedMu sync.Mutex
	unsequenced   []gateway.Change

	// firstReport triggers a sync when this node first reports to the cluster.
	firstReport sync.Once
	// removed reports whether the node was removed from the cluster, which then no longer waits for
	// its confirmations: see RemoveNode.
	removed atomic.Bool

	copiedRows     atomic.Int64 // rows copied so far; -1 while no copy is being made
	viewChanged    *notifier    // signals that look-ups may answer differently
	primaryChanged *notifier    // signals that the primary may have changed
	ready          chan struct{}
	readyOnce      sync.Once

	closing sync.Once
	stop    context.CancelFunc
	running sync.WaitGroup
}

// activeView decides where look-ups go. It is immutable.
type activeView struct {
	// copy is the copy; nil if there is none.
	copy *Copy
	// passThrough reports whether look-ups go to the primary. The revocations in copy apply even
	// then.
	passThrough bool
	// catchingUp reports whether copy is a new copy of this primary that only lacks its newest
	// changes.
	catchingUp bool
	// replaced is not nil while look-ups must wait for the next view. It is closed when that view
	// is active.
	replaced chan struct{}
}

// unreachableError holds the reason why the primary does not answer.
type unreachableError struct{ err error }

var (
	_ cluster.Registry          = (*Replica)(nil)
	_ gateway.Store             = (*Replica)(nil)
	_ cluster.Mirror            = (*Replica)(nil)
	_ management.Store          = (*Replica)(nil)
	_ management.OfflineRevoker = (*Replica)(nil)
	_ usage.Store               = (*Replica)(nil)
)

// Open opens a replica. If the file holds a copy, Open waits at most StartTimeout for the changes
// since. Otherwise look-ups go to the primary until a copy is made. A file that is not a copy is
// an error, and stays unchanged. After an error of Open the primary stays open.
func Open(ctx context.Context, o Options) (_ *Replica, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = defaultStartTimeout
	}
	r := &Replica{primary: o.Primary, file: o.File, log: o.Logger,
		viewChanged: newNotifier(), primaryChanged: newNotifier(), ready: make(chan struct{}), deliverySlot: make(chan struct{}, 1)}
	r.SetBroadcaster(o.Broadcaster)
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
		r.log.Info("there is no usable replica: keys are looked up in the database until one is made", "file", o.File, "reason", err)
		r.view.Store(&activeView{passThrough: true})
	default:
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.running.Go(func() { r.watchPrimary(run) })
	r.running.Go(func() { r.syncLoop(run) })
	r.running.Go(func() { r.subscribe(run) })
	r.awaitFirstSync(ctx, o.StartTimeout)
	return r, nil
}

// awaitFirstSync waits until the first sync has ended. It gives up when the primary has not
// answered for timeout. While the primary answers, the sync may take longer.
func (r *Replica) awaitFirstSync(ctx context.Context, timeout time.Duration) {
	r.lastAnswer.Store(time.Now().UnixNano())
	for {
		left := timeout - time.Since(time.Unix(0, r.lastAnswer.Load()))
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

// loadCopy makes look-ups use the copy that was found in the file.
func (r *Replica) loadCopy(ctx context.Context, local *Copy, at replication.Position) error {
	lastSync, err := local.LastSync(ctx)
	if err != nil {
		return err
	}
	if time.Until(lastSync) > time.Minute {
		// The clock was set back since the file was written, so the age of the copy is unknown.
		r.log.Warn("the replica was last synced in the future by this machine's clock, so its age is unknown: keys are not checked by it until the database answers", "file", r.file, "synced", lastSync)
		lastSync = time.Time{}
	}
	lease, err := local.AnnouncedLease(ctx)
	if err != nil {
		return err
	}
	list, err := local.Pending(ctx)
	if err != nil {
		return err
	}
	r.announced.Store(lease)
	r.savedLease = lease
	r.pendingCount.Store(int64(len(list)))
	r.loadClusterID(ctx, local)
	r.lastSync.Store(&lastSync)
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

// Status is the state of a replica.
type Status struct {
	// PassThrough reports whether look-ups go to the database because there is no usable copy yet.
	PassThrough bool
	// Copied counts the rows of the copy that is being made; -1 while none is being made.
	Copied int64
	// LastSync is when the copy was last known to be up to date.
	LastSync time.Time
	// Unreachable is the reason why the database does not answer; nil while it does.
	Unreachable error
	// Pending counts the revocations that are not written to the database yet.
	Pending int64
}

// Status returns the present state. It does not block.
func (r *Replica) Status() Status {
	s := Status{PassThrough: r.view.Load().passThrough, Copied: r.copiedRows.Load(), LastSync: r.LastSync(), Pending: r.pendingCount.Load()}
	if a := r.unreachable.Load(); a != nil {
		s.Unreachable = a.err
	}
	return s
}

// Primary returns the store that the replica copies.
func (r *Replica) Primary() Primary { return r.primary }

// Close stops the sync and closes the copy and the primary.
func (r *Replica) Close() error {
	r.closing.Do(r.shutDown)
	return nil
}

func (r *Replica) shutDown() {
	r.stop()
	r.viewChanged.close()
	r.primaryChanged.close()
	// Close of the primary waits for running calls.
	r.primary.Close()
	r.running.Wait()
	r.copyMu.Lock()
	defer r.copyMu.Unlock()
	r.closeDiscarded()
	if s := r.view.Load(); s.copy != nil {
		if at, lease := r.LastSync(), r.announced.Load(); !s.passThrough && (at.After(r.savedSync) || lease != r.savedLease || r.removed.Load()) {
			if r.removed.Load() {
				at = time.Time{}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = s.copy.SetLastSync(ctx, at, lease)
			cancel()
		}
		s.copy.Close()
	}
	r.unlock()
}
