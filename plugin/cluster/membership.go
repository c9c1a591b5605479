package cluster

import (
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// reportEvery is the interval of reports without new changes.
	reportEvery = time.Second
	// reportTimeout bounds one report.
	reportTimeout = 2 * time.Second
	// laggingAfter is how long without contact to the store a node still rejects keys as unknown.
	// Later, they may have been created meanwhile.
	laggingAfter = 3 * time.Second
	// unresponsiveAfter is the time since a node's last report after which others do not wait for
	// it.
	unresponsiveAfter = 5 * time.Second
	// takeoverWindow bounds how long the name of a node that started without the store may belong
	// to its former process. It begins when the store answers again, with the former process's
	// last report.
	takeoverWindow = 4 * unresponsiveAfter
)

// membership is the state of a member's contact to a shared store. All times have a monotonic
// reading. It implements gateway.Freshness.
type membership struct {
	registry Registry
	instance string
	nodeInfo func() (version, configHash string)

	mu sync.Mutex
	// staleness is how long this node accepts keys without contact to the store.
	staleness Staleness
	// All changes up to lastSync are applied. reported is when the last accepted report began, and
	// announced is the staleness in it.
	lastSync, reported time.Time
	announced          Staleness
	// deadline is until when this node accepts keys; nil before the first report.
	deadline atomic.Pointer[deadline]
	// recoveredAt is when the store began to accept reports again after a failed one.
	recoveredAt time.Time
	failing     bool
	// replaced reports that another process took this node's name.
	replaced bool
	// listed reports that the store accepted a report of this process. nameTakenAt is when the
	// registry first returned ErrNameTaken before that.
	listed      bool
	nameTakenAt time.Time

	// changeSignal has an entry while there are applied changes to report.
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

// allStale reports whether this node accepts no keys of any keyspace.
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

// reportAccepted records that the store accepted this node's report. began is when the report was
// sent, announced is the staleness that the report states.
func (s *membership) reportAccepted(began time.Time, announced Staleness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing || s.reported.IsZero() {
		s.recoveredAt, s.failing = began, false
	}
	s.reported, s.announced = began, announced
	s.extendDeadline()
}

// recovering reports whether the store was unreachable until just now. Then other nodes could not
// report either, so old reports do not mean that they are down.
func (s *membership) recovering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing || time.Since(s.recoveredAt) < unresponsiveAfter
}

// extendDeadline moves the deadline forward, but never beyond what this node announced to others.
// s.mu is locked.
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

// setStaleness changes the bounds. A shorter bound is in effect at once, before others know it.
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
// new. From then on the node accepts no key, since other nodes no longer wait for its
// confirmations.
func (s *membership) markReplaced() (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = !s.replaced
	s.replaced = true
	s.deadline.Store(nil)
	return first
}

// mayTakeOver reports whether the process that has this node's name may be its former process.
// That is possible only if this process was never listed, because it started without the store.
func (s *membership) mayTakeOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nameTakenAt.IsZero() {
		s.nameTakenAt = time.Now()
	}
	return !s.listed && !s.replaced && time.Since(s.nameTakenAt) < takeoverWindow
}
