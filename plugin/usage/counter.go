package usage

import (
	"sync"
	"time"
)

// Counter counts one key's requests. It belongs to a Tracker, and must not be copied. Safe for concurrent use.
type Counter struct {
	tracker               *Tracker
	keyspace, tenant, key string

	mu sync.Mutex
	// listed reports whether the tracker collects this counter at its next flush.
	listed bool
	// now holds the counts of the newest hour since the last flush; nil where there are none.
	now *tally
	// recent holds the last requests that are not written yet; nil if there are none. If it is set, the tracker collects it when
	// it next writes requests.
	recent *ring
	// chunks counts the chunks written since the store last dropped the key's oldest requests.
	chunks int
}

// tally holds the counts of one counter in one hour since the last flush.
type tally struct {
	hour int64 // beginning of the hour in Unix seconds
	Counts
	// older is the tally of an earlier hour.
	older *tally
}

const secondsPerHour = 3600

// tallies and rings are reused: a counter needs one only from its first request after a flush until the next flush.
var (
	tallies = sync.Pool{New: func() any { return new(tally) }}
	rings   = sync.Pool{New: func() any { return new(ring) }}
)

// Begin announces a request that will be counted: Tracker.Close waits for it.
func (c *Counter) Begin() { c.tracker.open.Add(1) }

// Count counts a request that ends now, for which Begin was called. It does not block on the store, and rarely
// allocates.
func (c *Counter) Count(r *Request) {
	defer c.tracker.open.Add(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	// The counter is put on the list before the clock is read. If a flush misses the counter, the flush has closed its batch at an
	// earlier time. So no count is ever added to a batch that was complete.
	if !c.listed {
		c.listed = true
		c.tracker.list(c)
	}
	now := time.Now()
	took := now.Sub(r.Began)
	at := max(now.UnixNano(), c.tracker.cut.Load()) // the clock may have been set back
	if !r.Uncounted {
		hour := at / int64(time.Second)
		hour -= hour % secondsPerHour
		if c.now == nil || c.now.hour != hour {
			c.startHour(hour)
		}
		c.now.add(r, took)
	}
	if r.Log != nil {
		c.remember(r, at, took)
	}
}

// startHour begins the tally of an hour.
func (c *Counter) startHour(hour int64) {
	t := tallies.Get().(*tally)
	t.hour, t.older = hour, c.now
	c.now = t
}

// take returns the counts since the last call of take, and resets them.
func (c *Counter) take() *tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.now
	c.now, c.listed = nil, false
	return t
}

// takeRecent returns the requests since the last call of takeRecent, and forgets them.
func (c *Counter) takeRecent() *ring {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.recent
	c.recent = nil
	return g
}

// release gives tallies back for reuse.
func (t *tally) release() {
	for t != nil {
		older := t.older
		*t = tally{}
		tallies.Put(t)
		t = older
	}
}
