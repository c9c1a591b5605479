package keytable

import (
	"fmt"
	"sync"

	"github.com/dgraph-io/ristretto/v2"
)

// cache keeps entries in a ristretto cache, by the first word of a key's digest. No other code uses ristretto. The code
// never relies on a Set taking effect, because ristretto may drop a Set or apply it late. An outdated entry is recognized
// by its version.
type cache struct {
	// mu keeps Close from running during Set, which panics in ristretto. Reads are safe.
	mu     sync.RWMutex
	closed bool
	r      *ristretto.Cache[uint64, *Entry]
}

func newCache(entries int64) (*cache, error) {
	r, err := ristretto.NewCache(&ristretto.Config[uint64, *Entry]{
		// NumCounters is how many keys' uses ristretto counts, at four bytes each, to choose the
		// entries to evict. Ristretto advises ten times the entries. One per entry is enough here,
		// since the cache is rarely full.
		NumCounters: entries,
		MaxCost:     entries,
		BufferItems: 64,
		// Each entry costs 1. Without this option ristretto adds 56 bytes to each cost.
		IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, fmt.Errorf("creating the key cache: %w", err)
	}
	return &cache{r: r}, nil
}

// get returns the entry of word, nil where there is none. The caller compares the full digest
// and the versions. It does not allocate.
func (c *cache) get(word uint64) *Entry {
	e, _ := c.r.Get(word)
	return e
}

// set offers e to ristretto. Ristretto decides whether it keeps e, and from when on get returns e.
func (c *cache) set(word uint64, e *Entry) {
	c.mu.RLock()
	if !c.closed {
		c.r.Set(word, e, 1)
	}
	c.mu.RUnlock()
}

// close drops all entries. Later gets find nothing, later sets do nothing.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.r.Close()
	}
}
