package management_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/management"
)

// asked counts how often it is asked who acts by a change: each time may take as long as a caller waits.
type asked struct {
	management.Engine
	times int
}

func (e *asked) Confirm(ctx context.Context, keyspace string, seq int64, wait time.Duration) cluster.Confirmation {
	e.times++
	return e.Engine.Confirm(ctx, keyspace, seq, wait)
}

// It is noted who acts by a change, also by one that was made before, and asked once.
func TestConfirmedOnce(t *testing.T) {
	w := newWorld(t)
	w.tenant("acme", "free")
	k := w.key("acme")
	e := &asked{Engine: w.gw}
	m := management.New(management.Config{Store: w.store, Engine: e, View: w.current})
	for _, what := range []string{"a revocation", "the same again"} {
		e.times = 0
		noting, where := management.WithConfirmed(ctx)
		r, err := m.RevokeKey(noting, ada, "", k.ID)
		if err != nil || !slices.Equal(r.Confirmed, []string{"n1"}) || !slices.Equal(where.Confirmed, r.Confirmed) || e.times != 1 {
			t.Errorf("%s: %+v, %v; noted %+v; asked %d times", what, r, err, where, e.times)
		}
	}
	e.times = 0
	if r, err := m.RevokeKey(ctx, ada, "", k.ID); err != nil || !slices.Equal(r.Confirmed, []string{"n1"}) || e.times != 1 {
		t.Errorf("where nothing is noted: %+v, %v; asked %d times", r, err, e.times)
	}
}
