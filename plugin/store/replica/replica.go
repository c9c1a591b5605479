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
	// Position returns the store's present position in its changes. The position contains marks that
	// identify the store later.
	Position(ctx context.Context) (replication.Position, error)
	// Delta returns up to limit changes after a position, with the rows that the changes concern. It
	// returns replication.ErrRewound or replication.ErrPruned if the caller needs a new copy.
	Delta(ctx context.Context, from replication.Position, limit int) (*replication.Delta, error)
	// Reread returns the present rows of a key or tenant. It returns the same errors as Delta.
	Reread(ctx context.Context, from replication.Position, c gateway.Change) (*replication.Delta, error)
	// CopyOut reads all rows that a copy must hold, and passes them to write. Before the first row it
	// calls begin with the position.
	CopyOut(ctx context.Context, begin func(replication.Position) error, write func(table string, rows []replication.Row) error) error
	// CompareRevocations returns the state of each revocation in the primary.
	CompareRevocations(ctx context.Context, list []management.Revocation) ([]replication.RevocationState, error)
}

// Options configure a replica. Only File and Primary are required.
type Options struct {
	// File is the path of the copy. Its directory must exist. Only one process may use the file.
	File string
	// Primary is the store that the replica copies. Closing the replica closes Primary. Primary may be
	// unreachable when the replica is opened.
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
	// pollInterval is how often the node reads changes from the primary if the primary sends no
	// notification. Each answer confirms that the copy is up to date.
	pollInterval = time.Second
	// pollTimeout bounds one read of changes from the primary. If the primary has not answered after
	// unreachableAfter, it counts as unreachable until it answers.
	pollTimeout      = 5 * time.Second
	unreachableAfter = 2 * time.Second
	// retryInterval is the pause after a failed sync with the primary or a failed subscription.
	retryInterval = 500 * time.Millisecond
	// saveInterval is how often the node writes the time of the last sync to the replica's file.
	saveInterval = 5 * time.Second
	// deltaChanges limits the number of changes that the copy applies in one transaction.
	deltaChanges = 500
)

// ErrLocked is returned if another Replica, in this process or another one, uses the file.
var ErrLocked = errors.New("another gateway uses the replica")

// Replica is a store that answers look-ups from a copy of the primary. A Replica is safe for
// concurrent use.
type Replica struct {
	primary     Primary
	file        string
	broadcaster atomic.Pointer[Broadcaster]
	log         *slog.Logger
	unlock      func()

	// view decides whether look-ups go to the copy or to the primary.
	view       atomic.Pointer[activeView]
	generation atomic.Uint64
	lastSync   atomic.Pointer[time.Time]
	// announced is the lease that this node announced to the other nodes last: how long this node accepts
	// keys by the copy. announced is nil if the lease is unknown.
	announced atomic.Pointer[AnnouncedLease]
	// lastAnswer is when the primary last answered a read of changes, in Unix nanoseconds.
	lastAnswer atomic.Int64
	// unreachable is the reason why the primary does not answer. It is nil while the primary answers.
	unreachable  atomic.Pointer[unreachableError]
	availability availability

	// A goroutine holds copyMu while it applies changes to the copy, or replaces the copy.
	copyMu sync.Mutex
	// position is how far the copy has applied the primary's changes. copyMu guards position.
	position replication.Position
	// savedSync and savedLease are the time of the last sync and the announced lease that the node wrote
	// to the file last. copyMu guards them.
	savedSync  time.Time
	savedLease *AnnouncedLease
	// republished is the time at which the node last published all pending revocations. Only the sync
	// loop uses republished.
	republished time.Time
	broadcastState
	resolved resolved

	discardedMu sync.Mutex
	// discarded are damaged copies. They must be closed before another copy is opened, because SQLite
	// removes the write-ahead log at the file's path when the last connection closes.
	discarded []*Copy

	// A goroutine holds pendingMu while it adds or removes pending revocations. A goroutine that needs
	// copyMu and pendingMu locks copyMu first.
	pendingMu    sync.Mutex
	pendingCount atomic.Int64
	writeBack    atomic.Pointer[func(context.Context, management.Revocation) error]
	deliverySlot chan struct{} // The channel holds an entry while a goroutine writes pending revocations to the primary.
	// leasesToDrop is the name of a node whose leases of credits the primary must still drop. It is nil
	// if no drop is due.
	leasesToDrop atomic.Pointer[string]

	unsequencedMu sync.Mutex
	unsequenced   []gateway.Change

	// firstReport triggers a sync when this node first reports to the cluster.
	firstReport sync.Once
	// removed reports whether the node was removed from the cluster. The cluster does not wait for the
	// confirmations of a removed node: see RemoveNode.
	removed atomic.Bool

	copiedRows     atomic.Int64 // copiedRows counts the rows copied so far. It is -1 while the node makes no copy.
	viewChanged    *notifier    // viewChanged signals that look-ups may answer differently from now on.
	primaryChanged *notifier    // primaryChanged signals that the primary may have changed.
	ready          chan struct{}
	readyOnce      sync.Once

	closing sync.Once
	stop    context.CancelFunc
	running sync.WaitGroup
}

// activeView decides whether look-ups go to the copy or to the primary. An activeView is immutable.
type activeView struct {
	// copy is the node's copy of the primary, or nil if the node has none.
	copy *Copy
	// passThrough reports whether look-ups go to the primary. Look-ups apply the revocations in copy even
	// while passThrough is true.
	passThrough bool
	// catchingUp reports whether copy is a new copy that only lacks the newest changes of the primary.
	catchingUp bool
	// replaced is not nil while look-ups must wait for the next view. The channel is closed when the next
	// view is active.
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

// Open opens a replica. If the file holds a copy, Open waits at most StartTimeout until the copy has
// the primary's newer changes. If the file holds no copy, look-ups go to the primary until a copy is
// made. If the file is of another kind, Open returns an error and leaves the file unchanged. After an
// error of Open the primary stays open.
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

// awaitFirstSync waits until the first sync with the primary has ended. It gives up when the primary
// has not answered for timeout. While the primary answers, the sync may take longer.
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

// loadCopy makes look-ups use the copy that Open found in the file.
func (r *Replica) loadCopy(ctx context.Context, local *Copy, at replication.Position) error {
	lastSync, err := local.LastSync(ctx)
	if err != nil {
		return err
	}
	if time.Until(lastSync) > time.Minute {
		// The machine's clock was set back after the file was written, so the age of the copy is unknown.
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
	// PassThrough reports whether look-ups go to the database because the node has no usable copy yet.
	PassThrough bool
	// Copied counts the rows of the copy that the node is making. Copied is -1 while the node makes none.
	Copied int64
	// LastSync is the last time at which the copy was known to hold all changes of the database.
	LastSync time.Time
	// Unreachable is the reason why the database does not answer. It is nil while the database answers.
	Unreachable error
	// Pending counts the revocations that this node must still write to the database.
	Pending int64
}

// Status returns the present state of the replica. Status does not block.
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
	// Closing the primary waits until the running calls have ended.
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
