package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

const (
	// loadTimeout bounds one load, whoever waits for it.
	loadTimeout = 2 * time.Second
	// concurrentLoads bounds the look-ups that run at the same time.
	concurrentLoads = 16
	// loadTries bounds how often a load is repeated because something changed while it
	// read. Changes to other keys of the same shard count too, so it is generous.
	loadTries = 20
	// negatives is how many unknown digests are remembered, in all.
	negatives = 1 << 14
)

// errUnknown says that no secret has the digest: an answer, not a failure.
var errUnknown = errors.New("unknown key")

// digestWords returns the digest's first two words: the one by which it is cached, and a
// second independent one.
func digestWords(d []byte) (uint64, uint64) {
	return binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
}

// loader brings entries from the store, each once for all who want it.
type loader struct {
	mu      sync.Mutex
	flights map[flightID]*flight
	slots   chan struct{}
	// unknown remembers digests that were looked up in vain. It is only asked for the few
	// that get past the filter.
	unknown negativeTable
}

type flightID struct {
	word     uint64
	keyspace string
	// hasher decides in which forms the key is looked for: what is unknown in the forms of one
	// configuration may be known in those of another.
	hasher *apikey.Hasher
}

type flight struct {
	digest apikey.Digest
	done   chan struct{}
	entry  *entry
	err    error
}

func newLoader() *loader {
	return &loader{flights: map[flightID]*flight{}, slots: make(chan struct{}, concurrentLoads)}
}

// find returns the current entry of a presented key: from the cache, else from the
// store. Errors: errUnknown, or why it could not be told.
func (g *Gateway) find(ctx context.Context, req *Request, digest apikey.Digest) (*entry, error) {
	word, low := digestWords(digest[:])
	word ^= req.Keyspace.salt
	if e := g.cache.get(word); e != nil && e.digest == digest && e.keyspace() == req.Keyspace.Name && e.current() {
		return e, nil
	}
	return g.findSlow(ctx, req, digest, word, low)
}

// findSlow is find for what the cache does not know.
func (g *Gateway) findSlow(ctx context.Context, req *Request, digest apikey.Digest, word, low uint64) (*entry, error) {
	var buf [8]apikey.Candidate
	candidates := req.View.Hasher.Candidates(buf[:0], req.Credential)
	leads := g.hints(req.Keyspace, req.Credential)
	// While nothing is heard of the store only itself can tell what is unknown.
	silent := g.lagging()
	if len(leads) == 0 && !silent && !g.mayExist(candidates) {
		return nil, errUnknown
	}
	if !silent && g.loads.unknown.has(word, low, g.table.creations.Load(), req.View.Hasher) {
		return nil, errUnknown
	}
	id := flightID{word, req.Keyspace.Name, req.View.Hasher}
	for {
		g.loads.mu.Lock()
		c := g.loads.flights[id]
		if c == nil {
			c = &flight{digest: digest, done: make(chan struct{})}
			g.loads.flights[id] = c
			g.loads.mu.Unlock()
			// Detached: that the first caller goes away must not fail the others.
			go g.runLoad(id, c, g.newKeyQuery(req, candidates, leads))
		} else {
			g.loads.mu.Unlock()
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrStore, ctx.Err())
		}
		switch {
		case c.digest != digest:
			continue // another key with the same first word; its turn is over now
		case c.err != nil:
			return nil, c.err
		case c.entry.current():
			return c.entry, nil
		}
		// Changed since it was loaded. Each turn of this loop is paid for by a change.
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrStore, err)
		}
	}
}

// runLoad does one load and wakes those who wait for it.
func (g *Gateway) runLoad(id flightID, c *flight, s keyQuery) {
	c.entry, c.err = g.lookupOrCompare(id, c.digest, s)
	switch {
	case c.err == nil:
		g.cache.set(id.word, c.entry)
	case !errors.Is(c.err, errUnknown) && !errors.Is(c.err, errBusy):
		g.readFailed("looking up a key", c.err)
	}
	g.loads.mu.Lock()
	delete(g.loads.flights, id)
	g.loads.mu.Unlock()
	close(c.done)
}

// load reads the record of the key that has one of candidates.
func (g *Gateway) load(ctx context.Context, keyspace string, digest apikey.Digest, candidates []apikey.Candidate, shown shownParts) (*entry, error) {
	e, rec, err := g.readRecord(ctx, digest, func() (*Record, error) { return g.store.Lookup(ctx, keyspace, candidates) })
	if err != nil {
		return e, err
	}
	var r rewrite
	if candidates[0].Digest == digest && rec.Secret.Algorithm != candidates[0].Algorithm {
		r.to = candidates[0]
	}
	if shown != (shownParts{rec.Secret.Prefix, rec.Secret.LastFour}) {
		r.shown = shown
	}
	if r != (rewrite{}) {
		r.keyspace, r.secret = keyspace, rec.Secret.ID
		g.queueRewrite(r)
	}
	return e, nil
}

// reload reads the record of e's secret anew, in whatever form it is stored by now.
func (g *Gateway) reload(ctx context.Context, e *entry) (*entry, error) {
	now, _, err := g.readRecord(ctx, e.digest, func() (*Record, error) { return g.store.LookupSecret(ctx, e.keyspace(), e.secretID) })
	return now, err
}

// readRecord asks for a record until nothing changed while it was read.
func (g *Gateway) readRecord(ctx context.Context, digest apikey.Digest, ask func() (*Record, error)) (*entry, *Record, error) {
	select {
	case g.loads.slots <- struct{}{}:
		defer func() { <-g.loads.slots }()
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("%w: too many look-ups at once", ErrStore)
	}
	var gens generations
	for range loadTries {
		g.table.snapshot(&gens)
		rec, err := ask()
		if errors.Is(err, ErrNotFound) {
			return nil, nil, errUnknown
		}
		if err != nil {
			return nil, nil, err
		}
		g.readWorked()
		if e := g.table.admit(&gens, digest, rec); e != nil {
			return e, rec, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: the key kept changing while it was read", ErrStore)
}

// mayExist says whether any stored digest may be one of candidates; false is certain.
func (g *Gateway) mayExist(candidates []apikey.Candidate) bool {
	f := g.filter.Load()
	if f == nil {
		return true // still being filled
	}
	for i := range candidates {
		if f.has(digestWords(candidates[i].Digest[:])) {
			return true
		}
	}
	return false
}

// negativeTable remembers unknown digests: a fixed array in which newer ones overwrite
// older ones. A digest counts as unknown only as long as no key was created since, and
// only for those who look for it in the same forms.
type negativeTable [negatives]struct {
	mu             sync.Mutex
	word, low, gen uint64
	hasher         *apikey.Hasher
}

func (n *negativeTable) has(word, low, created uint64, hasher *apikey.Hasher) bool {
	s := &n[word%negatives]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.word == word && s.low == low && s.gen == created+1 && s.hasher == hasher
}

// put takes the count of creations noted before the look-up.
func (n *negativeTable) put(word, low, created uint64, hasher *apikey.Hasher) {
	s := &n[word%negatives]
	s.mu.Lock()
	s.word, s.low, s.gen, s.hasher = word, low, created+1, hasher // never 0: the zero slot matches nothing
	s.mu.Unlock()
}

// fillFilter builds the filter of all digests anew, beside the running gateway: until
// it is done the old one answers, and what is created meanwhile goes into both.
func (g *Gateway) fillFilter(ctx context.Context) error {
	n, err := g.store.CountSecrets(ctx)
	if err != nil {
		return err
	}
	distrusted := g.filterGaps.Load()
	f := newFilter(n + n/2)
	g.filling.Store(f)
	defer g.filling.Store(nil)
	err = g.store.Digests(ctx, func(_ string, digest []byte) bool {
		if len(digest) >= 16 {
			f.add(digestWords(digest))
		}
		return ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	g.filterMu.Lock()
	defer g.filterMu.Unlock()
	if g.filterGaps.Load() != distrusted {
		// A digest was stored meanwhile that could not be learnt. Whoever said so has asked
		// for another filling.
		return nil
	}
	g.filter.Store(f)
	return nil
}

// addToFilter puts digests into the filter, and into the one being filled. It reports
// whether the filter has grown past its capacity.
func (g *Gateway) addToFilter(digests [][]byte) (full bool) {
	for _, p := range []*atomic.Pointer[filter]{&g.filling, &g.filter} {
		f := p.Load()
		if f == nil {
			continue
		}
		for _, d := range digests {
			if len(d) >= 16 {
				f.add(digestWords(d))
			}
		}
		full = f.added.Load() > f.capacity
	}
	return full
}
