package usage

import (
	"sync"
	"time"
)

// Counter counts one key's requests. It belongs to a Tracker, and must not be
// copied. Safe for concurrent use.
type Counter struct {
	tracker               *Tracker
	keyspace, tenant, key string

	mu sync.Mutex
	// listed says that the tracker will look here at its next flush.
	listed bool
	// now is what was counted in the newest hour since the last flush; nil where nothing was.
	now *tally
	// recent are the last requests since they were last written; nil where there are none.
	// Where it is set, the tracker will look here when it next writes those.
	recent *ring
	// chunks is how many chunks were written since the key's surplus was last dropped.
	chunks int
}

// tally is what one counter counted in one hour since the last flush.
type tally struct {
	hour int64 // Unix seconds of its beginning
	Counts
	// older is of an earlier hour.
	older *tally
}

const secondsPerHour = 3600

// tallies and rings are kept for reuse: a counter needs one only from its first request
// after a flush to the next flush.
var (
	tallies = sync.Pool{New: func() any { return new(tally) }}
	rings   = sync.Pool{New: func() any { return new(ring) }}
)

// Begin says that a request was judged that will be counted: Tracker.Close waits for it.
func (c *Counter) Begin() { c.tracker.open.Add(1) }

// Count counts a request that ends now, for which Begin was called. It does not block on the store and, in
// a steady run of requests, does not allocate.
func (c *Counter) Count(r *Request) {
	defer c.tracker.open.Add(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	// Listed before the clock is read: a flush that misses this counter closed its batch
	// at an earlier time than the one read now, so nothing is added to what was said to
	// be complete.
	if !c.listed {
		c.listed = true
		c.tracker.list(c)
	}
	now := time.Now()
	took := now.Sub(r.Began)
	at := max(now.UnixNano(), c.tracker.cut.Load()) // should the clock have gone back
	if !r.Uncounted {
		hour := at / int64(time.Second)
		hour -= hour % secondsPerHour
		if c.now == nil || c.now.hour != hour {
			c.turn(hour)
		}
		c.now.add(r, took)
	}
	if r.Log != nil {
		c.remember(r, at, took)
	}
}

// turn begins the tally of an hour.
func (c *Counter) turn(hour int64) {
	t := tallies.Get().(*tally)
	t.hour, t.older = hour, c.now
	c.now = t
}

// take returns what was counted since the last call, and forgets it.
func (c *Counter) take() *tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.now
	c.now, c.listed = nil, false
	return t
}

// takeRecent returns the requests remembered since the last call, and forgets them.
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
