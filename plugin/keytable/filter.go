package keytable

import (
	"context"
	"errors"
	"math/bits"
	"sync/atomic"
	"time"
)

// filter is a Bloom filter of the stored digests. If it reports that it lacks a digest, the store lacks the digest too;
// otherwise the store is asked. With the filter, a flood of unknown keys is rejected without look-ups. Without it, look-ups
// would have to be rationed, and holders of valid keys would have to wait.
//
// Each digest sets eight bits of one 512-bit block, so that a test reads one cache line, as in
// "Cache-, Hash- and Space-Efficient Bloom Filters" (Putze, Sanders, Singler, 2007). Digests are
// uniformly random already, so their bytes serve as hashes. With 12 bits for each stored digest, the filter lets about
// 0.7 % of the unknown digests pass.
type filter struct {
	blocks []filterBlock
	// added counts the digests; beyond capacity the error rate grows.
	added    atomic.Int64
	capacity int64
}

type filterBlock [8]atomic.Uint64

const filterBitsPerDigest = 12

// newFilter returns an empty filter that keeps its error rate up to capacity digests.
func newFilter(capacity int64) *filter {
	capacity = max(capacity, 4096)
	return &filter{blocks: make([]filterBlock, (capacity*filterBitsPerDigest+511)/512), capacity: capacity}
}

// block returns the digest's block, by multiply-shift of its first word.
func (f *filter) block(hi uint64) *filterBlock {
	i, _ := bits.Mul64(hi, uint64(len(f.blocks)))
	return &f.blocks[i]
}

// add adds a digest, by its first two words. Safe for concurrent use with has and add.
func (f *filter) add(hi, lo uint64) {
	b := f.block(hi)
	for i := range b {
		m := uint64(1) << (lo & 63)
		if b[i].Load()&m == 0 {
			b[i].Or(m)
		}
		lo >>= 6
	}
	f.added.Add(1)
}

// has reports whether a digest may have been added; false is certain. It does not allocate.
func (f *filter) has(hi, lo uint64) bool {
	b := f.block(hi)
	for i := range b {
		if b[i].Load()&(1<<(lo&63)) == 0 {
			return false
		}
		lo >>= 6
	}
	return true
}

// FillFilter fills the filter at the start, and again whenever another fill is requested. It returns when ctx ends.
func (t *Table) FillFilter(ctx context.Context) {
	t.requestRefill()
	for {
		select {
		case <-t.refill:
		case <-ctx.Done():
			return
		}
		if err := t.fillFilter(ctx); err != nil && ctx.Err() == nil {
			t.health.ReadFailed("reading all digests", err)
			select {
			case <-time.After(time.Second):
				t.requestRefill()
			case <-ctx.Done():
				return
			}
		}
	}
}

// FilterReady reports whether unknown keys are recognized without a look-up.
func (t *Table) FilterReady() bool { return t.filter.Load() != nil }

// discardFilter drops the filter, because a digest was stored that the filter may lack. Until the filter is filled again,
// every unknown key is looked up in the store.
func (t *Table) discardFilter() {
	t.filterMu.Lock()
	t.filterGaps.Add(1)
	t.filter.Store(nil)
	t.filterMu.Unlock()
	t.requestRefill()
}

func (t *Table) requestRefill() {
	select {
	case t.refill <- struct{}{}:
	default:
	}
}

// fillFilter builds a new filter of all digests. The old filter is used until the new one is complete. Digests that are
// created meanwhile are added to both filters.
func (t *Table) fillFilter(ctx context.Context) error {
	n, err := t.store.CountSecrets(ctx)
	if err != nil {
		return err
	}
	gaps := t.filterGaps.Load()
	f := newFilter(n + n/2)
	t.filling.Store(f)
	defer t.filling.Store(nil)
	err = t.store.Digests(ctx, func(_ string, digest []byte) bool {
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
	t.filterMu.Lock()
	defer t.filterMu.Unlock()
	if t.filterGaps.Load() != gaps {
		// During the fill, a digest was stored that could not be added. discardFilter has requested another fill.
		return nil
	}
	t.filter.Store(f)
	return nil
}

// addToFilter adds digests to the filter, and to the filter that is being filled. It reports whether the filter holds more
// digests than its capacity.
func (t *Table) addToFilter(digests [][]byte) (full bool) {
	for _, p := range []*atomic.Pointer[filter]{&t.filling, &t.filter} {
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

// digestsOf returns the stored digests of the keys among changes, and the first error.
func (t *Table) digestsOf(ctx context.Context, changes []Change) (digests [][]byte, first error) {
	keys := map[string][]string{} // ids by keyspace
	for _, c := range changes {
		if c.Kind == ChangeKey || c.Kind == ChangeSecret {
			keys[c.Keyspace] = append(keys[c.Keyspace], c.ID)
		}
	}
	for keyspace, ids := range keys {
		d, err := t.store.SecretDigests(ctx, keyspace, ids...)
		if err != nil && !errors.Is(err, ErrNotFound) && first == nil {
			first = err
		}
		digests = append(digests, d...)
	}
	return digests, first
}
