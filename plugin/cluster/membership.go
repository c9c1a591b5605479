package cluster

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// reportEvery is how often a node reports that has applied nothing new.
	reportEvery = time.Second
	// reportTimeout bounds one report.
	reportTimeout = 2 * time.Second
	// laggingAfter is for how long without contact to the store a node rejects keys as unknown:
	// after it, they may have been created meanwhile.
	laggingAfter = 3 * time.Second
	// unresponsiveAfter is after how long without a report others do not wait for a node.
	unresponsiveAfter = 5 * time.Second
	// takeoverWindow is for how long a node that started without the store may find its name
	// taken by the process before it, once the store is back: that one's last report counts from
	// then on.
	takeoverWindow = 4 * unresponsiveAfter
)

// membership is what a member of a cluster with a shared store knows about its contact to that
// store. All times have a monotonic reading. It implements gateway.Freshness.
type membership struct {
	registry Registry
	instance string
	nodeInfo func() (version, configHash string)

	mu sync.Mutex
	// staleness bounds for how long this node accepts keys without contact to the store.
	staleness Staleness
	// lastSync is up to when all changes are applied. reported is when the last report that the
	// store accepted began, and announced the staleness that it stated.
	lastSync, reported time.Time
	announced          Staleness
	// deadline is until when this node accepts keys; nil before the first report.
	deadline atomic.Pointer[deadline]
	// recoveredAt is when the store began to accept reports, after the last one that it did not.
	recoveredAt time.Time
	failing     bool
	// replaced reports that another process took this node's name.
	replaced bool
	// listed reports that the store accepted a report of this process. nameTakenAt is when it
	// first answered ErrNameTaken before that.
	listed      bool
	nameTakenAt time.Time

	// changeSignal has an entry while there is progress to report.
	changeSignal chan struct{}
	polls        nodePoller
}

func newMembership(r Registry, staleness Staleness, nodeInfo func() (string, string)) *membership {
	if nodeInfo == nil {
		nodeInfo = func() (string, string) { return "", "" }
	}
	now := time.Now()
	return &membership{registry: r, instance: rand.Text(), nodeInfo: nodeInfo, staleness: staleness, lastSync: now, recoveredAt: now, changeSignal: make(chan struct{}, 1)}
}

// Stale implements gateway.Freshness.
func (s *membership) Stale(now time.Time, keyspace string) bool {
	return s.deadline.Load().passed(now, keyspace)
}

// allStale reports whether this node accepts keys of no keyspace.
func (s *membership) allStale(now time.Time) bool { return s.deadline.Load().allPassed(now) }

// Lagging implements gateway.Freshness.
func (s *membership) Lagging(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.lastSync) > laggingAfter
}

// synced records that all changes committed before began are applied.
func (s *membership) synced(began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastSync = began
	s.extendDeadline()
}

// reportAccepted records that the store accepted a report that began at began and announced a
// staleness.
func (s *membership) reportAccepted(began time.Time, announced Staleness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing || s.reported.IsZero() {
		s.recoveredAt, s.failing = began, false
	}
	s.reported, s.announced = began, announced
	s.extendDeadline()
}

// recovering reports whether the store was unreachable until just now: then the age of other
// nodes' reports says nothing about them.
func (s *membership) recovering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing || time.Since(s.recoveredAt) < unresponsiveAfter
}

// extendDeadline moves the deadline on, never beyond what others were told. s.mu is held.
func (s *membership) extendDeadline() {
	if s.replaced || s.reported.IsZero() {
		return
	}
	from := s.lastSync
	if s.reported.Before(from) {
		from = s.reported
	}
	s.deadline.Store(newDeadline(from, s.staleness.atMost(s.announced)))
}

// setStaleness changes the bounds. A shorter one holds at once, before others know of it.
func (s *membership) setStaleness(t Staleness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staleness = t
	if s.deadline.Load() != nil {
		s.extendDeadline()
	}
}

// lag returns the time since this node had applied all changes.
func (s *membership) lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.lastSync)
}

// markFailing records that a report failed.
func (s *membership) markFailing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = true
}

// markListed records that the store lists this process.
func (s *membership) markListed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = true
}

// markReplaced records that another process took this node's name, and reports whether that is
// new. The node accepts no key from then on, since other nodes no longer wait for its confirmations.
func (s *membership) markReplaced() (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = !s.replaced
	s.replaced = true
	s.deadline.Store(nil)
	return first
}

// mayTakeOver reports whether the process that has this node's name may be the one before it: this
// one was never listed, since it started without the store.
func (s *membership) mayTakeOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nameTakenAt.IsZero() {
		s.nameTakenAt = time.Now()
	}
	return !s.listed && !s.replaced && time.Since(s.nameTakenAt) < takeoverWindow
}
