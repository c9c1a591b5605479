package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Options are the parts and settings of a Member.
type Options struct {
	gateway.Options
	// Registry lists the gateways that share the store. It is nil if no other process shares the store.
	Registry Registry
	// Shared states that the caller will set a Registry with SetStore. Default: false.
	Shared bool
	// Staleness is how long this node accepts keys in memory while a shared store is unreachable.
	// Default: one hour.
	Staleness Staleness
	// NodeInfo returns the program's version and a hash of its configuration. The node reports both to the
	// other gateways. Default: both are empty.
	NodeInfo func() (version, configHash string)
}

const (
	defaultStaleness = time.Hour
	// staleEvery is how often a node checks whether it must end live requests because its data is stale.
	staleEvery = 250 * time.Millisecond
)

// Member is a gateway that follows the changes of its store. New makes a Member. A Member is safe for
// concurrent use.
type Member struct {
	*gateway.Gateway
	store gateway.Store
	// membership is the contact to the shared store. It is nil if no other process shares the store.
	membership *membership

	startMu         sync.Mutex
	started, closed atomic.Bool
	stop            context.CancelFunc
	running         sync.WaitGroup

	tokenChanges atomic.Uint64
	seq          atomic.Int64 // seq is the number of the newest change that this node has applied.
	reportedSeq  atomic.Int64 // reportedSeq is the number of the newest change that this node reports, or will report, as applied.
	// lastRead is the newest change that this node has read and applied, or nil if there is none. Only
	// follow sets lastRead.
	lastRead atomic.Pointer[gateway.Change]
	// mirror is the store if the store is a Mirror, otherwise nil. mirrorGeneration is the generation of
	// the mirror that this node followed last.
	mirror           Mirror
	mirrorGeneration uint64
}

// New returns a member that is not ready yet. New does not read the store.
func New(o Options) (*Member, error) {
	var s *membership
	if o.Registry != nil || o.Shared {
		if o.Staleness.Default <= 0 {
			o.Staleness.Default = defaultStaleness
		}
		s = newMembership(o.Registry, o.Staleness, o.NodeInfo)
		o.Freshness = s
	}
	g, err := gateway.New(o.Options)
	if err != nil {
		return nil, err
	}
	return &Member{Gateway: g, store: o.Store, membership: s}, nil
}

// SetStore sets the store of a member whose Options had none. If the store is shared, SetStore also
// sets its Registry. SetStore must be called once, before Start.
func (m *Member) SetStore(s gateway.Store, r Registry) {
	m.store = s
	m.Gateway.SetStore(s)
	if m.membership != nil {
		m.membership.registry = r
	}
}

// Start joins the cluster, makes the gateway ready, and starts to follow the store's changes in the
// background. Start may wait for the store until ctx ends. Start is idempotent, and may be called again
// after an error.
func (m *Member) Start(ctx context.Context) error {
	m.startMu.Lock()
	defer m.startMu.Unlock()
	if m.started.Load() {
		return nil
	}
	if m.closed.Load() {
		return errors.New("the gateway was closed")
	}
	// The node joins the cluster before it loads keys. From then on writers wait for this node, and a load
	// returns everything that was written before.
	if m.mirror, _ = ability[Mirror](m.store); m.mirror != nil {
		m.mirrorGeneration = m.mirror.Generation()
	}
	switch err := m.join(ctx); {
	case err == nil:
		m.awaitMirror(ctx, time.Now())
	case !m.joinFromReplica(err):
		return fmt.Errorf("joining the gateways that share the store: %w", err)
	}
	began := time.Now()
	seq, err := m.store.LastSeq(ctx)
	if err != nil {
		return fmt.Errorf("reading the change sequence: %w", err)
	}
	m.seq.Store(seq)
	m.caughtUp(began)
	if err := m.Gateway.Start(ctx); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	loops := []func(context.Context){m.follow}
	if m.membership != nil {
		loops = append(loops, m.reportLoop, m.staleLoop)
	}
	for _, f := range loops {
		m.running.Go(func() { f(run) })
	}
	m.started.Store(true)
	return nil
}

// Close closes the gateway, as gateway.Gateway.Close does, and leaves the cluster. Close is
// idempotent.
func (m *Member) Close(ctx context.Context) error {
	m.startMu.Lock()
	defer m.startMu.Unlock()
	if m.closed.Swap(true) || m.stop == nil {
		return m.Gateway.Close(ctx)
	}
	m.stop()
	m.running.Wait()
	err := m.Gateway.Close(ctx)
	if e := m.leave(ctx); err == nil {
		err = e
	}
	return err
}

// Ready reports whether keys of at least one keyspace are accepted now.
func (m *Member) Ready() bool {
	return m.Gateway.Ready() && (m.membership == nil || !m.membership.allStale(time.Now()))
}

// ReadyFor reports whether keys of a keyspace are accepted now.
func (m *Member) ReadyFor(keyspace string) bool {
	return m.Gateway.Ready() && (m.membership == nil || !m.membership.Stale(time.Now(), keyspace))
}

// Stats is the state of a member.
type Stats struct {
	// The embedded Stats is the gateway's state. Its field Ready is the member's readiness instead.
	gateway.Stats
	// Stale reports whether the member is not ready because it could not reach the store for too long.
	Stale bool
	// Seq is the number of the newest change that this node has applied.
	Seq int64
	// Lag is the time since this node last had all changes applied. It is 0 if no other process shares
	// the store.
	Lag time.Duration
}

// Stats returns the state of the member. It does not block.
func (m *Member) Stats() Stats {
	s := Stats{Stats: m.Gateway.Stats(), Seq: m.seq.Load()}
	if m.membership != nil {
		s.Stale = s.Ready && m.membership.allStale(time.Now())
		s.Lag = m.membership.lag()
	}
	s.Ready = s.Ready && !s.Stale
	return s
}

// SetStaleness changes how long this node accepts keys while a shared store is unreachable. It may be
// called at any time.
func (m *Member) SetStaleness(t Staleness) {
	if m.membership != nil {
		m.membership.setStaleness(t)
	}
}

// join reports this node to the registry before the node loads anything, so that writers wait for
// this node from then on.
func (m *Member) join(ctx context.Context) error {
	if m.membership == nil {
		return nil
	}
	return m.report(ctx)
}

// leave removes this node from the registry when the process stops cleanly.
func (m *Member) leave(ctx context.Context) error {
	if m.membership == nil {
		return nil
	}
	return m.membership.registry.RemoveNode(ctx, m.Name(), m.membership.instance)
}

// report sends to the registry which change this node has applied, and the node's staleness: how long
// it accepts keys while the store is unreachable.
func (m *Member) report(ctx context.Context) error {
	s := m.membership
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	began := time.Now()
	s.mu.Lock()
	staleness := s.staleness
	s.mu.Unlock()
	// The node reads lastRead after seq. lastRead may be an earlier change than seq. An earlier change
	// proves just as well that both changes are in this store.
	n := &Node{Name: m.Name(), Instance: s.instance, Seq: m.seq.Load(), Ready: m.Ready(), KeysCached: m.Keys().KeyCount()}
	if k := m.lastRead.Load(); k != nil {
		n.LastRead = *k
	}
	n.Version, n.ConfigHash = s.nodeInfo()
	err := s.registry.ReportNode(ctx, n, staleness)
	if err != nil {
		s.markFailing()
	}
	switch {
	case err == nil:
		s.reportAccepted(began, staleness)
		s.markListed()
	case !errors.Is(err, ErrNameTaken) || !m.started.Load():
	case s.mayTakeOver():
		// Writers still wait for this node's former process, which announced at least as long a staleness.
		return nil
	case s.markReplaced():
		m.Logger().Error("another gateway has taken this node's name: this one accepts no more keys. Give each gateway its own name and restart this one", "node", m.Name())
	}
	return err
}

// reportLoop reports this node to the registry after it applied changes, and at every reportEvery,
// until ctx ends.
func (m *Member) reportLoop(ctx context.Context) {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for look := true; ; {
		err := m.report(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			// A failed report is recorded as a failed write, not as a failed read, because a replica may still be
			// readable.
			m.Health().WriteFailed("reporting this gateway to the others", err)
		case err == nil && look:
			// The loop keeps the list of nodes up to date, because Confirm uses the last read list while the
			// store is unreachable.
			_, _ = m.membership.polls.list(ctx, m.membership.registry)
		}
		select {
		case <-t.C:
			look = true
		case <-m.membership.changeSignal:
			look = false
		case <-ctx.Done():
			return
		}
	}
}

// staleLoop ends live requests as soon as their keyspace is stale: this node could not reach the store
// for too long. The loop does not use the store, so that nothing delays the loop.
func (m *Member) staleLoop(ctx context.Context) {
	t := time.NewTimer(staleEvery)
	defer t.Stop()
	for was := false; ; {
		select {
		case now := <-t.C:
			if is := m.endStale(now); is != was {
				was = is
				m.logStale(is)
			}
			// The pause is at least 20 times the duration of the search for stale requests. So the search takes
			// at most 5 % of one processor even with many keys.
			t.Reset(max(staleEvery, 20*time.Since(now)))
		case <-ctx.Done():
			return
		}
	}
}

// endStale ends the live requests of stale keyspaces, because the receipt of a revocation promises
// that no request continues after the deadline. It reports whether at least one keyspace is stale.
func (m *Member) endStale(now time.Time) bool {
	h := m.membership.deadline.Load()
	if !h.anyPassed(now) {
		return false
	}
	m.Keys().EndStale(func(keyspace string) bool { return h.passed(now, keyspace) })
	return true
}

// logStale logs that this node no longer accepts keys because its data is stale, or accepts them again.
func (m *Member) logStale(stale bool) {
	if stale {
		m.Logger().Error("the store has been unreachable for longer than max_staleness: requests are answered with 503, and open streams are ended, until the store is reachable", "node", m.Name())
		return
	}
	m.Logger().Info("the store is reachable again: keys are accepted again", "node", m.Name())
}

// caughtUp records that this node has applied all changes committed before the time began.
func (m *Member) caughtUp(began time.Time) {
	if m.membership != nil {
		m.membership.synced(m.appliedAsOf(began))
		m.signalProgress()
	}
}

// signalProgress makes reportLoop report the applied changes.
func (m *Member) signalProgress() {
	if m.membership == nil {
		return
	}
	seq := m.seq.Load()
	if m.reportedSeq.Swap(seq) == seq {
		return
	}
	select {
	case m.membership.changeSignal <- struct{}{}:
	default:
	}
}

// TokenChanges returns the number of applied changes of management tokens. It does not block.
func (m *Member) TokenChanges() uint64 { return m.tokenChanges.Load() }

// Apply puts stored changes into effect in this process. When Apply returns, no request is checked by
// the state before the changes, and live requests whose key is no longer valid have ended. The process
// calls Apply after each of its own commits, and for the commits of other processes, perhaps twice for
// one change. Apply may wait for the store. After an error, new keys may be unknown. Keys that the
// changes restrict are rejected even after an error.
func (m *Member) Apply(ctx context.Context, changes []gateway.Change) error {
	for _, c := range changes {
		if c.Kind == gateway.ChangeToken {
			m.tokenChanges.Add(1)
		}
	}
	err := m.Keys().Apply(ctx, changes)
	if err == nil {
		// If this process's own changes have consecutive numbers, catchUp need not apply them again.
		for _, c := range changes {
			m.seq.CompareAndSwap(c.Seq-1, c.Seq)
		}
		m.signalProgress()
	}
	return err
}
