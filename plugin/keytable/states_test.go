package keytable

import (
	"hash/maphash"
	"math/rand/v2"
	"strconv"
	"testing"
)

// TestStatesEqualsMap checks that the set holds the same states as a map after the same random changes.
func TestStatesEqualsMap(t *testing.T) {
	seed := maphash.MakeSeed()
	for _, ids := range []int{1, 3, 40, 2000} {
		var set states[KeyState, *KeyState]
		want := map[ID]*KeyState{}
		r := rand.New(rand.NewPCG(1, uint64(ids)))
		for step := range 20_000 {
			id := ID{"default", strconv.Itoa(r.IntN(ids))}
			hash := maphash.Comparable(seed, id)
			if got := set.find(hash, id); got != want[id] {
				t.Fatalf("%d ids, step %d: found %v, want %v", ids, step, got, want[id])
			}
			// For 2000 steps more states are added than removed, then the reverse, so that the set
			// grows and shrinks.
			if grow := step/2000%2 == 0; r.IntN(4) == 0 != grow {
				if want[id] == nil {
					want[id] = &KeyState{ID: id}
					set.add(seed, hash, want[id])
				}
			} else {
				set.remove(seed, id)
				delete(want, id)
			}
			if set.n != len(want) {
				t.Fatalf("%d ids, step %d: holds %d states, want %d", ids, step, set.n, len(want))
			}
		}
		n := 0
		set.all(func(k *KeyState) {
			if want[k.ID] != k {
				t.Errorf("%v is not in the map", k.ID)
			}
			n++
		})
		if n != len(want) {
			t.Errorf("all called f %d times, want %d", n, len(want))
		}
		for id := range want {
			set.remove(seed, id)
		}
		if set.n != 0 || set.slots != nil {
			t.Errorf("the empty set has %d slots", len(set.slots))
		}
	}
}
