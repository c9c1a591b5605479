package management_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/management"
)

// countingEngine counts the calls of Confirm, since each of them may take as long as a caller
// waits.
type countingEngine struct {
	management.Engine
	times int
}

func (e *countingEngine) Confirm(ctx context.Context, keyspace string, seq int64, wait time.Duration) cluster.Confirmation {
	e.times++
	return e.Engine.Confirm(ctx, keyspace, seq, wait)
}

// TestConfirmedOnce proves that a call asks once for the nodes that confirmed its change, even if
// another call made the change before.
func TestConfirmedOnce(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	k := w.key("acme")
	e := &countingEngine{Engine: w.gw}
	m := management.New(management.Config{Store: w.store, Engine: e, View: w.current})
	for _, what := range []string{"a revocation", "the same again"} {
		e.times = 0
		confirmed, where := management.WithConfirmed(ctx)
		r, err := m.RevokeKey(confirmed, ada, "", k.ID)
		if err != nil || !slices.Equal(r.Confirmed, []string{"n1"}) || !slices.Equal(where.Confirmed, r.Confirmed) || e.times != 1 {
			t.Errorf("%s: %+v, %v; confirmation %+v; %d calls of Confirm", what, r, err, where, e.times)
		}
	}
	e.times = 0
	if r, err := m.RevokeKey(ctx, ada, "", k.ID); err != nil || !slices.Equal(r.Confirmed, []string{"n1"}) || e.times != 1 {
		t.Errorf("without WithConfirmed: %+v, %v; %d calls of Confirm", r, err, e.times)
	}
}
