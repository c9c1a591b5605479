package cluster

import (
	"testing"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// wrapped is a store that wraps another store, such as a store that is opened later.
type wrapped struct{ gateway.Store }

func (w wrapped) Unwrap() gateway.Store { return w.Store }

// mirrorStore is a store that implements Mirror.
type mirrorStore struct {
	gateway.Store
	Mirror
}

// TestAbility checks that ability finds an optional interface behind stores that wrap another store.
func TestAbility(t *testing.T) {
	for _, tt := range []struct {
		name  string
		store gateway.Store
		want  bool
	}{
		{"itself", mirrorStore{}, true},
		{"wrapped", wrapped{mirrorStore{}}, true},
		{"wrapped twice", wrapped{wrapped{mirrorStore{}}}, true},
		{"hidden", struct{ gateway.Store }{mirrorStore{}}, false},
		{"around nothing", wrapped{}, false},
		{"none", nil, false},
	} {
		if _, ok := ability[Mirror](tt.store); ok != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, ok, tt.want)
		}
	}
}
