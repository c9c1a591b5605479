package replica

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Truth is the store that a replica stands in front of.
type Truth interface {
	gateway.Store
	management.Store
	usage.Store
	// Position returns where it stands.
	Position(ctx context.Context) (sqlstore.Position, error)
	// Delta returns up to limit changes after a position and what they are about, and says by
	// sqlstore.ErrRewound and sqlstore.ErrPruned that only a new copy helps.
	Delta(ctx context.Context, from sqlstore.Position, limit int) (*sqlstore.Delta, error)
	// Reread returns what a key or tenant is now. Errors as Delta's.
	Reread(ctx context.Context, from sqlstore.Position, c gateway.Change) (*sqlstore.Delta, error)
	// CopyOut gives everything that a copy holds.
	CopyOut(ctx context.Context, begin func(sqlstore.Position) error, write func(table string, rows []sqlstore.Row) error) error
	// Compare returns how it stands to each of the refusals.
	Compare(ctx context.Context, refusals []management.Revocation) ([]sqlstore.Standing, error)
}

// Options say what a replica is made of. All but File, Truth are optional.
type Options struct {
	// File is the path of the copy. Its directory must exist; only one process may use it.
	File string
	// Truth is closed with the replica. It need not answer when the replica is opened.
	Truth Truth
	// Herald may be nil.
	Herald Herald
	// Logger hears what operators should know. Default: slog.Default.
	Logger *slog.Logger
	// Patience is how long Open waits for the truth before it begins with what the file holds.
	// Default: 5 s.
	Patience time.Duration
}

const (
	defaultPatience = 5 * time.Second
	// askEvery is how often the truth is asked for changes where it tells of none. Each
	// answer says that the copy holds everything.
	askEvery = time.Second
	// askTimeout bounds one question about changes; after slowAfter the truth counts as away until
	// it is answered.
	askTimeout = 5 * time.Second
	slowAfter  = 2 * time.Second
	// retryEvery is how often a truth that is away is tried.
	retryEvery = 500 * time.Millisecond
	// noteEvery is how often it is written to the file when the truth was last heard of.
	noteEvery = 5 * time.Second
	// deltaChanges is how many changes are taken over at once.
	deltaChanges = 500
)

// ErrLocked says that another Replica, of this process or another, uses the file.
var ErrLocked = errors.New("another gateway uses the replica")

// Replica is a store that answers by a copy. Safe for concurrent use.
type Replica struct {
	truth  Truth
	file   string
	herald Herald
	log    *slog.Logger
	unlock func()

	// sight is where look-ups look.
	sight atomic.Pointer[sight]
	era   atomic.Uint64
	heard atomic.Pointer[time.Time]
	// promised is what the other nodes were told last of how long this one trusts the copy; nil
	// where that is not known.
	promised atomic.Pointer[sqlstore.Promise]
	// progress is when the truth last answered the feed, in Unix nanoseconds.
	progress atomic.Int64
	// away is why the truth does not answer; nil while it does.
	away     atomic.Pointer[awayError]
	presence presence

	// feeding is held by who takes changes over, or puts another copy in place.
	feeding sync.Mutex
	// at is where the copy stands. Under feeding.
	at sqlstore.Position
	// noted is when heard was last written to the file, notedPromise what of promised was. Under feeding.
	noted        time.Time
	notedPromise *sqlstore.Promise
	// told is when the herald was last told of all that is pending; the feed's.
	told time.Time
	kinship
	settled settled

	spoiltMu sync.Mutex
	// spoilt are copies that were given up and are still to be closed: before another is
	// opened, since closing the last connection removes the log that stands beside the file.
	spoilt []*sqlstore.Copy

	// pending is held by who adds to or takes from what is to be written back; of those who
	// hold both, after feeding.
	pending   sync.Mutex
	pendingN  atomic.Int64
	writeBack atomic.Pointer[func(context.Context, management.Revocation) error]
	writer    chan struct{} // has an entry while what is pending is being written
	// unleased is a node whose leases are still to be dropped; nil for none.
	unleased atomic.Pointer[string]

	strayMu sync.Mutex
	strays  []gateway.Change

	// joined has the truth asked when this node is first known.
	joined sync.Once
	// left says that nobody waits for this node any more: see RemoveNode.
	left atomic.Bool

	copying atomic.Int64 // rows copied so far; -1 while no copy is being made
	news    *bell        // rings when look-ups may answer otherwise
	wake    *bell        // rings when the truth may have changed
	first   chan struct{}
	once    sync.Once

	closing sync.Once
	stop    context.CancelFunc
	running sync.WaitGroup
}

// sight is where look-ups look. Immutable.
type sight struct {
	// copy is what was copied; nil where there is nothing.
	copy *sqlstore.Copy
	// through says that look-ups go to the truth; what copy holds refused is refused too.
	through bool
	// behind says that copy is of this truth, and only lacks what changed last.
	behind bool
	// hold is closed when there is another sight, where look-ups have to wait for it.
	hold chan struct{}
}

// awayError is why the truth does not answer.
type awayError struct{ err error }

var (
	_ gateway.Registry          = (*Replica)(nil)
	_ gateway.Store             = (*Replica)(nil)
	_ gateway.Mirror            = (*Replica)(nil)
	_ management.Store          = (*Replica)(nil)
	_ management.OfflineRevoker = (*Replica)(nil)
	_ usage.Store               = (*Replica)(nil)
)

// Open returns the replica. Where the file holds a copy it waits, within Patience, for what
// changed since; without one the truth is asked directly until a copy was made. A file that is
// no copy is an error, and stays as it is. Where Open fails the truth is left open.
func Open(ctx context.Context, o Options) (_ *Replica, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	r := &Replica{truth: o.Truth, file: o.File, herald: o.Herald, log: o.Logger,
		news: newBell(), wake: newBell(), first: make(chan struct{}), writer: make(chan struct{}, 1)}
	r.copying.Store(-1)
	r.heard.Store(new(time.Time))
	if r.unlock, err = lockFile(o.File + ".lock"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.unlock()
		}
	}()
	r.era.Store(1)
	local, at, err := sqlstore.OpenCopy(ctx, o.File, o.Logger)
	switch {
	case err == nil:
		err = r.begin(ctx, local, at)
		if err != nil {
			local.Close()
			return nil, err
		}
	case errors.Is(err, sqlstore.ErrNoCopy):
		r.log.Info("there is no replica that could be used: the database is asked until one was made", "file", o.File, "because", err)
		r.sight.Store(&sight{through: true})
	default:
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.running.Go(func() { r.listen(run) })
	r.running.Go(func() { r.feed(run) })
	if r.herald != nil {
		r.running.Go(func() { r.hear(run) })
	}
	r.awaitFirst(ctx, o.Patience)
	return r, nil
}

// awaitFirst waits until the copy was caught up for the first time, or that was tried in
// vain; for a truth that answers as long as it takes, for one that does not for patience.
func (r *Replica) awaitFirst(ctx context.Context, patience time.Duration) {
	r.progress.Store(time.Now().UnixNano())
	for {
		left := patience - time.Since(time.Unix(0, r.progress.Load()))
		if left <= 0 {
			return
		}
		t := time.NewTimer(left)
		select {
		case <-r.first:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// begin begins with a copy that is there.
func (r *Replica) begin(ctx context.Context, local *sqlstore.Copy, at sqlstore.Position) error {
	heard, err := local.Heard(ctx)
	if err != nil {
		return err
	}
	if time.Until(heard) > time.Minute {
		// The clock was set back: how old the copy is can't be told.
		r.log.Warn("the replica was written in the future: it is not trusted before the database was heard of", "file", r.file, "written", heard)
		heard = time.Time{}
	}
	promised, err := local.Promised(ctx)
	if err != nil {
		return err
	}
	list, err := local.Pending(ctx)
	if err != nil {
		return err
	}
	r.promised.Store(promised)
	r.notedPromise = promised
	r.pendingN.Store(int64(len(list)))
	r.rememberKin(ctx, local)
	r.heard.Store(&heard)
	r.at = at
	r.sight.Store(&sight{copy: local})
	return nil
}

// LastSync implements gateway.Mirror.
func (r *Replica) LastSync() time.Time { return *r.heard.Load() }

// Generation implements gateway.Mirror.
func (r *Replica) Generation() uint64 { return r.era.Load() }

// Unsequenced implements gateway.Mirror.
func (r *Replica) Unsequenced() []gateway.Change {
	r.strayMu.Lock()
	defer r.strayMu.Unlock()
	out := r.strays
	r.strays = nil
	return out
}

func (r *Replica) stray(c gateway.Change) {
	r.strayMu.Lock()
	r.strays = append(r.strays, c)
	r.strayMu.Unlock()
	r.news.ring()
}

// Wait implements gateway.Store.
func (r *Replica) Wait(ctx context.Context) error { return r.news.wait(ctx) }

// Status is what a replica says of itself.
type Status struct {
	// Through says that look-ups go to the database, because there is no copy to answer by yet.
	Through bool
	// Copied is how many rows the copy that is being made has; -1 where none is being made.
	Copied int64
	// LastSync is when the copy last held everything.
	Heard time.Time
	// Away is why the database does not answer; nil while it does.
	Away error
	// Pending is how many refusals are to be written to the database yet.
	Pending int64
}

// Status does not block.
func (r *Replica) Status() Status {
	s := Status{Through: r.sight.Load().through, Copied: r.copying.Load(), Heard: r.LastSync(), Pending: r.pendingN.Load()}
	if a := r.away.Load(); a != nil {
		s.Away = a.err
	}
	return s
}

// Truth returns the store that the replica stands in front of.
func (r *Replica) Truth() Truth { return r.truth }

// Close ends the feed and closes the copy and the truth.
func (r *Replica) Close() error {
	r.closing.Do(r.end)
	return nil
}

func (r *Replica) end() {
	r.stop()
	r.news.close()
	r.wake.close()
	// What runs in the truth is waited for there.
	r.truth.Close()
	r.running.Wait()
	r.feeding.Lock()
	defer r.feeding.Unlock()
	r.discardSpoilt()
	if s := r.sight.Load(); s.copy != nil {
		if h, promised := r.LastSync(), r.promised.Load(); !s.through && (h.After(r.noted) || promised != r.notedPromise || r.left.Load()) {
			if r.left.Load() {
				h = time.Time{}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = s.copy.SetHeard(ctx, h, promised)
			cancel()
		}
		s.copy.Close()
	}
	r.unlock()
}
