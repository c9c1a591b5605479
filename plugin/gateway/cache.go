package gateway

import (
	"fmt"
	"sync"

	"github.com/dgraph-io/ristretto/v2"
)

// cache keeps entries by the first word of a key's digest. It is the one place that
// knows ristretto, and nothing depends on what it does with a Set, or when: an entry
// that is outdated is told by its version, wherever it still stands.
type cache struct {
	// mu keeps Close from running beside Set, which ristretto answers with a panic. Reads need no
	// such care.
	mu     sync.RWMutex
	closed bool
	r      *ristretto.Cache[uint64, *entry]
}

func newCache(entries int64) (*cache, error) {
	r, err := ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		// How often keys were used is remembered for this many. Ristretto advises ten times the
		// entries, which takes four bytes for each; it decides who may stay once the table is full, and
		// with most keys it never is.
		NumCounters: entries,
		MaxCost:     entries,
		BufferItems: 64,
		// Costs are entries, not bytes; without this ristretto adds 56 to each.
		IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, fmt.Errorf("creating the key cache: %w", err)
	}
	return &cache{r: r}, nil
}

// get returns what is kept under word, nil when there is nothing. The caller compares
// the full digest and the version. It does not allocate.
func (c *cache) get(word uint64) *entry {
	e, _ := c.r.Get(word)
	return e
}

// set keeps e, soon, or not at all.
func (c *cache) set(word uint64, e *entry) {
	c.mu.RLock()
	if !c.closed {
		c.r.Set(word, e, 1)
	}
	c.mu.RUnlock()
}

// close lets go of everything. Later gets find nothing, later sets do nothing.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.r.Close()
	}
}
