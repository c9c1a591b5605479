package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Node is one gateway among those that share a store. Times are by the store's clock.
type Node struct {
	// Name is its own among those that are alive; Instance tells one process from the next
	// of that name.
	Name, Instance string
	// Version names the program as a User-Agent does, and ConfigHash tells configurations apart.
	Version, ConfigHash string
	// Seq is the newest change it acts by.
	Seq int64
	// LastRead is the newest change that it has read, zero where it has read none yet: where the store holds
	// another one in its place, Seq says nothing of the store. For ReportNode; Nodes does not return it.
	LastRead   Change
	Ready      bool
	KeysCached int64
	StartedAt  time.Time
	// ContactAt is when it last said so, and Deadline when it judges no key more by what it
	// holds unless it says something before.
	ContactAt, Deadline time.Time
	// Offsets is by how much sooner than Deadline that is for single keyspaces, and under "" for
	// those it does not name; nil where it is the same for all. See Trust.Earlier.
	Offsets map[string]time.Duration
}

// DeadlineFor returns when the node judges no key of a keyspace by what it holds, unless it says
// something before. Of no keyspace, "", it is when it judges none of any.
func (n *Node) DeadlineFor(keyspace string) time.Time {
	if keyspace == "" {
		return n.Deadline
	}
	earlier, ok := n.Offsets[keyspace]
	if !ok {
		earlier = n.Offsets[""]
	}
	return n.Deadline.Add(-earlier)
}

// ErrNameTaken says that another gateway that is alive has this node's name.
var ErrNameTaken = errors.New("another gateway goes by this node's name: give each its own")

// Registry is what a store has beside Store where several gateways share it: who they
// are, and how far each has followed the changes. Its methods may block within ctx and
// return errors that wrap ErrStore or ErrNameTaken.
type Registry interface {
	// ReportNode writes what a node says of itself, and that it may judge by what it holds
	// for trust from now on: trust, not n, says until when. Where n.Known is none of the store's changes, or
	// n.Seq none yet, as after going back to an older state, Seq is written as 0. Where another Instance has the name, the name is taken over once
	// that one has been silent for a while; before, it is ErrNameTaken.
	ReportNode(ctx context.Context, n *Node, trust Staleness) error
	// RemoveNode takes a node that ends from the list.
	RemoveNode(ctx context.Context, name, instance string) error
	// Nodes returns those that are there, by name, and the time by the store's clock.
	Nodes(ctx context.Context) ([]Node, time.Time, error)
}

const (
	// reportEvery is how often a node that has nothing new to say says so.
	reportEvery = time.Second
	// staleEvery is how often it is looked whether live requests have to end.
	staleEvery = 250 * time.Millisecond
	// reportTimeout bounds one report.
	reportTimeout = 2 * time.Second
	// laggingAfter is after how long without word from the store a node takes no key for unknown
	// on its own: it may have been created meanwhile.
	laggingAfter = 3 * time.Second
	// unresponsiveAfter is after how long without a report a node is not waited for any more.
	unresponsiveAfter = 5 * time.Second
	// takeoverWindow is for how long a node that began while the store was away may find its name with
	// the process before it, once the store is back: its last word counts from then on.
	takeoverWindow = 4 * unresponsiveAfter
)

// membership is an engine's part among others that share its store. All times have a reading of the
// clock that nobody sets.
type membership struct {
	// registry is nil where the store is this process's alone.
	registry Registry
	instance string
	nodeInfo func() (version, configHash string)

	mu sync.Mutex
	// staleness is how long this node judges by what it holds without word from the store.
	staleness Staleness
	// lastSync is when all changes there were had been applied, reported when the store last
	// took what this node says of itself, and promised the trust that was stated then.
	lastSync, reported time.Time
	announced          Staleness
	// deadline is when this node stops judging; nil before the first report.
	deadline atomic.Pointer[deadline]
	// recoveredAt is when the store began to take reports, after the last time that it did not.
	recoveredAt time.Time
	failing     bool
	// replaced says that another process took this node's name.
	replaced bool
	// listed says that the store took a report of this process's, and nameTakenAt when it first
	// refused one, because of its name, before it took any.
	listed      bool
	nameTakenAt time.Time

	// changeSignal has an entry when there is something new to report.
	changeSignal chan struct{}
	polls        nodePoller
}

func newMembership(r Registry, trust Staleness, about func() (string, string)) *membership {
	if about == nil {
		about = func() (string, string) { return "", "" }
	}
	now := time.Now()
	return &membership{registry: r, instance: rand.Text(), nodeInfo: about, staleness: trust, lastSync: now, recoveredAt: now, changeSignal: make(chan struct{}, 1)}
}

// stale says that what this node holds of a keyspace may not be judged by any more.
func (m *membership) stale(now time.Time, keyspace string) bool {
	return m.deadline.Load().passed(now, keyspace)
}

// allPassed says that what this node holds may not be judged by any more, of any keyspace.
func (m *membership) allStale(now time.Time) bool { return m.deadline.Load().allPassed(now) }

// lagging says that nothing was heard of the store for a while: what was created since is
// not known here.
func (m *membership) lagging(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.lastSync) > laggingAfter
}

// synced notes that what was committed before began is applied.
func (m *membership) synced(began time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastSync = began
	m.extendDeadline()
}

// reportAccepted notes that the store took a report that was begun at began, and that promised trust.
func (m *membership) reportAccepted(began time.Time, trust Staleness) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing || m.reported.IsZero() {
		m.recoveredAt, m.failing = began, false
	}
	m.reported, m.announced = began, trust
	m.extendDeadline()
}

// recovering says that the store was away until just now: that others are silent says
// nothing of them.
func (m *membership) recovering() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failing || time.Since(m.recoveredAt) < unresponsiveAfter
}

// extendDeadline moves the end of trust on: nobody may be told an earlier one. m.mu is held.
func (m *membership) extendDeadline() {
	if m.replaced || m.reported.IsZero() {
		return
	}
	from := m.lastSync
	if m.reported.Before(from) {
		from = m.reported
	}
	m.deadline.Store(newDeadline(from, m.staleness.atMost(m.announced)))
}

// SetStaleness says for how long this node judges by what it holds while it hears nothing
// from a store that it shares. Safe at any time.
func (g *Gateway) SetStaleness(t Staleness) {
	if m := g.member; m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.staleness = t
		if m.deadline.Load() != nil {
			// A shorter one holds before anybody may hear of it.
			m.extendDeadline()
		}
	}
}

// stale says that this node has heard nothing of the changes for longer than it may go
// on without in a keyspace. Never where the store is its own. Does not allocate.
func (g *Gateway) stale(now time.Time, keyspace string) bool {
	return g.member != nil && g.member.stale(now, keyspace)
}

// endStale ends the live requests of keyspaces that are judged no more: whoever revokes a key is told
// that nothing goes on by it from then on. It reports whether there are such keyspaces.
func (g *Gateway) endStale(now time.Time) bool {
	h := g.member.deadline.Load()
	if !h.anyPassed(now) {
		return false
	}
	g.keys.EndStale(func(keyspace string) bool { return h.passed(now, keyspace) })
	return true
}

// logStale logs that keys are judged no more, or are again.
func (g *Gateway) logStale(stale bool) {
	if stale {
		g.log.Error("nothing was heard of the store for longer than max_staleness: keys are answered with 503, and open streams ended, until it is heard of", "node", g.node)
		return
	}
	g.log.Info("the store is heard of again: keys are judged", "node", g.node)
}

// lag returns how long ago this node had applied all changes there were.
func (g *Gateway) lag() time.Duration {
	m := g.member
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.lastSync)
}

// lagging says that what is unknown here may be known to the store.
func (g *Gateway) lagging() bool { return g.member != nil && g.member.lagging(time.Now()) }

// join makes this node known, before it loads anything: from then on whoever changes
// something waits for it.
func (g *Gateway) join(ctx context.Context) error {
	if g.member == nil {
		return nil
	}
	return g.report(ctx)
}

// report tells the store how far this node is.
func (g *Gateway) report(ctx context.Context) error {
	m := g.member
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	began := time.Now()
	m.mu.Lock()
	trust := m.staleness
	m.mu.Unlock()
	// Read after the newest change applied: it may be an earlier one, and vouches for that all the same.
	n := &Node{Name: g.node, Instance: m.instance, Seq: g.seq.Load(), Ready: g.Ready(), KeysCached: g.keys.KeyCount()}
	if k := g.lastRead.Load(); k != nil {
		n.LastRead = *k
	}
	n.Version, n.ConfigHash = m.nodeInfo()
	err := m.registry.ReportNode(ctx, n, trust)
	if err != nil {
		m.mu.Lock()
		m.failing = true
		m.mu.Unlock()
	}
	switch {
	case err == nil:
		m.reportAccepted(began, trust)
		m.markListed()
	case errors.Is(err, ErrNameTaken) && g.isReady.Load() && m.mayTakeOver():
		// Whoever waits for this node waits for the one before it, which promised no less.
		return nil
	case errors.Is(err, ErrNameTaken) && g.isReady.Load():
		// Whoever has the name now answers for it, and nobody waits for this one.
		m.mu.Lock()
		first := !m.replaced
		m.replaced = true
		m.deadline.Store(nil)
		m.mu.Unlock()
		if first {
			g.log.Error("another gateway has taken this node's name: it judges no more keys; give each its own name and start it again", "node", g.node)
		}
	}
	return err
}

// markListed notes that the store lists this process.
func (m *membership) markListed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed = true
}

// mayTakeOver says whether the one who has this node's name may be the process before it: this one was
// never listed, since the store was away when it began.
func (m *membership) mayTakeOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nameTakenAt.IsZero() {
		m.nameTakenAt = time.Now()
	}
	return !m.listed && !m.replaced && time.Since(m.nameTakenAt) < takeoverWindow
}

// reportLoop reports whenever changes were applied, and every now and then.
func (g *Gateway) reportLoop(ctx context.Context) {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for look := true; ; {
		err := g.report(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			// A replica may be read all the while.
			g.health.WriteFailed("telling the other gateways of this one", err)
		case err == nil && look:
			// Whoever refuses a key while the store is away is told who else there was.
			_, _ = g.member.polls.list(ctx, g.member.registry)
		}
		select {
		case <-t.C:
			look = true
		case <-g.member.changeSignal:
			look = false
		case <-ctx.Done():
			return
		}
	}
}

// staleLoop ends live requests as soon as they may not go on. It asks nobody, so that nothing keeps it.
func (g *Gateway) staleLoop(ctx context.Context) {
	t := time.NewTimer(staleEvery)
	defer t.Stop()
	for was := false; ; {
		select {
		case now := <-t.C:
			if is := g.endStale(now); is != was {
				was = is
				g.logStale(is)
			}
			// Looking through many keys is not to take more than a twentieth of a processor.
			t.Reset(max(staleEvery, 20*time.Since(now)))
		case <-ctx.Done():
			return
		}
	}
}

// caughtUp notes that all changes that were committed before began are applied.
func (g *Gateway) caughtUp(began time.Time) {
	if m := g.member; m != nil {
		m.synced(g.appliedAsOf(began))
		g.signalProgress()
	}
}

// signalProgress has it reported that changes were applied.
func (g *Gateway) signalProgress() {
	if g.member == nil {
		return
	}
	seq := g.seq.Load()
	if g.reportedSeq.Swap(seq) == seq {
		return
	}
	select {
	case g.member.changeSignal <- struct{}{}:
	default:
	}
}

// leave takes this node from the list, at a clean stop.
func (g *Gateway) leave(ctx context.Context) error {
	if g.member == nil {
		return nil
	}
	return g.member.registry.RemoveNode(ctx, g.node, g.member.instance)
}
