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

// Options are what a Member is made of.
type Options struct {
	gateway.Options
	// Registry lists the gateways that share the store; nil where it is this process's alone.
	Registry Registry
	// Shared states that SetStore will name a Registry. Default: false.
	Shared bool
	// Staleness is for how long keys in memory are accepted while a shared store cannot be
	// reached. Default: an hour.
	Staleness Staleness
	// NodeInfo returns the program's version and a hash of its configuration, for the other
	// gateways. Default: both are empty.
	NodeInfo func() (version, configHash string)
}

const (
	defaultStaleness = time.Hour
	// staleEvery is how often a node checks whether it must end live requests.
	staleEvery = 250 * time.Millisecond
)

// Member is a gateway that follows the changes of its store. Make one with New. Safe for
// concurrent use.
type Member struct {
	*gateway.Gateway
	store gateway.Store
	// membership is nil where the store is this process's alone.
	membership *membership

	startMu         sync.Mutex
	started, closed atomic.Bool
	stop            context.CancelFunc
	running         sync.WaitGroup

	tokenChanges atomic.Uint64
	seq          atomic.Int64 // newest change applied
	reportedSeq  atomic.Int64 // newest change that is, or will be, reported as applied
	// lastRead is the newest change that was read as applied, nil for none; only the follower
	// sets it.
	lastRead atomic.Pointer[gateway.Change]
	// mirror is the store where it is a Mirror, nil where it is not. mirrorGeneration is the
	// generation that was followed last.
	mirror           Mirror
	mirrorGeneration uint64
}

// New returns a member that is not ready yet. It does not read the store.
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

// SetStore names the store of a member whose Options name none, and its Registry where it is
// shared. It is called once, before Start.
func (m *Member) SetStore(s gateway.Store, r Registry) {
	m.store = s
	m.Gateway.SetStore(s)
	if m.membership != nil {
		m.membership.registry = r
	}
}

// Start joins the cluster and makes the gateway ready. From then on it follows the changes in the
// background. Blocks on the store, within ctx. Idempotent; after a failure it may be called again.
func (m *Member) Start(ctx context.Context) error {
	m.startMu.Lock()
	defer m.startMu.Unlock()
	if m.started.Load() {
		return nil
	}
	if m.closed.Load() {
		return errors.New("the gateway was closed")
	}
	// First: from then on writers wait for this node, and what was written before is what it
	// loads.
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

// Close closes the gateway, see gateway.Gateway.Close, and leaves the cluster. Idempotent.
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

// Ready reports whether keys of one keyspace at least are accepted now.
func (m *Member) Ready() bool {
	return m.Gateway.Ready() && (m.membership == nil || !m.membership.allStale(time.Now()))
}

// ReadyFor reports whether keys of a keyspace are accepted now.
func (m *Member) ReadyFor(keyspace string) bool {
	return m.Gateway.Ready() && (m.membership == nil || !m.membership.Stale(time.Now(), keyspace))
}

// Stats is the state of a member.
type Stats struct {
	// Stats of the gateway; Ready is the member's.
	gateway.Stats
	// Stale reports that the member is not ready because it could not reach the store for too
	// long.
	Stale bool
	// Seq is the newest change that this node has applied.
	Seq int64
	// Lag is the time since all changes had been applied; 0 where the store is this process's
	// own.
	Lag time.Duration
}

// Stats does not block.
func (m *Member) Stats() Stats {
	s := Stats{Stats: m.Gateway.Stats(), Seq: m.seq.Load()}
	if m.membership != nil {
		s.Stale = s.Ready && m.membership.allStale(time.Now())
		s.Lag = m.membership.lag()
	}
	s.Ready = s.Ready && !s.Stale
	return s
}

// SetStaleness changes for how long this node accepts keys while it cannot reach a shared store.
// Safe at any time.
func (m *Member) SetStaleness(t Staleness) {
	if m.membership != nil {
		m.membership.setStaleness(t)
	}
}

// join makes this node known, before it loads anything: writers wait for it from then on.
func (m *Member) join(ctx context.Context) error {
	if m.membership == nil {
		return nil
	}
	return m.report(ctx)
}

// leave removes this node from the list, at a clean stop.
func (m *Member) leave(ctx context.Context) error {
	if m.membership == nil {
		return nil
	}
	return m.membership.registry.RemoveNode(ctx, m.Name(), m.membership.instance)
}

// report tells the store how far this node has followed the changes.
func (m *Member) report(ctx context.Context) error {
	s := m.membership
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	began := time.Now()
	s.mu.Lock()
	staleness := s.staleness
	s.mu.Unlock()
	// lastRead is read after seq: it may be an earlier change, and vouches for seq all the same.
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
		// Writers wait for the process before this one, which announced no shorter staleness.
		return nil
	case s.markReplaced():
		m.Logger().Error("another gateway has taken this node's name: this one accepts no more keys; give each gateway its own name and start this one again", "node", m.Name())
	}
	return err
}

// reportLoop reports whenever changes were applied, and every reportEvery.
func (m *Member) reportLoop(ctx context.Context) {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for look := true; ; {
		err := m.report(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			// A replica may be readable all the while.
			m.Health().WriteFailed("reporting this gateway to the others", err)
		case err == nil && look:
			// While the store is unreachable, a revocation names the nodes that were read last.
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

// staleLoop ends live requests as soon as their keyspace is stale. It does not use the store, so
// that nothing delays it.
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
			// Searching many keys takes at most a twentieth of a processor.
			t.Reset(max(staleEvery, 20*time.Since(now)))
		case <-ctx.Done():
			return
		}
	}
}

// endStale ends the live requests of stale keyspaces: a revocation's receipt states that no
// request continues after the deadline. It reports whether a keyspace is stale.
func (m *Member) endStale(now time.Time) bool {
	h := m.membership.deadline.Load()
	if !h.anyPassed(now) {
		return false
	}
	m.Keys().EndStale(func(keyspace string) bool { return h.passed(now, keyspace) })
	return true
}

// logStale logs that keys are no longer accepted, or that they are again.
func (m *Member) logStale(stale bool) {
	if stale {
		m.Logger().Error("the store was unreachable for longer than max_staleness: keys are answered with 503, and open streams ended, until it is reachable", "node", m.Name())
		return
	}
	m.Logger().Info("the store is reachable again: keys are accepted", "node", m.Name())
}

// caughtUp records that all changes committed before began are applied.
func (m *Member) caughtUp(began time.Time) {
	if m.membership != nil {
		m.membership.synced(m.appliedAsOf(began))
		m.signalProgress()
	}
}

// signalProgress has the report loop report that changes were applied.
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

// TokenChanges counts the changes to management tokens that were applied. It does not block.
func (m *Member) TokenChanges() uint64 { return m.tokenChanges.Load() }

// Apply makes changes that are in the store count here: when it returns, no request is checked by
// a state before them, and live requests whose key is no longer valid have been ended. Called
// after each commit of this process, and for the commits of others; a change may be applied more
// than once. Blocks on the store. An error means that new keys may not be known yet; keys that
// lost something are rejected in any case.
func (m *Member) Apply(ctx context.Context, changes []gateway.Change) error {
	for _, c := range changes {
		if c.Kind == gateway.ChangeToken {
			m.tokenChanges.Add(1)
		}
	}
	err := m.Keys().Apply(ctx, changes)
	if err == nil {
		// This process's own changes, in order, need not be read and applied a second time.
		for _, c := range changes {
			m.seq.CompareAndSwap(c.Seq-1, c.Seq)
		}
		m.signalProgress()
	}
	return err
}
