package cluster

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// fakeRegistry is a Registry in memory. While down is set, reading it fails.
type fakeRegistry struct {
	mu    sync.Mutex
	nodes []Node
	down  bool
}

func (r *fakeRegistry) ReportNode(_ context.Context, n *Node, staleness Staleness) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	reported := Node{Name: n.Name, Seq: n.Seq, ContactAt: now, Deadline: now.Add(staleness.Longest()), Offsets: staleness.Offsets()}
	r.nodes = append(slices.DeleteFunc(r.nodes, func(o Node) bool { return o.Name == n.Name }), reported)
	return nil
}

func (r *fakeRegistry) RemoveNode(context.Context, string, string) error { return nil }

func (r *fakeRegistry) Nodes(context.Context) ([]Node, time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, time.Time{}, fmt.Errorf("%w: failed by the test", gateway.ErrStore)
	}
	return slices.Clone(r.nodes), time.Now(), nil
}

func (r *fakeRegistry) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// report reports a node that has applied seq and accepts keys for a minute.
func (r *fakeRegistry) report(name string, seq int64) {
	_ = r.ReportNode(context.Background(), &Node{Name: name, Seq: seq}, Staleness{Default: time.Minute})
}

// inCluster runs f with a member named a and its registry, on a fake clock.
func inCluster(t *testing.T, f func(t *testing.T, a *Member, r *fakeRegistry)) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRegistry{}
		a := testkit.Must[*Member](t)(New(Options{Options: gateway.Options{Node: "a"}, Registry: r}))
		defer a.Close(t.Context())
		f(t, a, r)
	})
}

// pending returns the names of the nodes that have not confirmed.
func (c Confirmation) pending() (names []string) {
	for _, p := range c.Pending {
		names = append(names, p.Name)
	}
	return names
}

// While the registry is unreachable, Confirm names the nodes of the last read list, with deadlines
// as if they had reported just now.
func TestPendingNodesWhileUnreachable(t *testing.T) {
	inCluster(t, func(t *testing.T, a *Member, r *fakeRegistry) {
		r.setDown(true)
		got := a.Confirm(t.Context(), "default", math.MaxInt64, 0)
		if len(got.Pending) != 1 || got.Pending[0].Name != AnyOther || !got.Pending[0].Deadline.IsZero() {
			t.Errorf("without a list of nodes: %+v", got)
		}
		r.setDown(false)
		r.report("b", 1)
		a.Confirm(t.Context(), "default", 1, 0)
		if n := a.NodesKnown(); n != 1 {
			t.Fatalf("%d nodes known, not 1", n)
		}
		r.setDown(true)
		time.Sleep(4 * time.Second)
		got = a.Confirm(t.Context(), "default", math.MaxInt64, 0)
		if len(got.Pending) != 1 || got.Pending[0].Name != "b" {
			t.Fatalf("after the list was read: %+v", got)
		}
		// b may have reported since, so its deadline is a minute from now.
		if d := time.Until(got.Pending[0].Deadline); d != time.Minute {
			t.Errorf("b stops in %v, not in a minute", d)
		}
	})
}

// Confirm waits for a node that reports, until that node has applied the change or the wait is over.
func TestConfirmWaits(t *testing.T) {
	inCluster(t, func(t *testing.T, a *Member, r *fakeRegistry) {
		r.report("b", 4)
		begun := time.Now()
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); !slices.Equal(got.pending(), []string{"b"}) {
			t.Errorf("b is not pending: %+v", got)
		}
		if d := time.Since(begun); d < 2900*time.Millisecond || d > 3*time.Second {
			t.Errorf("Confirm waited %v instead of 3 s", d)
		}
		time.AfterFunc(300*time.Millisecond, func() { r.report("b", 5) })
		begun = time.Now()
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); len(got.Pending) != 0 || !slices.Equal(got.Confirmed, []string{"a", "b"}) {
			t.Errorf("b has not confirmed: %+v", got)
		}
		if d := time.Since(begun); d < 300*time.Millisecond || d > 400*time.Millisecond {
			t.Errorf("Confirm returned %v after the call, b reported after 300 ms", d)
		}
	})
}

// Confirm does not wait for a node without recent reports, and does not list it once its deadline
// has passed. While the registry has only just recovered, old reports mean nothing.
func TestConfirmSkipsUnresponsiveNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, a *Member, r *fakeRegistry) {
		time.Sleep(2 * unresponsiveAfter)
		r.report("b", 4)
		time.Sleep(unresponsiveAfter)
		begun := time.Now()
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); !slices.Equal(got.pending(), []string{"b"}) || time.Since(begun) > 0 {
			t.Errorf("an unresponsive node: %+v after %v", got, time.Since(begun))
		}
		a.membership.markFailing()
		if a.Confirm(t.Context(), "default", 5, 3*time.Second); time.Since(begun) < 2900*time.Millisecond {
			t.Errorf("after a failed report, Confirm waited %v instead of 3 s", time.Since(begun))
		}
		time.Sleep(time.Minute)
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); len(got.Pending) != 0 {
			t.Errorf("a node whose deadline has passed is pending: %+v", got)
		}
	})
}
