package gateway

import (
	"math/bits"
	"sync/atomic"
)

// filter is a Bloom filter of the stored digests: "no" is certain, "yes" means ask the
// store. It lets a flood of unknown keys be refused without a look-up, and so without
// rationing look-ups, which would hit the holders of valid keys too.
//
// One 512-bit block per digest, eight bits of it, as in "Cache-, Hash- and
// Space-Efficient Bloom Filters" (Putze, Sanders, Singler, 2007): one cache line per
// test. Digests are uniformly random already, so their bytes serve as hashes. At 12
// bits a digest about 0.7 % of unknown digests get a "yes".
type filter struct {
	blocks []filterBlock
	// added counts digests put in; beyond capacity the error rate grows.
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

// link puts a digest in, by its first two words. Safe beside has and other adds.
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

// has says whether a digest may have been put in; false is certain. It does not allocate.
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
