package gateway

import (
	"context"
	"testing"
)

// wrapped is a store around another, as one that is opened later.
type wrapped struct{ Store }

func (w wrapped) Unwrap() Store { return w.Store }

// bulkStore returns digests in bulk.
type bulkStore struct{ Store }

func (bulkStore) DigestsOf(context.Context, string, []string) ([][]byte, error) { return nil, nil }

// What only some stores can do is found behind those that wrap them.
func TestAbility(t *testing.T) {
	for _, tt := range []struct {
		name  string
		store Store
		want  bool
	}{
		{"itself", bulkStore{}, true},
		{"wrapped", wrapped{bulkStore{}}, true},
		{"wrapped twice", wrapped{wrapped{bulkStore{}}}, true},
		{"hidden", struct{ Store }{bulkStore{}}, false},
		{"around nothing", wrapped{}, false},
		{"none", nil, false},
	} {
		if _, ok := ability[bulkDigests](tt.store); ok != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, ok, tt.want)
		}
	}
}
