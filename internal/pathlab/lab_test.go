package pathlab

import (
	"slices"
	"testing"
)

func TestHostile(t *testing.T) {
	total := 0
	for _, path := range Targets {
		all := Hostile(path, false)
		if !slices.Equal(all, Hostile(path, false)) {
			t.Errorf("the spellings of %s differ from call to call", path)
		}
		total += len(all)
	}
	if total < 7000 {
		t.Errorf("%d spellings, want 7000 at least", total)
	}
}

func TestHonest(t *testing.T) {
	seen := map[string]string{}
	total := 0
	for _, f := range Honest() {
		for _, p := range f.Paths {
			if other, ok := seen[p]; ok {
				t.Errorf("%s is in two families: %s and %s", p, other, f.Name)
			}
			seen[p] = f.Name
			total++
		}
	}
	if total < 2000 {
		t.Errorf("%d paths, want 2000 at least", total)
	}
}
