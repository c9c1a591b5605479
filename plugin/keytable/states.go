package keytable

import "hash/maphash"

// states is the set of one shard's states of keys or tenants, by id. The lock of the shard guards it. A map would hold each
// id a second time, and take five times the memory; with a hundred thousand keys in use that matters. The set uses open
// addressing with linear probing and backward shift deletion (Knuth, The Art of Computer Programming, volume 3, section
// 6.4, algorithm R).
type states[S any, P identified[S]] struct {
	// slots has a power of two elements, or none. At least a quarter of them is nil.
	slots []*S
	n     int
}

// identified is a pointer to a state that has an id.
type identified[S any] interface {
	*S
	// name returns the state's id, which never changes.
	name() *ID
}

const minStates = 8

// home returns the slot at which the search for an id begins. It skips the lowest bits of the
// hash, which have chosen the shard.
func home(hash uint64, slots int) int { return int(hash/registryShards) & (slots - 1) }

func (t *states[S, P]) find(hash uint64, id ID) *S {
	if t.n == 0 {
		return nil
	}
	for i := home(hash, len(t.slots)); ; i = (i + 1) & (len(t.slots) - 1) {
		s := t.slots[i]
		if s == nil || *P(s).name() == id {
			return s
		}
	}
}

// add adds a state that is not in the set.
func (t *states[S, P]) add(seed maphash.Seed, hash uint64, s *S) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.resize(seed, max(2*len(t.slots), minStates))
	}
	t.n++
	t.put(hash, s)
}

func (t *states[S, P]) put(hash uint64, s *S) {
	i := home(hash, len(t.slots))
	for t.slots[i] != nil {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = s
}

// remove removes the state of an id, if the set has it.
func (t *states[S, P]) remove(seed maphash.Seed, id ID) {
	if t.n == 0 {
		return
	}
	mask := len(t.slots) - 1
	i := home(maphash.Comparable(seed, id), len(t.slots))
	for ; t.slots[i] == nil || *P(t.slots[i]).name() != id; i = (i + 1) & mask {
		if t.slots[i] == nil {
			return
		}
	}
	// The removal leaves a gap at i, and a search stops at a gap. So a later state whose search begins at or before the gap
	// moves into the gap.
	for j := (i + 1) & mask; t.slots[j] != nil; j = (j + 1) & mask {
		at := home(maphash.Comparable(seed, *P(t.slots[j]).name()), len(t.slots))
		if (j-at)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = nil
	if t.n--; t.n == 0 {
		t.slots = nil
	} else if len(t.slots) > minStates && 8*t.n < len(t.slots) {
		t.resize(seed, len(t.slots)/2)
	}
}

func (t *states[S, P]) resize(seed maphash.Seed, slots int) {
	old := t.slots
	t.slots = make([]*S, slots)
	for _, s := range old {
		if s != nil {
			t.put(maphash.Comparable(seed, *P(s).name()), s)
		}
	}
}

// all calls f with each state. The set must not change meanwhile.
func (t *states[S, P]) all(f func(*S)) {
	for _, s := range t.slots {
		if s != nil {
			f(s)
		}
	}
}
