package keytable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

const (
	// loadTimeout bounds one load, however many requests wait for it.
	loadTimeout = 2 * time.Second
	// concurrentLoads bounds the look-ups that run at the same time.
	concurrentLoads = 16
	// loadTries bounds how often a load is repeated because something changed while it
	// read. Changes to other keys of the same shard count too, so it is generous.
	loadTries = 20
	// negatives is how many unknown digests are remembered, over all keyspaces.
	negatives = 1 << 14
)

// ErrUnknown means that no key has the presented secret: an answer, not a failure.
var ErrUnknown = errors.New("unknown key")

// digestWords returns the digest's first two words: the cache key, and a second one that is
// independent of it.
func digestWords(d []byte) (uint64, uint64) {
	return binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
}

// loader reads entries from the store by single flight: concurrent requests for one key share
// one look-up. golang.org/x/sync/singleflight would need the key as a string and cannot leave
// a flight when a context ends.
type loader struct {
	mu      sync.Mutex
	flights map[flightID]*flight
	// slots bounds the look-ups that run at the same time.
	slots chan struct{}
	// unknown remembers digests that the store does not have although the filter let them pass.
	unknown negativeTable
}

type flightID struct {
	word     uint64
	keyspace string
	// hasher determines the forms in which the key is looked up: a key that is unknown in the
	// forms of one configuration may be known in those of another.
	hasher *apikey.Hasher
}

// flight is one look-up. entry and err are set when done is closed.
type flight struct {
	digest apikey.Digest
	done   chan struct{}
	entry  *Entry
	err    error
}

func newLoader() *loader {
	return &loader{flights: map[flightID]*flight{}, slots: make(chan struct{}, concurrentLoads)}
}

// Load reads the current entry of a presented key, which Get did not find, from the store.
// Concurrent calls for one key share one look-up. Blocks within ctx. Errors: ErrUnknown, or one
// that wraps ErrStore.
func (t *Table) Load(ctx context.Context, q *Query, digest apikey.Digest) (*Entry, error) {
	word, low := digestWords(digest[:])
	word ^= q.Salt
	var buf [8]apikey.Candidate
	candidates := q.Hasher.Candidates(buf[:0], q.Credential)
	hints := t.hints(q.Grammar, q.Credential)
	if !q.AskStore {
		if len(hints) == 0 && !t.mayExist(candidates) {
			return nil, ErrUnknown
		}
		if t.loads.unknown.has(word, low, t.creations.Load(), q.Hasher) {
			return nil, ErrUnknown
		}
	}
	id := flightID{word, q.Keyspace, q.Hasher}
	for {
		t.loads.mu.Lock()
		c := t.loads.flights[id]
		if c == nil {
			c = &flight{digest: digest, done: make(chan struct{})}
			t.loads.flights[id] = c
			t.loads.mu.Unlock()
			// The load does not use ctx, because other callers wait for the same load. They must not fail when this caller gives up.
			go t.runLoad(id, c, t.newKeyQuery(q, candidates, hints))
		} else {
			t.loads.mu.Unlock()
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrStore, ctx.Err())
		}
		switch {
		case c.digest != digest:
			continue // The look-up belonged to another key whose digest has the same first word, and has ended.
		case c.err != nil:
			return nil, c.err
		case c.entry.Current():
			return c.entry, nil
		}
		// The key changed after it was loaded, so it is loaded again. The loop ends, because each round needs another change.
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrStore, err)
		}
	}
}

// runLoad does one load and wakes the requests that wait for it.
func (t *Table) runLoad(id flightID, c *flight, s keyQuery) {
	c.entry, c.err = t.lookupOrCompare(id, c.digest, s)
	switch {
	case c.err == nil:
		t.cache.set(id.word, c.entry)
	case !errors.Is(c.err, ErrUnknown) && !errors.Is(c.err, errBusy):
		t.health.ReadFailed("looking up a key", c.err)
	}
	t.loads.mu.Lock()
	delete(t.loads.flights, id)
	t.loads.mu.Unlock()
	close(c.done)
}

// load reads the record of the key that has one of the candidate digests. If the store holds the secret in an old form,
// load queues a rewrite to the present form.
func (t *Table) load(ctx context.Context, keyspace string, digest apikey.Digest, candidates []apikey.Candidate, shown shownParts) (*Entry, error) {
	e, rec, err := t.readRecord(ctx, digest, func() (*Record, error) { return t.store.Lookup(ctx, keyspace, candidates) })
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
		t.queueRewrite(r)
	}
	return e, nil
}

// reload reads the record of e's secret again, by the id of the secret, in whatever form the secret is stored now.
func (t *Table) reload(ctx context.Context, e *Entry) (*Entry, error) {
	now, _, err := t.readRecord(ctx, e.digest, func() (*Record, error) { return t.store.LookupSecret(ctx, e.Keyspace(), e.SecretID) })
	return now, err
}

// readRecord calls ask, again and again while something changes during the read, and makes an
// entry of the record.
func (t *Table) readRecord(ctx context.Context, digest apikey.Digest, ask func() (*Record, error)) (*Entry, *Record, error) {
	select {
	case t.loads.slots <- struct{}{}:
		defer func() { <-t.loads.slots }()
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("%w: too many look-ups at once", ErrStore)
	}
	var gens generations
	for range loadTries {
		t.snapshot(&gens)
		rec, err := ask()
		if errors.Is(err, ErrNotFound) {
			return nil, nil, ErrUnknown
		}
		if err != nil {
			return nil, nil, err
		}
		t.health.ReadWorked()
		if e := t.admit(&gens, digest, rec); e != nil {
			return e, rec, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: the key kept changing while it was read", ErrStore)
}

// mayExist reports whether any stored digest may be one of candidates; false is certain.
func (t *Table) mayExist(candidates []apikey.Candidate) bool {
	f := t.filter.Load()
	if f == nil {
		return true // the filter is still being filled
	}
	for i := range candidates {
		if f.has(digestWords(candidates[i].Digest[:])) {
			return true
		}
	}
	return false
}

// negativeTable remembers unknown digests in a fixed array, in which newer digests overwrite older ones. A digest counts as
// unknown only as long as no key was created since, and only for look-ups with the same Hasher.
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

// put remembers a digest as unknown. created is the count of creations before the look-up.
func (n *negativeTable) put(word, low, created uint64, hasher *apikey.Hasher) {
	s := &n[word%negatives]
	s.mu.Lock()
	s.word, s.low, s.gen, s.hasher = word, low, created+1, hasher // gen is never 0. So a slot that was never used matches no digest.
	s.mu.Unlock()
}
