package cluster

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// reportEvery is how often a node reports to the registry while it has no new changes to report.
	reportEvery = time.Second
	// reportTimeout bounds one report to the registry.
	reportTimeout = 2 * time.Second
	// laggingAfter is how long a node without contact to the store still rejects keys as unknown. After
	// that time an unknown key may be a new one.
	laggingAfter = 3 * time.Second
	// unresponsiveAfter is the time since a node's last report after which other nodes do not wait for
	// that node's confirmations.
	unresponsiveAfter = 5 * time.Second
	// takeoverWindow bounds how long a node that started without the store may find its name still held by
	// its former process. The time begins when the store answers again and shows the former process's last
	// report.
	takeoverWindow = 4 * unresponsiveAfter
)

// membership is the state of a member's contact to a shared store. All its times have a monotonic
// clock reading. membership implements gateway.Freshness.
type membership struct {
	registry Registry
	instance string
	nodeInfo func() (version, configHash string)

	mu sync.Mutex
	// staleness is how long this node accepts keys without contact to the store.
	staleness Staleness
	// lastSync is the time up to which this node has applied all changes. reported is when the last
	// accepted report began. announced is the staleness in that report.
	lastSync, reported time.Time
	announced          Staleness
	// deadline is the time until which this node accepts keys. It is nil before the first report.
	deadline atomic.Pointer[deadline]
	// recoveredAt is when the store first accepted a report again after a failed report.
	recoveredAt time.Time
	failing     bool
	// replaced reports whether another process took this node's name.
	replaced bool
	// listed reports whether the store has accepted a report of this process. nameTakenAt is when the
	// registry first returned ErrNameTaken while listed was false.
	listed      bool
	nameTakenAt time.Time

	// changeSignal holds an entry while this node has applied changes that it must still report.
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

// allStale reports whether this node accepts no keys of any keyspace because its data is too old.
func (s *membership) allStale(now time.Time) bool { return s.deadline.Load().allPassed(now) }

// Lagging implements gateway.Freshness.
func (s *membership) Lagging(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.lastSync) > laggingAfter
}

// synced records that this node has applied all changes committed before the time began.
func (s *membership) synced(began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastSync = began
	s.extendDeadline()
}

// reportAccepted records that the store accepted this node's report. began is when the node sent the
// report. announced is the staleness that the report states.
func (s *membership) reportAccepted(began time.Time, announced Staleness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing || s.reported.IsZero() {
		s.recoveredAt, s.failing = began, false
	}
	s.reported, s.announced = began, announced
	s.extendDeadline()
}

// recovering reports whether the store was unreachable until just now. While the store was
// unreachable no node could report, so an old report does not mean that its node is down.
func (s *membership) recovering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing || time.Since(s.recoveredAt) < unresponsiveAfter
}

// extendDeadline moves the time until which this node accepts keys forward, but never beyond the time
// that the node announced to other nodes. The caller holds s.mu.
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

// setStaleness changes how long this node accepts keys without contact to the store. A shorter time is
// in effect at once, before other nodes know the new time.
func (s *membership) setStaleness(t Staleness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staleness = t
	if s.deadline.Load() != nil {
		s.extendDeadline()
	}
}

// lag returns the time since this node last had all changes applied.
func (s *membership) lag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.lastSync)
}

// markFailing records that a report to the registry failed.
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

// markReplaced records that another process took this node's name, and reports whether this node
// learns it for the first time. From then on the node accepts no key, because other nodes no longer
// wait for its confirmations.
func (s *membership) markReplaced() (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = !s.replaced
	s.replaced = true
	s.deadline.Store(nil)
	return first
}

// mayTakeOver reports whether the process that holds this node's name may be the node's former
// process. The answer can be true only if the store never listed this process, because this process
// started without the store.
func (s *membership) mayTakeOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nameTakenAt.IsZero() {
		s.nameTakenAt = time.Now()
	}
	return !s.listed && !s.replaced && time.Since(s.nameTakenAt) < takeoverWindow
}
