package gateway

import "testing"

// wrapped is a store around another, as one that is opened later.
type wrapped struct{ Store }

func (w wrapped) Unwrap() Store { return w.Store }

// mirrorStore is a store with an ability.
type mirrorStore struct {
	Store
	Mirror
}

// What only some stores can do is found behind those that wrap them.
func TestAbility(t *testing.T) {
	for _, tt := range []struct {
		name  string
		store Store
		want  bool
	}{
		{"itself", mirrorStore{}, true},
		{"wrapped", wrapped{mirrorStore{}}, true},
		{"wrapped twice", wrapped{wrapped{mirrorStore{}}}, true},
		{"hidden", struct{ Store }{mirrorStore{}}, false},
		{"around nothing", wrapped{}, false},
		{"none", nil, false},
	} {
		if _, ok := ability[Mirror](tt.store); ok != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, ok, tt.want)
		}
	}
}
