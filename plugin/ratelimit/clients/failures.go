package clients

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

const (
	// shards is the number of parts of a table, each with its own lock, so that a flood from many
	// addresses does not wait for one lock.
	shards = 32
	// sampled is the number of entries of a full shard among which evict chooses.
	sampled = 8
)

// Failures counts failed attempts of each client (an IPv4 address or an IPv6 /64) against one
// rate, in bounded memory. It keeps one number for a client: the time at which its bucket is full
// again. That is the generic cell rate algorithm (ITU-T I.371), which is equivalent to a token
// bucket. Made by NewFailures; safe for concurrent use.
type Failures struct {
	// cost is how far one failure moves a client's time. depth is how far in the future the time
	// can be: the bucket's size times cost. In nanoseconds.
	cost, depth int64
	// perShard bounds a shard's entries.
	perShard int
	// base is the origin of all times in the table. Times relative to base fit an int64 and are monotonic.
	base   time.Time
	seed   maphash.Seed
	shards [shards]failureShard
}

type failureShard struct {
	mu sync.Mutex
	// last is the latest time seen. An earlier time counts as last.
	last int64
	// full is the time at which each client's bucket is full again, relative to base.
	full map[client]int64
}

// NewFailures returns an empty table that allows each client the rate of policy, and
// remembers at most maxEntries clients (at least one in each of 32 parts).
func NewFailures(policy *ratelimit.Policy, maxEntries int) *Failures {
	limit, burst := max(policy.Limit, 1), max(policy.Burst, 1)
	f := &Failures{
		cost:     max(1, (int64(policy.Period)+limit-1)/limit),
		perShard: max(1, maxEntries/shards),
		base:     time.Now(),
		seed:     maphash.MakeSeed(),
	}
	f.depth = math.MaxInt64 / 4
	if burst < f.depth/f.cost {
		f.depth = burst * f.cost
	}
	for i := range f.shards {
		f.shards[i].last = math.MinInt64
		f.shards[i].full = make(map[client]int64)
	}
	return f
}

// Fail counts one failure of addr at now, and reports whether the client is within its limit.
// Beyond the limit it counts nothing, and retry is the time until a failure is within the limit
// again. It allocates only for a new client.
func (f *Failures) Fail(now time.Time, addr netip.Addr) (ok bool, retry time.Duration) {
	c := clientOf(addr)
	s := &f.shards[maphash.Comparable(f.seed, c)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, late := int64(now.Sub(f.base)), int64(0)
	if at < s.last {
		at, late = s.last, s.last-at
	}
	s.last = at
	full, known := s.full[c]
	if !known || full < at {
		full = at
	}
	next := full + f.cost
	if over := next - at - f.depth; over > 0 {
		return false, time.Duration(over + late)
	}
	if !known && len(s.full) >= f.perShard {
		s.evict(at)
	}
	s.full[c] = next
	return true, 0
}

// Over reports whether a failure of addr at now would be beyond its limit. It counts nothing.
func (f *Failures) Over(now time.Time, addr netip.Addr) bool {
	c := clientOf(addr)
	s := &f.shards[maphash.Comparable(f.seed, c)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := max(s.last, int64(now.Sub(f.base)))
	full, known := s.full[c]
	if !known || full < at {
		full = at
	}
	return full+f.cost-at > f.depth
}

// Len returns the number of clients in the table.
func (f *Failures) Len() int {
	n := 0
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		n += len(s.full)
		s.mu.Unlock()
	}
	return n
}

// Sweep forgets the clients whose buckets are full at now. It locks one shard at a time.
func (f *Failures) Sweep(now time.Time) {
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		at := max(s.last, int64(now.Sub(f.base)))
		for c, full := range s.full {
			if full <= at {
				delete(s.full, c)
			}
		}
		if len(s.full) == 0 {
			// A Go map keeps the memory of deleted entries.
			s.full = make(map[client]int64)
		}
		s.mu.Unlock()
	}
}

// evict makes room for one client. It looks at a few random clients, and removes those whose bucket is full. If there are
// none, it removes the client with the fewest failures. So a flood of new addresses removes its own entries, not those of
// the few clients that failed often.
func (s *failureShard) evict(at int64) {
	var least client
	owed, seen, freed := int64(math.MaxInt64), 0, false
	for c, full := range s.full {
		if full <= at {
			delete(s.full, c)
			freed = true
		} else if full < owed {
			least, owed = c, full
		}
		if seen++; seen == sampled {
			break
		}
	}
	if !freed {
		delete(s.full, least)
	}
}
